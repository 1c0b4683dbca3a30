"""Checks of request parameters: each error names its parameter, what was received, and what would be right."""

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
        {"width": 33, "height": 4095},
        {"width": 1920, "height": 1080},
        {"num_inference_steps": 1, "guidance_scale": 0.0},
        {"seed": 2**62, "n": 10},
        {"prompt": "猫🐱", "negative_prompt": "x" * 32000},
        {"guidance_scale": 50.0, "partial_images": 3, "timeout": 86400.0},
        {"output_format": "jpeg", "output_compression": 0},
        {"output_format": "webp", "output_compression": 99},
    ],
)
def test_valid_params_accepted(changes: dict[str, object]) -> None:
    check_params(replace(GOOD, **changes), MODEL)


@pytest.mark.parametrize(
    ("changes", "param", "code", "message"),
    [
        ({"prompt": ""}, "prompt", "invalid_value", "empty"),
        ({"prompt": " \n\t"}, "prompt", "invalid_value", "empty"),
        ({"prompt": "x" * 100_000}, "prompt", "string_above_max_length", "at most 32000 characters, got 100000"),
        ({"negative_prompt": "x" * 32001}, "negative_prompt", "string_above_max_length", "at most 32000"),
        ({"prompt": "a\0b"}, "prompt", "invalid_value", "NUL"),
        ({"prompt": "a\ud800b"}, "prompt", "invalid_value", "position 1"),
        ({"width": 0, "height": 0}, "size", "invalid_value", "between 32 and 4096 .*nearest valid size is 32x32"),
        ({"width": 31}, "size", "invalid_value", "nearest valid size is 32x256"),
        ({"height": 4097}, "size", "invalid_value", "nearest valid size is 256x4096"),
        ({"width": 8192, "height": 8192}, "size", "invalid_value", "nearest valid size is 4096x4096"),
        ({"width": -32}, "size", "invalid_value", "nearest valid size is 32x256"),
        ({"num_inference_steps": 0}, "num_inference_steps", "integer_below_min_value", "between 1 and 100, got 0"),
        ({"num_inference_steps": 1000}, "num_inference_steps", "integer_above_max_value", "1 and 100, got 1000"),
        ({"n": 0}, "n", "integer_below_min_value", "^n must be between 1 and 10, got 0$"),
        ({"n": 11}, "n", "integer_above_max_value", "^n must be between 1 and 10, got 11$"),
        ({"seed": -1}, "seed", "integer_below_min_value", "between 0 and 18446744073709551615, got -1"),
        ({"seed": 2**64}, "seed", "integer_above_max_value", "18446744073709551615, got 18446744073709551616"),
        ({"guidance_scale": -1.0}, "guidance_scale", "invalid_value", r"between 0\.0 and 50\.0, got -1\.0"),
        ({"guidance_scale": 50.5}, "guidance_scale", "invalid_value", r"got 50\.5"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "invalid_value", "got nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale", "invalid_value", "got inf"),
        ({"partial_images": -1}, "partial_images", "integer_below_min_value", "between 0 and 3, got -1"),
        ({"partial_images": 4}, "partial_images", "integer_above_max_value", "between 0 and 3, got 4"),
        ({"output_compression": -1}, "output_compression", "integer_below_min_value", "between 0 and 100, got -1"),
        ({"output_compression": 101}, "output_compression", "integer_above_max_value", "between 0 and 100, got 101"),
        ({"output_compression": 99}, "output_compression", "invalid_value", "must be 100 for PNG.*, got 99"),
        ({"timeout": 0.0}, "timeout", "invalid_value", r"above 0 and at most 86400 seconds, got 0\.0"),
        ({"timeout": -1.5}, "timeout", "invalid_value", r"got -1\.5"),
        ({"timeout": 86401.0}, "timeout", "integer_above_max_value", "got 86401"),
        ({"timeout": float("nan")}, "timeout", "invalid_value", "got nan"),
        ({"timeout": float("inf")}, "timeout", "invalid_value", "got inf"),
    ],
)
def test_invalid_params_refused_by_name(changes: dict[str, object], param: str, code: str, message: str) -> None:
    with pytest.raises(InvalidParams, match=message) as refusal:
        check_params(replace(GOOD, **changes), MODEL)
    assert (refusal.value.param, refusal.value.code) == (param, code)
    assert "\n" not in str(refusal.value)
