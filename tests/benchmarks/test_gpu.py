"""The GPU benchmark on a toy model: its figures, its FLOP count, and its refusal without a GPU."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, kernels
from benchmarks.gpu import (
    COLUMNS,
    Clock,
    generate,
    make_tasks,
    measure_diffusers,
    measure_mixed,
    measure_ours,
    step_flops,
)
from benchmarks.psnr import psnr
from benchmarks.random_models import make_runner, shape_of
from engine.worker.runner import ModelRunner

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def tiny(
    quantization: str = "none", dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None
) -> ModelRunner:
    return make_runner(shape_of("tiny"), CPU, dtype, quantization, compute)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [gpu, kernels])
def test_command_without_gpu_exits(command: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no CUDA device: nothing was measured"):
        command.main([])


def test_gpu_benchmark_needs_neither_server_nor_diffusers() -> None:
    program = "import sys; sys.modules |= {'fastapi': None, 'diffusers': None}; import benchmarks.gpu"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@torch.inference_mode()
def test_measure_ours_total_is_the_sum(quantization: str) -> None:
    cells = measure_ours(Clock(CPU, 1), tiny(quantization), px=64, batch=2, steps=20, peak=1e12)
    assert len(cells) == len(COLUMNS) - 4
    encode, step, decode, total = map(float, cells[:4])
    assert min(encode, step, decode) > 0
    assert total == pytest.approx(encode + 20 * step + decode, abs=1.5)


@torch.inference_mode()
def test_measure_diffusers_and_mixed_trace() -> None:
    runner, clock = tiny(), Clock(CPU, 1)
    cells = measure_diffusers(clock, runner, shape_of("tiny"), px=64, batch=2, steps=20, compiled=False)
    assert len(cells) == len(COLUMNS) - 4
    encode, step, decode, total = map(float, cells[:4])
    assert min(encode, step, decode) > 0
    assert total == pytest.approx(encode + 20 * step + decode, abs=1.5)
    assert min(measure_mixed(clock, runner, [64, 96])) > 0


@torch.inference_mode()
def test_psnr_of_bf16_to_the_same_weights_in_fp32() -> None:
    half = generate(tiny(dtype=torch.bfloat16), 96, steps=4)
    exact = generate(tiny(dtype=torch.bfloat16, compute=torch.float32), 96, steps=4)
    assert half.shape == (96, 96, 3)
    assert psnr(exact, exact) == float("inf")
    assert 30 < psnr(half, exact) < 100
    assert psnr(exact, exact[::-1]) < 20


@torch.inference_mode()
def test_step_flops_match_torch_counter() -> None:
    runner = tiny()
    tasks = make_tasks([256, 256], 20, guided=True)
    runner.encode(tasks)
    runner.denoise(tasks)
    with FlopCounterMode(display=False) as counter:
        runner.denoise(tasks)
    text = tasks[0].state.text.length
    ours = step_flops(runner.config, tokens=4 * 64, attended=2 * 64, text=text)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.1)  # embeddings and depthwise taps are left out
