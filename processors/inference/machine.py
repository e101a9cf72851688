"""What of the machine this process may use: its cores, and the memory that is free; a container's bounds count."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
"""Of the second version, where a container sees its own at this place."""


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_SMALL = 10_000_000
"""Parameters up to which one thread is enough."""


def threads(parameters: int) -> int:
    """For a model of that size: a core is left to the rest, and a small one loses more by waiting than it computes."""
    return 1 if parameters < _SMALL else max(1, cores() - 1)


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Bytes that can be had without anything being swapped out; 0 where the system does not say."""
    free = _available(meminfo)
    try:
        bound = int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return free
    return max(0, min(free, bound))


def _available(meminfo: Path) -> int:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0
