"""Predicted seconds and bytes: the fit to measurements, its correction, and the memory check."""

from dataclasses import replace

import pytest

from engine import GenerationParams, InvalidParams, ModelInfo, StepReport
from engine.costs import CostModel, MemoryModel, fit_line, grid_size, image_tokens, request_seconds
from engine.params import check_fits

MODEL = ModelInfo("m", (256, 256), 20, 4.5, size_multiple=32, max_side=4096, created=0, device="cpu", dtype="float32")
COSTS = CostModel(encode=0.1, step=0.01, token=0.001, decode=0.02, pixel=1e-6)
PARAMS = GenerationParams("a cat", 256, 128, 10, 4.5, seed=0)


def report(phase: str, seconds: float, tokens: int = 0, pixels: int = 0) -> StepReport:
    return StepReport(0, phase, seconds, tokens, 1000, pixels, 1, 1, 0, 0, 0)


def test_request_seconds_sum_steps_and_pixels() -> None:
    assert image_tokens(PARAMS, MODEL) == 2 * 8 * 4
    seconds = 0.1 + 10 * (0.01 + 0.064) + 0.02 + 256 * 128e-6
    assert request_seconds(PARAMS, MODEL, COSTS) == pytest.approx(seconds)
    assert COSTS.tokens_within(COSTS.step_seconds(77)) in (76, 77)
    assert COSTS.tokens_within(0.0) == 0


@pytest.mark.parametrize(
    ("size", "grid"),
    [((256, 128), (256, 128)), ((225, 97), (256, 128)), ((33, 32), (64, 32)), ((1920, 1080), (1920, 1088))],
)
def test_size_off_grid_costs_next_grid_size(size: tuple[int, int], grid: tuple[int, int]) -> None:
    asked, whole = (replace(PARAMS, width=width, height=height) for width, height in (size, grid))
    assert grid_size(asked, MODEL) == grid
    assert image_tokens(asked, MODEL) == image_tokens(whole, MODEL)
    assert request_seconds(asked, MODEL, COSTS) == request_seconds(whole, MODEL, COSTS)


@pytest.mark.parametrize(("points", "line"), [([(10, 1.0), (30, 2.0)], (0.5, 0.05)), ([(9, 1.0), (90, 0.9)], None)])
def test_fit_line_positive_on_noisy_clock(points: list[tuple[int, float]], line: tuple[float, float] | None) -> None:
    fixed, slope = fit_line(points)
    assert fixed > 0
    assert slope > 0
    if line is not None:
        assert (fixed, slope) == pytest.approx(line)


def test_cost_correction_bounds_outliers() -> None:
    costs = COSTS
    for _ in range(200):
        costs = costs.corrected(report("denoise", 2 * COSTS.step_seconds(64), tokens=64))
        costs = costs.corrected(report("decode", 3 * COSTS.decode_seconds(1000), pixels=1000))
        costs = costs.corrected(report("encode", 0.05))
    assert costs.step_seconds(64) == pytest.approx(2 * COSTS.step_seconds(64), rel=0.01)
    assert costs.decode_seconds(1000) == pytest.approx(3 * COSTS.decode_seconds(1000), rel=0.01)
    assert costs.encode == pytest.approx(0.05, rel=0.01)
    assert COSTS.corrected(report("denoise", 1000.0, tokens=64)).step < 1.2 * COSTS.step


def test_image_beyond_memory_refused_with_sizes() -> None:
    memory = MemoryModel(capacity=64 * 2000, token=2000, pixel=1, band=1)
    check_fits(PARAMS, MODEL, memory)
    with pytest.raises(
        InvalidParams, match=r"an image of 256x160 needs .* GiB .* on cpu; request a smaller size"
    ) as refused:
        check_fits(GenerationParams("a cat", 256, 160, 10, 4.5, seed=0), MODEL, memory)
    assert refused.value.param == "size"
