"""Predicted seconds and bytes: the fit to measurements, its correction, and the memory check."""

from collections.abc import Sequence
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


def seconds_of(costs: CostModel, phase: str) -> float:
    """Predicted seconds of the phase's step in these tests."""
    return {"encode": costs.encode_seconds(1), "denoise": costs.step_seconds(64), "decode": costs.decode_seconds(1000)}[
        phase
    ]


def after(costs: CostModel, phase: str, slowdowns: Sequence[float]) -> CostModel:
    """Costs after steps that took so many times the seconds at warm-up."""
    for slowdown in slowdowns:
        seconds = slowdown * seconds_of(COSTS, phase)
        costs = costs.corrected(report(phase, seconds, tokens=64, pixels=1000))
    return costs


@pytest.mark.parametrize("phase", ["encode", "denoise", "decode"])
@pytest.mark.parametrize("slowdown", [0.02, 0.5, 1.3, 8.0, 61.0])
def test_costs_follow_new_speed_within_ten_steps_and_back(phase: str, slowdown: float) -> None:
    noisy = [slowdown * noise for noise in (1.0, 0.9, 1.1, 1.0, 3.0, 0.95, 1.0, 1.05, 1.0, 1.0)]
    slow = after(COSTS, phase, noisy)
    assert seconds_of(slow, phase) == pytest.approx(slowdown * seconds_of(COSTS, phase), rel=0.05)
    assert seconds_of(after(slow, phase, [1.0] * 10), phase) == pytest.approx(seconds_of(COSTS, phase))


def test_costs_unmoved_by_passing_neighbour() -> None:
    """It slows three of a hundred steps, and the costs of other phases are theirs alone."""
    costs = COSTS
    for _ in range(5):
        costs = after(costs, "denoise", [60.0, 100.0, 60.0, *[1.0] * 100])
        assert seconds_of(costs, "denoise") == pytest.approx(seconds_of(COSTS, "denoise"))
    slow = after(costs, "denoise", [60.0] * 10)
    assert slow.decode_seconds(1000) == COSTS.decode_seconds(1000)


def test_costs_of_other_sizes_follow_too() -> None:
    slow = after(COSTS, "denoise", [4.0] * 10)
    assert slow.step_seconds(2048) == pytest.approx(4 * COSTS.step_seconds(2048))
    assert slow.tokens_within(slow.step_seconds(77)) in (76, 77)


def test_image_beyond_memory_refused_with_sizes() -> None:
    memory = MemoryModel(capacity=64 * 2000, token=2000, pixel=1, band=1)
    check_fits(PARAMS, MODEL, memory)
    with pytest.raises(
        InvalidParams, match=r"an image of 256x160 needs .* GiB .* on cpu; request a smaller size"
    ) as refused:
        check_fits(GenerationParams("a cat", 256, 160, 10, 4.5, seed=0), MODEL, memory)
    assert refused.value.param == "size"
