"""Shared test set-up: one thread per process, Ctrl-C reaches programs under test, `gpu` tests need CUDA."""

import os
import signal
from collections.abc import Iterator

import pytest

# Of this process and the programs under test, which share the cores: small models lose more to threads that wait for
# each other than they gain, a factor of seven on two cores. Set here because other conftest.py files import torch.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # of the tests that set more threads


def pytest_configure() -> None:
    """Restores signals that shells ignore in background jobs, and nohup: programs under test would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]  # not `keywords`: ids count among them
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(params=[1, 2, 5, 8], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sets the number of threads that torch computes on, independent of the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)
