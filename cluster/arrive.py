"""`python -m cluster.arrive FOLDER`: the first thing that runs on the other side. It compares versions, reads the secrets that were
named, and becomes `distilsearch run`; with --compare it compares, and that is all."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.bundle import versions

REFUSED = 2
SOURCE = ("search", "spaces", "cluster", "examples")  # distilsearch's own packages


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """What is another version than on the submitting side. A local build (2.13.0+cpu) is the same version."""
    return [
        f"{name} is {ours.get(name, 'not installed')} here and {wanted} where the job was submitted"
        for name, wanted in theirs.items()
        if ours.get(name, "").partition("+")[0] != wanted.partition("+")[0]
    ]


def kept(folder: Path, told: Mapping[str, Any]) -> Path:
    """What was sent, where it stays: Ray may remove a job's folders while the job still runs (as a node joins or leaves), and who
    looks at the study later finds its data there. What is there already, of the same content, is left."""
    into = Path(told["keep_in"]).expanduser()
    for name in ("study.yaml", *told["inputs"]):
        path, target = found(name, folder), into / name
        if not (target.is_file() and filecmp.cmp(path, target, shallow=False)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if told["code_is_sent"]:
        shutil.rmtree(into / "code", ignore_errors=True)
        metadata = next(path for entry in sys.path for path in Path(entry).glob("distilsearch-*.dist-info"))
        for path in (*(found(name, folder) for name in SOURCE), metadata):
            shutil.copytree(path, into / "code" / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(into / "code"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        )
    return into


def found(name: str, folder: Path) -> Path:
    """Of what was sent: in the job's folder, or in one of those that Python looks into."""
    return next(path for path in (folder / name, *(Path(entry) / name for entry in sys.path)) if path.exists())


def main() -> None:
    only_compare = sys.argv[1] == "--compare"
    folder = Path(sys.argv[1 + only_compare]).resolve()
    told = json.loads((folder / "job.json").read_text("utf-8"))
    differing = differences(told["versions"], versions())
    for line in differing:
        print(f"versions: {line}", file=sys.stderr)
    if differing and told["policy"] == "refuse":
        print("nothing was run; install the same versions, or write versions: warn in the profile", file=sys.stderr)
        sys.exit(REFUSED)
    if only_compare:
        return
    os.environ.update(told["environment"])
    for name, path in told["secrets"].items():
        try:
            os.environ[name] = Path(path).read_text("utf-8").strip()
        except OSError as error:
            print(f"secrets.{name}: {path} cannot be read: {error.strerror}", file=sys.stderr)
            sys.exit(REFUSED)
    os.environ.setdefault("COLUMNS", "160")
    if "keep_in" in told:
        try:
            folder = kept(folder, told)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print(f"output: {where}cannot be written by the driver: {error.strerror}; nothing was run", file=sys.stderr)
            sys.exit(REFUSED)
    os.chdir(folder)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "search.cli", "run", "study.yaml", *sys.argv[2:]])


if __name__ == "__main__":
    main()
