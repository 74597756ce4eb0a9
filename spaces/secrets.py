"""Secrets are masked in whatever leaves this process: files, messages, errors on their way from a worker."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# scheme://user:password@host. The user stays; a password may itself hold '@', so the last one before the path ends it.
_URL_PASSWORD = re.compile(r"(?P<start>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:)[^\s/]*(?=@)")
# A database's may hold '/' as well, and SQLAlchemy takes it; another URL's path may hold '@'.
_DATABASE_PASSWORD = re.compile(
    r"(?P<start>\b(?:postgres|postgresql|mysql|mariadb|oracle|mssql|redis)(?:\+\w+)?://[^\s/:@]*:)\S*(?=@)"
)
_SECRET_NAME = r"(?:password|passwd|pwd|secret|token|api_?key|access_?key|sslpassword)"
_QUERY = re.compile(rf"(?P<start>[?&;][\w.-]*{_SECRET_NAME}=)[^&;\s#]*", re.IGNORECASE)
_KEY = re.compile(rf"(?:^|[_.-]){_SECRET_NAME}$", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_ENVIRONMENT = re.compile(rf"{_SECRET_NAME}$", re.IGNORECASE)  # PGPASSWORD has no underscore
NO_SECRETS = {"PWD", "OLDPWD"}
SHORTEST = 8  # characters: a shorter value of the environment is a word that may stand anywhere


def mask_secrets(data: Any) -> Any:
    """The same plain data with passwords in URLs, values under secret names (password, token ...), hub tokens, and the values of
    the environment's secrets (WANDB_API_KEY, HF_TOKEN ...) masked wherever they stand."""
    return _mask(data, _known())


def _known() -> list[str]:
    """The values of this environment's secrets, longest first."""
    named = {value for name, value in os.environ.items() if _ENVIRONMENT.search(name) and name not in NO_SECRETS}
    values = {value for value in named if len(value) >= SHORTEST}
    return sorted(values, key=len, reverse=True)


def _mask(data: Any, known: list[str]) -> Any:
    if isinstance(data, str):
        for value in known:
            data = data.replace(value, MASK)
        data = _HUB_TOKEN.sub(MASK, data)
        for pattern in (_DATABASE_PASSWORD, _URL_PASSWORD, _QUERY):
            data = pattern.sub(rf"\g<start>{MASK}", data)
        return data
    if isinstance(data, Mapping):
        return {
            key: MASK if value and isinstance(value, str) and _KEY.search(str(key)) else _mask(value, known)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [_mask(value, known) for value in data]
    return data
