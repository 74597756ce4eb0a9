"""What this process and its descendants hold, watched from a thread of its own."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

KINDS = ("Pss", "Anonymous", "Pss_Shmem")  # shared pages counted once; nobody else's and in no file; the object store's


class Memory(threading.Thread):
    """The most that each `kind_of` process (by its command line; "" passes it over) held at once, in MB, added up over its kind:
    {kind: {"Pss": ..., "Anonymous": ..., "Pss_Shmem": ...}}, and the same of all together under "all"."""

    def __init__(self, kind_of: Callable[[str], str] = lambda command: "") -> None:
        super().__init__(daemon=True)
        self._kind_of = kind_of
        self.most: dict[str, dict[str, float]] = {}

    def run(self) -> None:
        while True:
            now: dict[str, dict[str, float]] = {}
            for pid in family():
                found = held(pid)
                for name in {"all", self._kind_of(command_of(pid))} - {""}:
                    of_kind = now.setdefault(name, dict.fromkeys(KINDS, 0.0))
                    for kind in KINDS:
                        of_kind[kind] += found.get(kind, 0.0)
            for name, values in now.items():
                most = self.most.setdefault(name, dict.fromkeys(KINDS, 0.0))
                self.most[name] = {kind: max(most[kind], values[kind]) for kind in KINDS}
            time.sleep(5)  # each look walks all page tables


def family() -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return list(found)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def peak_megabytes() -> float:
    """The most that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held(pid: int) -> dict[str, float]:
    """MB, by the names that Linux gives them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
