"""`make licences`: docs/licences.md, from what the installed packages say of themselves. tests/test_licences.py holds it true."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parent.parent / "docs" / "licences.md"
WORDS = {  # what packages write that have no SPDX expression
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "ISC License": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
FREE = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "LLVM-exception",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "PSF-2.0",
    "Zlib",
}
WEAK = {  # copyleft of the package's own files, used unchanged and as it is installed
    "certifi": "MPL-2.0",
    "hypothesis": "MPL-2.0",
    "pathspec": "MPL-2.0",
    "tqdm": "MPL-2.0",
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
}
GROUPS = {
    "What every study needs": (),
    "More, for the extras demo, dashboard and postgres": ("demo", "dashboard", "postgres"),
    "More, to develop (dev)": ("dev",),
}
OPENING = """# Licences of what distilsearch installs

Made by `make licences` from what the packages say of themselves, for the processor's build of torch on Linux; a CUDA build
brings NVIDIA's libraries under NVIDIA's own licence. Nothing of these packages is copied into distilsearch. MPL-2.0 (certifi,
tqdm; to develop hypothesis, pathspec) and LGPL-3.0 (psycopg, with the extra `postgres` alone) bind who changes those packages,
not who uses them. `tests/test_licences.py` fails where a package comes in whose licence is unknown or another copyleft.
"""


def licence_of(found: Distribution) -> str:
    """Its SPDX expression, or the nearest to it; empty where it says none."""
    meta = found.metadata
    if expression := meta.get("License-Expression"):
        return str(expression)
    lines = str(meta.get("License") or "").strip().splitlines()
    said = [line for line in lines if len(lines) == 1 and len(line) < 40]
    classified = [
        line.rpartition(" :: ")[2] for line in meta.get_all("Classifier") or () if line.startswith("License ::")
    ]
    said += [each for each in classified if each != "DFSG approved"]
    return WORDS.get(said[0], said[0]) if said else ""


def needed(extras: tuple[str, ...]) -> dict[str, str]:
    """Packages that distilsearch with these extras installs here, with their licences; without what is not installed."""
    found: dict[str, str] = {}
    left, seen = [("distilsearch", extras)], set[tuple[str, tuple[str, ...]]]()
    while left:
        name, wanted = left.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if name != "distilsearch":
            found[name] = licence_of(package)
        for line in package.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *wanted)
            ):
                left.append((canonicalize_name(requirement.name), tuple(sorted(requirement.extras))))
    return found


def page() -> str:
    told: dict[str, str] = {}
    parts = [OPENING]
    for heading, extras in GROUPS.items():
        more = {name: licence for name, licence in needed(extras).items() if name not in told}
        told |= more
        parts.append(
            f"## {heading}\n\n| package | licence |\n|---|---|\n"
            + "".join(f"| {n} | {more[n]} |\n" for n in sorted(more))
        )
    return "\n".join(parts)


def pins() -> list[str]:
    """The lines of constraints.txt that `pip install -e .[dev]` uses, without torch."""
    lines = (PAGE.parent.parent / "constraints.txt").read_text().splitlines()
    used = needed(("dev",)).keys() - {"torch"}
    return [line for line in lines if canonicalize_name(line.partition("==")[0]) in used]


if __name__ == "__main__":
    if sys.argv[1:] == ["pins"]:
        print("\n".join(pins()))
    else:
        PAGE.write_text(page())
