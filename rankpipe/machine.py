"""The machine: what it has, and how much of it this process may use."""

from __future__ import annotations

import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells what a container may use; from inside of it, its own limits."""


def usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(CGROUPS))))


def most_memory() -> int | None:
    """Bytes of memory that this process has held at most; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def free_memory() -> int | None:
    """Bytes that can be taken without swapping, by the machine and by a container's limit; None if neither is told."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    stated = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    told = (next((int(kilobytes) << 10 for kilobytes in stated), None), _left(CGROUPS))
    return min((one for one in told if one is not None), default=None)


def _quota(folder: Path) -> float:
    """Cores' worth of time that a control group may take, of version 2 or 1; infinite without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = map(int, " ".join((folder / name).read_text(encoding="ascii") for name in names).split())
        except (OSError, ValueError):  # "max", too
            continue
        return quota / period if quota > 0 else math.inf
    return math.inf


def _left(folder: Path) -> int | None:
    """Bytes that a control group may still take, what it holds of files not counted; None without a limit."""
    names = (("memory.max", "memory.current", "memory.stat", "inactive_file"),)
    names += (
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    )
    for limit, usage, stat, kind in names:
        try:
            most, taken = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            stated = dict(line.split() for line in (folder / stat).read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):  # "max", too
            continue
        return max(0, most - taken + int(stated.get(kind, 0)))
    return None


def machine() -> dict[str, Any]:
    """Processor, cores, memory in bytes and operating system; None for what the system does not tell."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory": _memory(),
        "system": " ".join((platform.system(), platform.machine(), *platform.libc_ver())).strip(),
    }


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine() or None)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
