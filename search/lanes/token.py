"""The token of a study's own Ray: other users of the machine reach loopback, too, and who has no token is refused there."""

from __future__ import annotations

import os
import secrets
import sys


def give_token() -> None:
    """Gives the Ray that this process will start a random token, in no file; Ray reads it from the environment when it is imported.

    Nothing is done where a cluster is to be joined, where RAY_AUTH_MODE says what is wanted, or once Ray is imported: whoever
    imports this as a library calls it first, or sets both variables.
    """
    if "ray" in sys.modules or os.environ.get("RAY_ADDRESS") or "RAY_AUTH_MODE" in os.environ:
        return
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
