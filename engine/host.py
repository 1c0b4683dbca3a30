"""The host: its signals, and the memory and CPUs that this process may use under control groups (v1, v2). Torch-free.

A group's limit also binds the groups below it, so the smallest limit between the process's group and the root applies.
Formats: cgroups(7), proc_pid_mountinfo(5) and the kernel's cgroup-v1 and cgroup-v2 documents.
"""

import contextlib
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
"""What terminals and service managers send, often to every process. Only the parent acts on them."""
ROOT = Path("/")
NO_LIMIT = 2**60
"""Bytes from which a v1 limit means none: the kernel's largest counter, a little below 2^63."""


@dataclass(frozen=True)
class Memory:
    """Bytes that are free and in total, and the file that sets them."""

    free: int
    total: int
    source: str


@dataclass(frozen=True)
class CPUs:
    """CPUs that may be used, a fraction under a quota, and what sets their number."""

    count: float
    source: str


def available_memory(root: Path = ROOT) -> Memory:
    """The least free memory among the host and the control groups. Page cache that nobody maps counts as free.

    Args:
        root: folder that holds /proc and /sys.
    """
    memory = host_memory(root)
    for folder in group_folders(root, "memory"):
        limit, source = memory_limit(folder)
        if source is None:
            continue
        used = read_number(folder / "memory.current") or read_number(folder / "memory.usage_in_bytes") or 0
        free = max(0, limit - used + unmapped_cache(folder))
        if free < memory.free or limit < memory.total:
            memory = Memory(min(free, memory.free), min(limit, memory.total), shown(source, root))
    return memory


def available_cpus(root: Path = ROOT) -> CPUs:
    """The least CPU time among the affinity of this process, which a cpuset sets too, and the groups' quotas."""
    if hasattr(os, "sched_getaffinity"):
        cpus = CPUs(len(os.sched_getaffinity(0)), "the CPU affinity of the process")
    else:
        cpus = CPUs(os.cpu_count() or 1, "the host")
    for folder in group_folders(root, "cpu"):
        quota, source = cpu_quota(folder)
        if source is not None and quota < cpus.count:
            cpus = CPUs(quota, shown(source, root))
    return cpus


def run_delays(root: Path = ROOT) -> dict[str, float]:
    """Seconds that each thread of this process has been ready to run and waited for a CPU; empty where unknown.

    The second number of /proc/PID/task/TID/schedstat: sched-stats.txt in the kernel's documentation.
    """
    delays = {}
    for file in (root / "proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError, ValueError):  # the thread has just ended
            delays[file.parent.name] = int(file.read_text().split()[1]) / 1e9
    return delays


def host_memory(root: Path = ROOT) -> Memory:
    """Memory of the host; of systems without /proc only the total is known, or nothing."""
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
        return Memory(free, total, "the host")
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return Memory(sys.maxsize, sys.maxsize, "unknown on this system")
    return Memory(total, total, "the host")


def group_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process that are visible, up to the root, under every mount."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux, or /proc is hidden
        return
    paths = {name: path for _, names, path in (line.split(":", 2) for line in groups) for name in names.split(",")}
    for line in mounts:
        left, _, right = line.partition(" - ")
        _, _, _, top, mounted, *_ = left.split()
        kind, _, options = right.split()[:3]
        name = {"cgroup2": "", "cgroup": controller}.get(kind)
        if name is None or name not in paths or (name and name not in options.split(",")):
            continue
        mount = root / unescape(mounted).lstrip("/")
        path = PurePosixPath(paths[name])
        parts: tuple[str, ...] = ()
        # In a container the path may be that of the host while its own group is mounted as the root.
        if ".." not in path.parts and path.is_relative_to(unescape(top)):
            parts = path.relative_to(unescape(top)).parts
        for depth in range(len(parts), -1, -1):
            yield mount.joinpath(*parts[:depth])


def memory_limit(folder: Path) -> tuple[int, Path | None]:
    """The smallest memory limit that a group sets and the file that holds it, or (0, None)."""
    files = [folder / name for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limits = [(limit, file) for file in files if (limit := read_number(file)) is not None and limit < NO_LIMIT]
    inherited = read_fields(folder / "memory.stat").get("hierarchical_memory_limit", NO_LIMIT)
    if inherited < NO_LIMIT:  # v1: also of groups above the root of a container
        limits.append((inherited, folder / "memory.stat"))
    return min(limits, key=lambda limit: limit[0], default=(0, None))


def unmapped_cache(folder: Path) -> int:
    """Bytes of page cache that the kernel can reclaim from a group for nothing: mapped files, the weights, stay."""
    stat = read_fields(folder / "memory.stat")
    if "file_mapped" in stat:
        return max(0, stat["inactive_file"] + stat["active_file"] - stat["file_mapped"])
    cached = [stat.get(f"total_{name}", 0) for name in ("inactive_file", "active_file", "mapped_file")]
    return max(0, cached[0] + cached[1] - cached[2])


def cpu_quota(folder: Path) -> tuple[float, Path | None]:
    """The CPUs that a group's quota allows and the file that holds it, or (0, None)."""
    for quota_file, period_file in (("cpu.max", "cpu.max"), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        quota = read_number(folder / quota_file)
        period = read_number(folder / period_file, last=True)
        if quota is not None and quota > 0 and period:
            return quota / period, folder / quota_file
    return 0, None


def thread_count(cpus: CPUs) -> int:
    """Whole CPUs, at least one: a thread more would wait for the others on time of the quota."""
    return max(1, math.floor(cpus.count))


def read_number(file: Path, last: bool = False) -> int | None:
    """The first or the last number of a file; None if the file is missing or says `max`."""
    try:
        text = file.read_text().split()[-1 if last else 0]
    except (OSError, IndexError):
        return None
    return int(text) if text.lstrip("-").isdecimal() else None


def read_fields(file: Path) -> dict[str, int]:
    """Numbers of a file of lines `name number`; empty if the file is missing."""
    try:
        return {name: int(value) for name, value in (line.split() for line in file.read_text().splitlines())}
    except OSError:
        return {}


def unescape(path: str) -> str:
    """A path of mountinfo, which writes blanks and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def shown(file: Path, root: Path) -> str:
    return f"control group, /{file.relative_to(root)}"
