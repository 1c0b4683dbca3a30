"""Checkpoints of every family and diffusers' pipelines on them, made once per session."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline

from ..checkpoints import FAMILIES, write_family
from ..reference import load_reference, quiet
from .worker.host_reads import HostReads


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small lose more to the hand-over between threads than they gain: seven times slower on two cores.

    The same for engine processes, of which several share the cores in some tests.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family name to its folder in diffusers layout. Not to be written to."""

    @cache
    def write(name: str) -> Path:
        with quiet():
            return write_family(name, tmp_path_factory.mktemp("checkpoint") / name)

    return write


@pytest.fixture(scope="session")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], SanaPipeline | SanaSprintPipeline]:
    """Family name to diffusers' pipeline on its checkpoint, in fp32."""

    @cache
    def load(name: str) -> SanaPipeline | SanaSprintPipeline:
        return load_reference(checkpoint(name), FAMILIES[name].sprint)

    return load


@pytest.fixture
def host_reads() -> HostReads:
    mode = HostReads()
    with mode:
        assert torch.ones(1).item() == 1  # it sees what it should
    assert mode.found == ["aten._local_scalar_dense.default"]
    mode.found.clear()
    return mode
