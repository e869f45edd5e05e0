"""How many cores this process may use: the cores it may run on, limited by its container's share.

Python knows only the first number: a container with two cores of sixty-four looked like sixty-four.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def usable_cores(*, groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """At least one. A share of a core counts as a whole one.

    `groups` lists the control groups of this process; `mount` is where the kernel shows them (cgroups(7)).
    """
    if sys.platform != "linux":
        return os.cpu_count() or 1
    shares = [math.ceil(share) for share in _shares(groups, mount)]
    return max(1, min([len(os.sched_getaffinity(0)), *shares]))


def _shares(groups: Path, mount: Path) -> Iterator[float]:
    """The cores that each limiting control group around this process allows."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        # Version 2 has one hierarchy without a name; version 1 has a separate one for the processor.
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may know its name on the host but see itself as the root. A missing group limits nothing.
        path = PurePosixPath(name.lstrip("/"))
        for group in (path, *path.parents):
            share = _of_version_1(mount / "cpu" / group) if controllers else _of_version_2(mount / group)
            if share is not None:
                yield share


def _of_version_2(group: Path) -> float | None:
    """`cpu.max` holds microseconds of a period, or `max`, and the period (kernel: cgroup-v2, CPU interface files)."""
    words = _read(group / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _of_version_1(group: Path) -> float | None:
    """The same in two files. A quota of -1 means no limit (kernel: CFS bandwidth control)."""
    quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
