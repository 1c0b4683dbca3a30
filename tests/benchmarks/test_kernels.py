import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import Clock
from benchmarks.kernels import ROWS, kernel_table

from ..deploy.dockerfile import ROOT


def test_the_longest_come_first() -> None:
    a, b = torch.randn(400, 400), torch.randn(3)
    heading, *lines = kernel_table(Clock(torch.device("cpu"), 1), lambda: (a @ a, b.exp(), b.exp(), b.tan()))
    assert "busy" in heading
    assert len(lines) <= ROWS
    assert "aten::mm" in lines[0]
    (exponential,) = [line for line in lines if line.endswith("aten::exp")]
    assert exponential.split()[3] == "2"
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times, reverse=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_claimed() -> None:
    child = subprocess.run([sys.executable, "-m", "benchmarks.kernels"], cwd=ROOT, capture_output=True, text=True)
    assert (child.returncode, child.stdout, child.stderr) == (1, "", "no CUDA device: nothing was measured\n")


def test_every_phase_has_its_table() -> None:
    command = [sys.executable, "-m", "benchmarks.kernels", "--tiny"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    headings = [line.split(":")[0] for line in output.splitlines() if " launches, " in line]
    assert headings == ["encode", "denoise", "decode"]
