"""`python -m cluster.pack OUTPUT`: what a study left, as text on stdout; `unpack`: a folder again, here. For a place that can be
reached by a job's log alone."""

from __future__ import annotations

import base64
import io
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

from cluster.collect import copy_output
from spaces.errors import StudyError

START, END = "-----BEGIN OUTPUT-----", "-----END OUTPUT-----"
LIMIT_BYTES = 500_000_000
UNPACKED_BYTES = 20 * LIMIT_BYTES  # weights hardly shrink: an archive of more was made to fill a disk


def unpack(text: str, output: str, folder: Path) -> None:
    """What a log says between the marks, into an empty folder. Raises StudyError for what is no archive of ours; nothing is written
    outside the folder."""
    packed, whole, _ = text.partition(START)[2].partition(END)
    if not whole:
        raise StudyError(f"{output} could not be fetched: it did not come whole; try again")
    try:
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed)), mode="r:gz") as archive:
            if sum(member.size for member in archive) > UNPACKED_BYTES:
                raise StudyError(
                    f"{output} would unpack to more than {UNPACKED_BYTES / 1e9:.0f} GB; copy it from there"
                )
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        raise StudyError(f"{output} could not be unpacked into {folder}: {error}") from None


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
