"""The demo on a GPU beside itself in fp32 on the CPU: kernels, graphs and the two streams at once."""

import numpy as np
import pytest

from engine import StepReport

from ...reference import psnr
from ..test_demo import REQUESTS
from .stepping import Engine


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return Engine("demo").draw(REQUESTS)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["launched", "replayed"])
@pytest.mark.parametrize(
    ("dtype", "quantization", "least"),
    [("float32", "none", 50.0), ("bfloat16", "none", 35.0), ("bfloat16", "fp8", 28.0)],
)
def test_the_same_pictures(
    expected: list[np.ndarray], dtype: str, quantization: str, least: float, graphs: bool
) -> None:
    engine = Engine("demo", dtype, "cuda", quantization=quantization, cuda_graphs=graphs)
    for drawn, picture in zip(engine.draw(REQUESTS), expected, strict=True):
        assert psnr(drawn, picture) >= least
    replayed = {
        report.phase for report in engine.emitted if isinstance(report, StepReport) and report.forwards.replayed
    }
    assert replayed == ({"encode", "denoise", "decode"} if graphs else set())
