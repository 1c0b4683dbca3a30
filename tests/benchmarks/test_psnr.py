import numpy as np
import pytest

from benchmarks.psnr import psnr


def test_psnr_of_known_images() -> None:
    black = np.zeros((2, 2, 3), dtype=np.uint8)
    assert psnr(black, black) == float("inf")
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 1) == pytest.approx(48.13, abs=0.01)
