"""`python -m cluster.pack OUTPUT`: what a study left, as text on stdout. For a place that can be reached by a job's log alone."""

from __future__ import annotations

import base64
import sys
import tarfile
import tempfile
from pathlib import Path

from cluster.collect import copy_output
from spaces.errors import StudyError

START, END = "-----BEGIN OUTPUT-----", "-----END OUTPUT-----"
LIMIT_BYTES = 500_000_000


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, archive = Path(scratch) / "output", Path(scratch) / "output.tar.gz"
        try:
            copy_output(Path(sys.argv[1]), folder)
        except StudyError as error:
            sys.exit(str(error))
        with tarfile.open(archive, "w:gz", compresslevel=3) as packed:
            packed.add(folder, arcname=".")
        if archive.stat().st_size > LIMIT_BYTES:
            size = archive.stat().st_size / 1e6
            sys.exit(f"{sys.argv[1]} is {size:.0f} MB, too large to be fetched this way; copy it from there")
        print(START)
        with open(archive, "rb") as file:
            while block := file.read(57 * 1000):
                print(base64.b64encode(block).decode())
        print(END)


if __name__ == "__main__":
    main()
