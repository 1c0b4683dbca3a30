"""Memory and CPU limits: texts of real files of v1, v2, hybrid and containers, and real control groups."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.host import available_cpus, available_memory, group_folders, run_delays, thread_count

GIB = 2**30
MEMINFO = "MemTotal:       25165824 kB\nMemFree:         1048576 kB\nMemAvailable:   16777216 kB\n"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V2_NAMESPACE = "735 734 0:26 /../../.. /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)
V1_DOCKER_MOUNT = "735 734 0:32 /docker/3f9a /sys/fs/cgroup/memory ro,nosuid master:16 - cgroup cgroup rw,memory\n"
HYBRID_MOUNT = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
V1_UNLIMITED = "9223372036854771712\n"

MEMORY_CASES = {
    "no groups": ("", "", {}, (16.0, 24.0), "the host"),
    "v2": (
        "0::/a.slice/b.service\n",
        V2_MOUNT,
        {"a.slice/b.service/memory.max": f"{2 * GIB}\n", "a.slice/b.service/memory.current": f"{GIB}\n"},
        (1.0, 2.0),
        "control group, /sys/fs/cgroup/a.slice/b.service/memory.max",
    ),
    "v2 nested, the parent is smaller": (
        "0::/a.slice/b.service\n",
        V2_MOUNT,
        {
            "a.slice/memory.max": f"{3 * GIB}\n",
            "a.slice/memory.current": f"{2 * GIB}\n",
            "a.slice/b.service/memory.max": f"{8 * GIB}\n",
            "a.slice/b.service/memory.current": f"{GIB}\n",
        },
        (1.0, 3.0),
        "control group, /sys/fs/cgroup/a.slice/memory.max",
    ),
    "v2 nested, a neighbour fills the larger parent": (
        "0::/a.slice/b.service\n",
        V2_MOUNT,
        {
            "a.slice/memory.max": f"{8 * GIB}\n",
            "a.slice/memory.current": f"{7.5 * GIB:.0f}\n",
            "a.slice/b.service/memory.max": f"{4 * GIB}\n",
            "a.slice/b.service/memory.current": f"{GIB}\n",
        },
        (0.5, 4.0),
        "control group, /sys/fs/cgroup/a.slice/memory.max",
    ),
    "v2 throttled by memory.high": (
        "0::/a\n",
        V2_MOUNT,
        {"a/memory.max": "max\n", "a/memory.high": f"{GIB}\n", "a/memory.current": "0\n"},
        (1.0, 1.0),
        "control group, /sys/fs/cgroup/a/memory.high",
    ),
    "v2 unlimited": (
        "0::/a\n",
        V2_MOUNT,
        {"a/memory.max": "max\n", "a/memory.high": "max\n"},
        (16.0, 24.0),
        "the host",
    ),
    "v2 page cache, a part of it mapped": (
        "0::/a\n",
        V2_MOUNT,
        {
            "a/memory.max": f"{4 * GIB}\n",
            "a/memory.current": f"{4 * GIB}\n",
            "a/memory.stat": f"anon {GIB}\nfile {3 * GIB}\nfile_mapped {GIB}\ninactive_file {2 * GIB}\n"
            f"active_file {GIB}\n",
        },
        (2.0, 4.0),
        "control group, /sys/fs/cgroup/a/memory.max",
    ),
    "v2 container with its own namespace": (
        "0::/\n",
        V2_MOUNT,
        {"memory.max": f"{GIB}\n", "memory.current": f"{0.5 * GIB:.0f}\n"},
        (0.5, 1.0),
        "control group, /sys/fs/cgroup/memory.max",
    ),
    "v2 process outside of the namespace that is mounted": (
        "0::/../../kubepods/pod7/c2\n",
        V2_NAMESPACE,
        {"memory.max": f"{GIB}\n", "memory.current": "0\n"},
        (1.0, 1.0),
        "control group, /sys/fs/cgroup/memory.max",
    ),
    "v2 folder of the group not visible": (
        "0::/a.slice/gone\n",
        V2_MOUNT,
        {"a.slice/memory.max": f"{GIB}\n", "a.slice/memory.current": "0\n"},
        (1.0, 1.0),
        "control group, /sys/fs/cgroup/a.slice/memory.max",
    ),
    "v2 limit above the memory of the host": (
        "0::/a\n",
        V2_MOUNT,
        {"a/memory.max": f"{99 * GIB}\n", "a/memory.current": "0\n"},
        (16.0, 24.0),
        "the host",
    ),
    "v1": (
        "5:memory:/user/x\n4:cpu,cpuacct:/\n",
        V1_MOUNTS,
        {
            "memory/memory.limit_in_bytes": V1_UNLIMITED,
            "memory/user/memory.limit_in_bytes": V1_UNLIMITED,
            "memory/user/x/memory.limit_in_bytes": f"{1.5 * GIB:.0f}\n",
            "memory/user/x/memory.usage_in_bytes": f"{GIB}\n",
            "memory/user/x/memory.stat": f"cache 0\ninactive_file 0\ntotal_inactive_file {0.25 * GIB:.0f}\n"
            f"total_active_file 0\ntotal_mapped_file 0\nhierarchical_memory_limit {1.5 * GIB:.0f}\n",
        },
        (0.75, 1.5),
        "control group, /sys/fs/cgroup/memory/user/x/memory.limit_in_bytes",
    ),
    "v1 unlimited": (
        "5:memory:/user\n",
        V1_MOUNTS,
        {"memory/user/memory.limit_in_bytes": V1_UNLIMITED, "memory/user/memory.usage_in_bytes": f"{GIB}\n"},
        (16.0, 24.0),
        "the host",
    ),
    "v1 in Docker, path of the host": (
        "5:memory:/docker/3f9a\n",
        V1_DOCKER_MOUNT,
        {"memory/memory.limit_in_bytes": f"{GIB}\n", "memory/memory.usage_in_bytes": "0\n"},
        (1.0, 1.0),
        "control group, /sys/fs/cgroup/memory/memory.limit_in_bytes",
    ),
    "v1 in Docker inside Docker, the path is not below the mount": (
        "5:memory:/docker/77/docker/3f9b\n",
        V1_DOCKER_MOUNT,
        {"memory/memory.limit_in_bytes": f"{GIB}\n", "memory/memory.usage_in_bytes": "0\n"},
        (1.0, 1.0),
        "control group, /sys/fs/cgroup/memory/memory.limit_in_bytes",
    ),
    "v1 limit of a group above the container": (
        "5:memory:/\n",
        V1_MOUNTS,
        {
            "memory/memory.limit_in_bytes": V1_UNLIMITED,
            "memory/memory.usage_in_bytes": "0\n",
            "memory/memory.stat": f"hierarchical_memory_limit {2 * GIB}\n",
        },
        (2.0, 2.0),
        "control group, /sys/fs/cgroup/memory/memory.stat",
    ),
    "hybrid, memory in v1": (
        "4:memory:/x\n0::/x\n",
        V1_MOUNTS + HYBRID_MOUNT,
        {
            "memory/x/memory.limit_in_bytes": f"{GIB}\n",
            "memory/x/memory.usage_in_bytes": "0\n",
            "unified/x/cgroup.procs": "",
        },
        (1.0, 1.0),
        "control group, /sys/fs/cgroup/memory/x/memory.limit_in_bytes",
    ),
    "mount point with a blank": (
        "0::/a\n",
        "30 23 0:26 / /sys/fs/my\\040groups rw - cgroup2 cgroup2 rw\n",
        {"../my groups/a/memory.max": f"{GIB}\n", "../my groups/a/memory.current": "0\n"},
        (1.0, 1.0),
        "control group, /sys/fs/my groups/a/memory.max",
    ),
}

CPU_CASES = {
    "v2 half a core": ("0::/a\n", V2_MOUNT, {"a/cpu.max": "50000 100000\n"}, 0.5, 1),
    "v2 nested": ("0::/a/b\n", V2_MOUNT, {"a/cpu.max": "20000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.2, 1),
    "v2 unlimited": ("0::/a\n", V2_MOUNT, {"a/cpu.max": "max 100000\n"}, None, None),
    "v1": (
        "4:cpu,cpuacct:/x\n",
        V1_MOUNTS,
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "75000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "50000\n"},
        1.5,
        1,
    ),
    "v1 unlimited": (
        "4:cpu,cpuacct:/x\n",
        V1_MOUNTS,
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
        None,
        None,
    ),
    "hybrid, the parent is smaller": (
        "4:cpu,cpuacct:/x/y\n0::/\n",
        V1_MOUNTS + HYBRID_MOUNT,
        {
            "cpu,cpuacct/x/cpu.cfs_quota_us": "40000\n",
            "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/x/y/cpu.cfs_quota_us": "90000\n",
            "cpu,cpuacct/x/y/cpu.cfs_period_us": "100000\n",
        },
        0.4,
        1,
    ),
}


def write_host(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    """A folder with the /proc and /sys/fs/cgroup of a host."""
    for name, text in {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": "22 27 0:21 / /proc rw,relatime - proc proc rw\n" + mountinfo,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        file = Path(os.path.normpath(root / name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize("case", MEMORY_CASES)
def test_available_memory(case: str, tmp_path: Path) -> None:
    cgroup, mountinfo, files, (free, total), source = MEMORY_CASES[case]
    memory = available_memory(write_host(tmp_path, cgroup, mountinfo, files))
    assert (memory.free / GIB, memory.total / GIB, memory.source) == (free, total, source)


@pytest.mark.parametrize("case", CPU_CASES)
def test_available_cpus(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    cgroup, mountinfo, files, quota, threads = CPU_CASES[case]
    cpus = available_cpus(write_host(tmp_path, cgroup, mountinfo, files))
    assert cpus.count == (quota or 4)
    assert thread_count(cpus) == (threads or 4)
    assert cpus.source.startswith("control group, /sys/fs/cgroup/" if quota else "the CPU affinity")


def test_run_delays_by_thread(tmp_path: Path) -> None:
    for thread, text in (("7", "900 2500000000 12\n"), ("8", "1 0 1\n"), ("9", "0\n")):
        folder = tmp_path / "proc/self/task" / thread
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(text)
    assert run_delays(tmp_path) == {"7": 2.5, "8": 0.0}
    assert run_delays(tmp_path / "absent") == {}


def test_cpuset_counts_as_affinity() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from engine.host import available_cpus; print(available_cpus().count)"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(child.stdout) <= 1


def test_host_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS knows the total, Windows has no sysconf."""
    assert available_memory(tmp_path).total > 0
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    memory = available_memory(tmp_path)
    assert memory.free == sys.maxsize
    assert memory.source == "unknown on this system"
    assert available_cpus(tmp_path).count >= 1


