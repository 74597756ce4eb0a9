"""A study's own Ray takes orders from who has its token, and from nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = """
import os, sys
from search.lanes.token import give_token
give_token()
from search.lanes.quiet import start_ray
start_ray(num_cpus=1)
import ray
@ray.remote
def answer(): return 42
assert ray.get(answer.remote()) == 42
print(os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context().gcs_address, flush=True)
input()
"""
THEIRS = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=20)[:1])
"""


def environment(**changes: str) -> dict[str, str]:
    """Without what the tests' own environment says of Ray."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**plain, "PYTHONPATH": str(ROOT), **changes}


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_who_has_no_token_is_refused(tmp_path: Path) -> None:
    home = str(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", OURS], env=environment(HOME=home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as ours:  # fmt: skip
        try:
            assert ours.stdout is not None
            token, address = ours.stdout.readline().split()
            assert len(token) == 64
            for mode, given, refused in (
                ("disabled", "", True), ("token", "0" * 64, True), ("token", token, False),
            ):  # fmt: skip
                theirs = environment(HOME=home, RAY_AUTH_MODE=mode, **({"RAY_AUTH_TOKEN": given} if given else {}))
                asked = subprocess.run(
                    [sys.executable, "-c", THEIRS, address], env=theirs, capture_output=True, text=True, timeout=60
                )
                assert ("AuthenticationError" in asked.stderr, asked.returncode != 0) == (refused, refused), (
                    asked.stderr
                )
        finally:
            ours.kill()
    assert not list(Path(home).rglob("*token*"))


@pytest.mark.parametrize(
    ("variables", "given"),
    [({}, True), ({"RAY_ADDRESS": "10.0.0.1:6379"}, False), ({"RAY_AUTH_MODE": "disabled"}, False)],
)
def test_a_token_is_given_where_nobody_said_otherwise(variables: dict[str, str], given: bool) -> None:
    code = "import os; from search.lanes.token import give_token; give_token(); print(len(os.environ.get('RAY_AUTH_TOKEN', '')))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(**variables), capture_output=True, text=True)
    assert done.stdout.strip() == ("64" if given else "0")
