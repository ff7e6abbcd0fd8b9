"""The machine: what it has, and how much of it this process may use."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any


def usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def most_memory() -> int | None:
    """Bytes of memory that this process has held at most; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def free_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    stated = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((int(kilobytes) << 10 for kilobytes in stated), None)


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
