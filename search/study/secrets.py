"""Secrets are masked before a study's settings leave the machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# scheme://user:password@host. The user stays; a password may itself hold '@', so the last one before the path ends it.
_URL_PASSWORD = re.compile(r"(?P<start>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:)[^\s/]*(?=@)")
_SECRET_NAME = r"(?:password|passwd|pwd|secret|token|api_?key|access_?key|sslpassword)"
_QUERY = re.compile(rf"(?P<start>[?&;][\w.-]*{_SECRET_NAME}=)[^&;\s#]*", re.IGNORECASE)
_KEY = re.compile(rf"(?:^|[_.-]){_SECRET_NAME}$", re.IGNORECASE)


def mask_secrets(data: Any) -> Any:
    """The same plain data with passwords in URLs and values under secret names (password, token ...) masked."""
    if isinstance(data, str):
        return _QUERY.sub(rf"\g<start>{MASK}", _URL_PASSWORD.sub(rf"\g<start>{MASK}", data))
    if isinstance(data, Mapping):
        return {
            key: MASK if value and isinstance(value, str) and _KEY.search(str(key)) else mask_secrets(value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [mask_secrets(value) for value in data]
    return data
