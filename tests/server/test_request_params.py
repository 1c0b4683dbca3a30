from dataclasses import replace

import pytest

from engine import MAX_STEPS, InvalidParams, ModelInfo
from server.request_params import QUALITY, RANDOM_SEEDS, parse_size, preset_steps, quality_of, resolve_params

MODEL = ModelInfo("m", (512, 256), 20, 4.5, 32, 4096, 0, "cpu", "float32")


def test_size_parsed() -> None:
    assert parse_size("512x256") == (512, 256)


@pytest.mark.parametrize(
    "text", ["", "512", "512X512", "512x", "x512", "-1x5", "5.0x5", " 512x512", "512x512\n", "٣x٣", "1" * 50 + "x1"]
)
def test_malformed_size_error_has_example(text: str) -> None:
    with pytest.raises(InvalidParams, match="like 512x512") as caught:
        parse_size(text)
    assert caught.value.param == "size"


@pytest.mark.parametrize("size", [None, "auto"])
def test_absent_params_take_model_defaults(size: str | None) -> None:
    params = resolve_params(MODEL, "a cat", size=size)
    assert (params.width, params.height) == (512, 256)
    assert (params.num_inference_steps, params.guidance_scale, params.negative_prompt, params.n) == (20, 4.5, "", 1)


def test_given_zero_is_kept() -> None:
    given = {"num_inference_steps": 0, "guidance_scale": 0.0, "seed": 0, "n": 0}
    params = resolve_params(MODEL, "a cat", size="64x32", **given)  # type: ignore[arg-type]
    assert {name: getattr(params, name) for name in given} == given


@pytest.mark.parametrize(
    ("quality", "steps"),
    [("low", 10), ("medium", 20), ("auto", 20), ("standard", 20), ("high", 30), ("hd", 30), ("xhigh", 40), ("max", 50)],
)
def test_quality_sets_steps(quality: str, steps: int) -> None:
    assert resolve_params(MODEL, "a cat", quality=quality).num_inference_steps == steps
    assert resolve_params(MODEL, "a cat", quality=quality, num_inference_steps=7).num_inference_steps == 7


@pytest.mark.parametrize("default", [1, 2, 20, 50])
def test_reported_quality_matches_steps(default: int) -> None:
    model = replace(MODEL, default_steps=default)
    for word in QUALITY:
        steps = preset_steps(model, word)
        assert 1 <= steps <= MAX_STEPS
        assert preset_steps(model, quality_of(model, steps)) == steps
    assert quality_of(model, 1) in QUALITY


def test_missing_seed_is_random() -> None:
    seeds = {resolve_params(MODEL, "a cat").seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(0 <= seed < RANDOM_SEEDS for seed in seeds)
