"""The number of threads by measured seconds, and how waiting threads wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.host import CPUs
from engine.worker.threads import limit_threads, measure_threads, most_fast

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("seconds", "measured", "chosen"),
    [
        ({2: 0.030, 1: 0.015}, {2, 1}, 1),  # the demo on two cores: waking the second thread costs more than it does
        ({2: 0.150, 1: 0.145}, {2, 1}, 2),  # within what measurements vary
        ({2: 0.8, 1: 1.5}, {2, 1}, 2),
        ({64: 1.0, 32: 0.9, 16: 1.5, 8: 3.0}, {64, 32, 16}, 32),  # stops at the first that is slower
        ({6: 1.0, 3: 1.9, 1: 4.0}, {6, 3}, 6),
        ({1: 1.0}, {1}, 1),
    ],
)
def test_threads_most_of_fastest(seconds: dict[int, float], measured: set[int], chosen: int) -> None:
    found = measure_threads(max(seconds), seconds.__getitem__)
    assert set(found) == measured
    assert most_fast(found) == chosen


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "100"}, "None")],
)
def test_waiting_threads_sleep_unless_user_decides(given: dict[str, str], expected: str) -> None:
    program = "import os; from engine.worker.main import wait_passively as w; w(); print(os.getenv('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment | given, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == expected


@pytest.mark.parametrize(("processes", "threads"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_engine_processes_share_the_cpus(processes: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("engine.worker.threads.available_cpus", lambda: CPUs(4.5, "a test"))
    try:
        torch.set_num_threads(8)
        said = limit_threads(processes)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert said.startswith(f"{threads} CPU threads (a test allows 4.5 CPUs")
    assert ("shared by" in said) == (processes > 1)
