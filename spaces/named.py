"""Functions named in text: "package.module:function", or "path/to/file.py:function" for one beside a study."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any

from spaces.errors import Fault

IMPORT_PATH = r"^[^:]+:[A-Za-z_]\w*$"  # module:function or file.py:function


@functools.cache
def function_named(path: str) -> Callable[..., Any]:
    """Imports what the path names. Raises whatever that raises: ImportError, AttributeError, or the module's own."""
    module_name, _, function = path.rpartition(":")
    if not module_name.endswith(".py"):
        return getattr(importlib.import_module(module_name), function)
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, module_name)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[module_name] = importlib.util.module_from_spec(spec)  # first: dataclasses look there for their own
        try:
            spec.loader.exec_module(sys.modules[module_name])
        except BaseException:
            del sys.modules[module_name]
            raise
    return getattr(sys.modules[module_name], function)


def all_named(
    own: Mapping[str, str], key: str, fault_of: Callable[[str, str, Any], str]
) -> tuple[dict[str, Any], list[Fault]]:
    """What a study names under `key` (name -> path), imported, and what is wrong with the rest; `fault_of` says of a
    name, its path and what was imported what is wrong, or nothing."""
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, path in own.items():
        try:
            value = function_named(path)
        except Exception as error:
            problem = f"{path} cannot be imported: {type(error).__name__}: {error}"
        else:
            problem = fault_of(name, path, value)
        if problem:
            faults.append(Fault(f"{key}.{name}", problem))
        else:
            found[name] = value
    return found, faults
