"""What of the machine this process may use: its cores, and the memory that is free; a container's bounds count."""

from __future__ import annotations

import ctypes
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


def has_tiles(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Does the processor multiply matrices of bfloat16 at once (Intel's AMX)?"""
    try:
        return "amx_bf16" in cpuinfo.read_text().partition("\nflags")[2].partition("\n")[0].split()
    except OSError:
        return False


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Bytes that can be had without anything being swapped out; 0 where the system does not say."""
    free = _available(meminfo)
    try:
        bound = int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return free
    return max(0, min(free, bound))


def keep_bytes(keep_mb: int | None, free: int) -> int:
    """`inference.keep_mb` as bytes; where it is not set, a quarter of what is free."""
    return free // 4 if keep_mb is None else keep_mb << 20


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


def arrange_memory() -> None:
    """
    Let this process keep what it frees, for the next step takes as much again.

    A step's numbers are megabytes that live for a millisecond.  By default glibc hands each back to the system, which
    fills it with zeroes before it gives it out once more.  Before the first thread that computes; where there is no
    glibc nothing happens.  The numbers are those of mallopt(3) in malloc.h.

    And let oneDNN forget: it makes code for each shape of a product, a third of a megabyte, and keeps that of the last
    thousand, where steps have lengths of any number.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    trim_threshold, top_pad, mmap_threshold, arena_max = -1, -2, -3, -8
    set_to = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_to is not None:
        set_to(mmap_threshold, 32 << 20)  # the most that it takes
        set_to(trim_threshold, 1 << 30)
        set_to(top_pad, 64 << 20)
        set_to(arena_max, 1)  # those of other threads are trimmed whatever is set
