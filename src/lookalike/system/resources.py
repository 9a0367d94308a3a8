"""The cores and the memory that this process may use."""

import os
from contextlib import suppress
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the number of cores that this process may use, in a container or not."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    # Microseconds of CPU in each period, in version 2 and in version 1:
    # https://docs.kernel.org/admin-guide/cgroup-v2.html, .../scheduler/sched-bwc.html
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):
            quota, period = map(int, " ".join((_GROUP / f).read_text() for f in files).split())
            if quota > 0:
                allowed = min(allowed, max(-(-quota // period), 1))
    return allowed


def memory() -> int:
    """Return the bytes of memory that this process may use, in a container or not."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int((_GROUP / file).read_text()))
    return total
