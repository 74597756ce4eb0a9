"""Functions named in text: "package.module:function", or "path/to/file.py:function" for one beside a study."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


@functools.cache
def function_named(path: str) -> Callable[..., Any]:
    """Imports what the path names. Raises whatever that raises: ImportError, AttributeError, or the module's own."""
    module_name, _, function = path.rpartition(":")
    if not module_name.endswith(".py"):
        return getattr(importlib.import_module(module_name), function)
    spec = importlib.util.spec_from_file_location("study_functions", module_name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)
