"""docs/clusters/walkthrough.md, as a reader pastes it: every block, in order, in one shell."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "clusters" / "walkthrough.md"


def script() -> str:
    return "\n".join(block.split("```")[0] for block in PAGE.read_text().split("```bash\n")[1:])


def test_the_page_is_a_script_that_a_shell_reads() -> None:
    assert script().count("node ") >= 5
    read = subprocess.run(["bash", "-n"], input=script(), capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_goes_as_it_says(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory(prefix="ds-", dir="/tmp") as folder:  # a short path, for Ray's sockets
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(root),
            "HOME": str(tmp_path),
            "RAY_FOLDER": folder,
        }
        shell = subprocess.Popen(
            ["bash", "-e", "-o", "pipefail"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=tmp_path, env=environment, start_new_session=True,
        )  # fmt: skip
        said, _ = shell.communicate("trap 'kill -KILL $(jobs -p | sed s/^/-/) 2>/dev/null || true' EXIT\n" + script())
        print(said)
    assert shell.returncode == 0, said
    assert "succeeded" in said
    assert (tmp_path / "walkthrough" / "fetched" / "report.html").is_file()
