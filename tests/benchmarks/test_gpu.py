"""The GPU benchmark on a toy model: it runs, counts what torch counts, and claims nothing without a GPU."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import (
    COLUMNS,
    Clock,
    draw,
    make_tasks,
    measure_diffusers,
    measure_mixed,
    measure_ours,
    psnr,
    step_flops,
)
from benchmarks.random_models import make_runner, shape_of
from engine.worker.runner import ModelRunner

from ..deploy.dockerfile import ROOT

CPU = torch.device("cpu")


def tiny(
    quantization: str = "none", dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None
) -> ModelRunner:
    return make_runner(shape_of("tiny"), CPU, dtype, quantization, compute)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_claimed() -> None:
    """And the command needs nothing of the server."""
    program = "import sys; sys.modules['fastapi'] = None; from benchmarks.gpu import main; main()"
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == "no CUDA device: nothing was measured\n"


def test_without_diffusers_ours_is_measured() -> None:
    block = "for name in ('fastapi', 'diffusers'): sys.modules[name] = None"
    program = f"import sys\n{block}\nsys.argv = ['gpu', '--tiny']\nfrom benchmarks.gpu import main\nmain()"
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    lines = child.stdout.splitlines()
    assert sum("sana-serve" in line for line in lines) == 4
    assert [line.split()[3:] for line in lines if "not installed" in line] == (
        4 * [["diffusers", "not", "installed"], ["compiled", "not", "installed"]]
    )


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@torch.inference_mode()
def test_a_line_of_ours(quantization: str) -> None:
    cells = measure_ours(Clock(CPU, 1), tiny(quantization), px=64, batch=2, steps=20, peak=1e12)
    assert len(cells) == len(COLUMNS) - 4
    encode, step, decode, total = map(float, cells[:4])
    assert min(encode, step, decode) > 0
    assert total == pytest.approx(encode + 20 * step + decode, abs=1.5)


@torch.inference_mode()
def test_a_line_of_diffusers_and_the_mixed_trace() -> None:
    runner, clock = tiny(), Clock(CPU, 1)
    cells = measure_diffusers(clock, runner, shape_of("tiny"), px=64, batch=2, steps=20, compiled=False)
    assert len(cells) == len(COLUMNS) - 4
    encode, step, decode, total = map(float, cells[:4])
    assert min(encode, step, decode) > 0
    assert total == pytest.approx(encode + 20 * step + decode, abs=1.5)
    assert min(measure_mixed(clock, runner, [64, 96])) > 0


@torch.inference_mode()
def test_pictures_are_compared_with_those_of_the_same_weights_in_fp32() -> None:
    half = draw(tiny(dtype=torch.bfloat16), 96, steps=4)
    exact = draw(tiny(dtype=torch.bfloat16, compute=torch.float32), 96, steps=4)
    assert half.shape == (96, 96, 3)
    assert psnr(exact, exact) == float("inf")
    assert 30 < psnr(half, exact) < 100
    assert psnr(exact, exact.flip(0)) < 20


@torch.inference_mode()
def test_products_are_counted_as_torch_counts_them() -> None:
    runner = tiny()
    requests = make_tasks([256, 256], 20, guided=True)
    runner.encode(requests)
    runner.denoise(requests)
    with FlopCounterMode(display=False) as counter:
        runner.denoise(requests)
    text = requests[0].state.text.length
    ours = step_flops(runner.config, tokens=4 * 64, attended=2 * 64, text=text)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.1)  # embeddings and the depthwise taps are left out
