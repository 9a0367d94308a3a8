"""Cores and memory available to this process."""

import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the number of cores available to this process, with the limits of its container."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    # Microseconds of CPU in each period, in version 2 and in version 1:
    # https://docs.kernel.org/admin-guide/cgroup-v2.html, .../scheduler/sched-bwc.html
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):
            quota, period = map(int, " ".join((_CGROUP / f).read_text() for f in files).split())
            if quota > 0:
                allowed = min(allowed, max(-(-quota // period), 1))
    return allowed


def memory() -> int:
    """Return the bytes of memory available to this process, with the limits of its container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int((_CGROUP / file).read_text()))
    return total