def own_group(controller: str) -> Path | None:
    """Folder of this process's own v1 group of a controller, or of its v2 group if that has the controller."""
    files = {"memory": ("memory.limit_in_bytes", "memory.current"), "cpu": ("cpu.cfs_quota_us", "cpu.max")}
    folders = group_folders(Path("/"), controller)
    return next((folder for folder in folders if any((folder / name).exists() for name in files[controller])), None)


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A new control group below that of this process, whose limits therefore stay in force."""
    parent = own_group(request.param)
    folder = None if parent is None else parent / f"sana-test-{uuid.uuid4().hex[:8]}"
    try:
        if folder is None:
            raise OSError(f"no control group of {request.param} is visible")
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a control group: {error}")
    try:
        yield folder
    finally:
        for _ in range(100):  # the kernel takes a moment to forget the processes that have ended
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def run_in(group: Path, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in a control group."""
    entered = f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n{program}"
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
    return subprocess.run([sys.executable, "-c", entered], env=variables, capture_output=True, text=True, timeout=240)


def limit(group: Path, values: dict[str, str]) -> None:
    """Writes those files that the group has; skips the test if it has none of them."""
    files = [group / name for name in values if (group / name).exists()]
    if not files:
        pytest.skip(f"control groups below {group.parent} have none of {', '.join(values)}")
    for file in files:
        file.write_text(values[file.name])


