"""Fixtures: checkpoints of every model family and diffusers' pipelines on them, created once per session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline

from ..checkpoints import FAMILIES, write_family
from ..reference import load_reference, quiet
from .worker.host_reads import HostReads


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family's checkpoint in diffusers layout, by name. Tests must not write to it."""

    @cache
    def write(name: str) -> Path:
        with quiet():
            return write_family(name, tmp_path_factory.mktemp("checkpoint") / name)

    return write


@pytest.fixture(scope="session")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], SanaPipeline | SanaSprintPipeline]:
    """Diffusers' pipeline on a family's checkpoint, by name, in fp32."""

    @cache
    def load(name: str) -> SanaPipeline | SanaSprintPipeline:
        return load_reference(checkpoint(name), FAMILIES[name].sprint)

    return load


@pytest.fixture
def host_reads() -> HostReads:
    """Recorder of host reads, tried on one that it must find."""
    mode = HostReads()
    with mode:
        assert torch.ones(1).item() == 1  # a read that must be found
    assert mode.found == ["aten._local_scalar_dense.default"]
    mode.found.clear()
    return mode
