"""`python -m cluster.arrive FOLDER`: the first thing that runs on the other side. It compares versions, reads the secrets that were
named, and becomes `distilsearch run`."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.bundle import versions

REFUSED = 2


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """What is another version than on the submitting side. A local build (2.13.0+cpu) is the same version."""
    return [
        f"{name} is {ours.get(name, 'not installed')} here and {wanted} where the job was submitted"
        for name, wanted in theirs.items()
        if ours.get(name, "").partition("+")[0] != wanted.partition("+")[0]
    ]


def kept(folder: Path, into: Path) -> Path:
    """The bundle where it stays: Ray may remove a job's working directory while the job still runs (as a node joins or leaves), and
    who looks at the study later finds its data there. What is there already, of the same content, is left."""
    for path in sorted(path for path in (folder / "study.yaml", *folder.glob("inputs/**/*")) if path.is_file()):
        target = into / path.relative_to(folder)
        if not (target.is_file() and filecmp.cmp(path, target, shallow=False)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if (folder / "search").is_dir():  # distilsearch itself was sent
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return into


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    told = json.loads((folder / "job.json").read_text("utf-8"))
    found = differences(told["versions"], versions())
    for line in found:
        print(f"versions: {line}", file=sys.stderr)
    if found and told["policy"] == "refuse":
        print("nothing was run; install the same versions, or write versions: warn in the profile", file=sys.stderr)
        sys.exit(REFUSED)
    os.environ.update(told["environment"])
    for name, path in told["secrets"].items():
        try:
            os.environ[name] = Path(path).read_text("utf-8").strip()
        except OSError as error:
            print(f"secrets.{name}: {path} cannot be read: {error.strerror}", file=sys.stderr)
            sys.exit(REFUSED)
    os.environ.setdefault("COLUMNS", "160")
    if "keep_in" in told:
        folder = kept(folder, Path(told["keep_in"]).expanduser())
    os.chdir(folder)
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "search.cli", "run", "study.yaml", *sys.argv[2:]])


if __name__ == "__main__":
    main()
