"""The demo on a GPU against fp32 on the CPU: kernels, CUDA graphs and both streams together."""

import numpy as np
import pytest

from benchmarks.psnr import psnr
from engine import StepReport

from ..test_demo import REQUESTS
from .stepping import Engine


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return Engine("demo").generate(REQUESTS)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "replayed"])
@pytest.mark.parametrize(
    ("dtype", "quantization", "min_psnr"),
    [("float32", "none", 50.0), ("bfloat16", "none", 35.0), ("bfloat16", "fp8", 28.0)],
)
def test_gpu_images_match_cpu(
    expected: list[np.ndarray], dtype: str, quantization: str, min_psnr: float, graphs: bool
) -> None:
    engine = Engine("demo", dtype, "cuda", quantization=quantization, cuda_graphs=graphs)
    for images, reference in zip(engine.generate(REQUESTS), expected, strict=True):
        assert psnr(images, reference) >= min_psnr
    replayed = {
        report.phase for report in engine.emitted if isinstance(report, StepReport) and report.forwards.replayed
    }
    assert replayed == ({"encode", "denoise", "decode"} if graphs else set())
