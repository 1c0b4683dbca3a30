"""Output of `sana doctor`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import CheckpointError, DeviceError, EngineConfig
from engine.worker.doctor import GIB, needed_bytes, report
from engine.worker.memory import device_memory


def test_doctor_describes_machine_and_model(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report(EngineConfig(model=str(checkpoint("sana-1.5")), device="cpu", dtype="bfloat16"))
    output = capsys.readouterr().out
    assert f"torch         {torch.__version__}" in output
    assert "device        cpu" in output
    assert "threads       1 CPU threads (OMP_NUM_THREADS)" in output
    assert " GiB (" in output
    assert "yes demo" in output
    assert "model         sana-1.5: 128 px, runs in bfloat16 (as --dtype says)" in output


def test_doctor_unknown_model_still_describes_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="no-such-model"):
        report(EngineConfig(model="no-such-model", device="cpu"))
    assert "memory" in capsys.readouterr().out


def test_doctor_unknown_device_refused() -> None:
    with pytest.raises(DeviceError, match=r"got 'tpu'"):
        report(EngineConfig(device="tpu"))


def test_doctor_memory_grows_with_model() -> None:
    memory = device_memory(torch.device("cpu"))
    assert 0 < memory.free <= memory.total
    assert needed_bytes("demo", torch.float32) < GIB < needed_bytes("SANA 0.6B", torch.bfloat16)
    assert needed_bytes("SANA 0.6B", torch.bfloat16) < needed_bytes("SANA-1.5 4.8B", torch.bfloat16)
