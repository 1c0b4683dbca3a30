"""What `sana doctor` says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import CheckpointError, DeviceError, EngineConfig
from engine.worker.doctor import GIB, free_memory, needed, report


def test_it_describes_the_machine_and_the_model(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu", dtype="bfloat16"))
    told = capsys.readouterr().out
    assert f"torch         {torch.__version__}" in told
    assert "device        cpu" in told
    assert "yes demo" in told
    assert "model         sana-1.5: 128 px, runs in bfloat16" in told


def test_a_model_that_is_not_there_leaves_the_machine_described(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="no-such-model"):
        report(EngineConfig(model="no-such-model", device="cpu"))
    assert "memory" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"no device 'tpu'"):
        report(EngineConfig(device="tpu"))


def test_memory_is_measured_and_models_are_ranked_by_it() -> None:
    free, total = free_memory(torch.device("cpu"))
    assert 0 < free <= total
    assert needed("demo", torch.float32) < GIB < needed("SANA 0.6B", torch.bfloat16)
    assert needed("SANA 0.6B", torch.bfloat16) < needed("SANA-1.5 4.8B", torch.bfloat16)