@pytest.mark.parametrize("group", ["memory"], indirect=True)
def test_real_memory_group_limits_doctor(group: Path) -> None:
    limit(group, {"memory.limit_in_bytes": f"{3 * GIB // 2}", "memory.max": f"{3 * GIB // 2}"})
    program = (
        "import torch; from engine.worker.doctor import describe_machine, describe_fit;"
        "from engine.worker.memory import device_memory; cpu = torch.device('cpu');"
        "print(*describe_machine(cpu), *describe_fit(torch.float32, device_memory(cpu).free), sep='\\n')"
    )
    child = run_in(group, program)
    assert f"GiB free of 1.5 GiB (control group, {group}/memory." in child.stdout, child.stderr
    assert "yes demo" in child.stdout
    assert "no  SANA 0.6B" in child.stdout


@pytest.mark.parametrize("group", ["memory"], indirect=True)
def test_real_memory_group_refuses_large_image(group: Path) -> None:
    """A large image is refused before it starts; a smaller one is generated, and nothing is killed."""
    limit(group, {"memory.limit_in_bytes": f"{3 * GIB // 2}", "memory.max": f"{3 * GIB // 2}"})
    program = """
import asyncio
from dataclasses import replace
from engine import EngineClient, EngineConfig, Finished, GenerationParams, InvalidParams
async def main():
    client = EngineClient(EngineConfig(device="cpu"))
    await client.start()
    params = GenerationParams("a red circle", 4096, 4096, 1, 4.5, seed=1)
    try:
        [event async for event in client.generate(params)]
    except InvalidParams as error:
        print(error)
    events = [event async for event in client.generate(replace(params, width=512, height=512))]
    print(sum(isinstance(event, Finished) for event in events), "image,", client.stats().restarts, "restarts")
    await client.stop()
if __name__ == "__main__":
    asyncio.run(main())
"""
    child = run_in(group, program, OMP_NUM_THREADS="1")
    refusal, generated = child.stdout.splitlines() or [child.stderr, ""]
    assert refusal.startswith("an image of 4096x4096 needs ")
    assert refusal.endswith("GiB are available on cpu; request a smaller size")
    assert generated == "1 image, 0 restarts"


@pytest.mark.parametrize("group", ["cpu"], indirect=True)
@pytest.mark.parametrize(
    ("quota", "environment", "expected"),
    [
        (50_000, {}, "1 CPU threads (control group, {group}/cpu."),
        (50_000, {"OMP_NUM_THREADS": "2"}, "2 CPU threads (OMP_NUM_THREADS)"),
    ],
)
def test_real_cpu_quota_sets_threads(quota: int, environment: dict[str, str], expected: str, group: Path) -> None:
    limit(group, {"cpu.cfs_quota_us": f"{quota}", "cpu.max": f"{quota} 100000"})
    child = run_in(group, "from engine.worker.threads import limit_threads; print(limit_threads())", **environment)
    assert child.stdout.startswith(expected.format(group=group)), child.stderr
