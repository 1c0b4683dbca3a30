import torch

from benchmarks.gpu import Clock
from benchmarks.kernels import MAX_LINES, kernel_table


def test_kernel_table_sorted_by_time() -> None:
    a, b = torch.randn(400, 400), torch.randn(3)
    heading, *lines = kernel_table(Clock(torch.device("cpu"), 1), lambda: (a @ a, b.exp(), b.exp(), b.tan()))
    assert "busy" in heading
    assert len(lines) <= MAX_LINES
    assert "aten::mm" in lines[0]
    (exponential,) = [line for line in lines if line.endswith("aten::exp")]
    assert exponential.split()[3] == "2"
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times, reverse=True)
