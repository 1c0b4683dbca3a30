"""Every refusal names its parameter and says what would be right."""

from dataclasses import replace

import pytest

from engine import GenerationParams, InvalidParams, ModelInfo, check_params

MODEL = ModelInfo("m", (256, 256), 20, 4.5, size_multiple=32, max_side=4096, created=0, device="cpu", dtype="float32")
GOOD = GenerationParams("a red circle", 256, 256, 20, 4.5, seed=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": 32, "height": 4096},
        {"num_inference_steps": 1, "guidance_scale": 0.0},
        {"seed": 2**62, "n": 10},
        {"prompt": "猫🐱", "negative_prompt": "x" * 32000},
    ],
)
def test_what_can_be_served_passes(changes: dict[str, object]) -> None:
    check_params(replace(GOOD, **changes), MODEL)


@pytest.mark.parametrize(
    ("changes", "param", "code", "told"),
    [
        ({"prompt": ""}, "prompt", "invalid_value", "empty"),
        ({"prompt": " \n\t"}, "prompt", "invalid_value", "empty"),
        ({"prompt": "x" * 100_000}, "prompt", "string_above_max_length", "at most 32000"),
        ({"negative_prompt": "x" * 32001}, "negative_prompt", "string_above_max_length", "at most 32000"),
        ({"prompt": "a\0b"}, "prompt", "invalid_value", "NUL"),
        ({"prompt": "a\ud800b"}, "prompt", "invalid_value", "position 1"),
        ({"width": 0, "height": 0}, "size", "invalid_value", "nearest valid size is 32x32"),
        ({"width": 1000, "height": 1000}, "size", "invalid_value", "nearest valid size is 992x992"),
        ({"width": 1000, "height": 1010}, "size", "invalid_value", "nearest valid size is 992x1024"),
        ({"width": 8192, "height": 8192}, "size", "invalid_value", "nearest valid size is 4096x4096"),
        ({"width": -32}, "size", "invalid_value", "nearest valid size is 32x256"),
        ({"num_inference_steps": 0}, "num_inference_steps", "integer_below_min_value", "least is 1"),
        ({"num_inference_steps": 1000}, "num_inference_steps", "integer_above_max_value", "most is 100"),
        ({"n": 0}, "n", "integer_below_min_value", "least is 1"),
        ({"n": 11}, "n", "integer_above_max_value", "most is 10"),
        ({"seed": -1}, "seed", "integer_below_min_value", "least is 0"),
        ({"seed": 2**64}, "seed", "integer_above_max_value", "most is"),
        ({"guidance_scale": -1.0}, "guidance_scale", "invalid_value", "from 0 to 50"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "invalid_value", "from 0 to 50"),
        ({"guidance_scale": float("inf")}, "guidance_scale", "invalid_value", "from 0 to 50"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(changes: dict[str, object], param: str, code: str, told: str) -> None:
    with pytest.raises(InvalidParams, match=told) as refusal:
        check_params(replace(GOOD, **changes), MODEL)
    assert (refusal.value.param, refusal.value.code) == (param, code)
    assert "\n" not in str(refusal.value)
