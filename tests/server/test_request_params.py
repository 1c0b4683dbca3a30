from dataclasses import replace

import pytest

from engine import MAX_STEPS, InvalidParams, ModelInfo
from server.request_params import QUALITY, RANDOM, RANDOM_SEEDS, preset_steps, quality_of, resolve_params, resolve_size

MODEL = ModelInfo("m", (512, 256), 20, 4.5, 32, 4096, 0, "cpu", "float32")


@pytest.mark.parametrize(
    "text",
    [
        "640x480",
        "640X480",
        "640*480",
        "640\u00d7480",
        " 640x480\n",
        "640 x 480",
        "640 * 480",
        "\t640\u00d7 480",
        "0640x480",
    ],
)
def test_size_spellings_accepted(text: str) -> None:
    assert resolve_size(text, MODEL) == (640, 480)


@pytest.mark.parametrize(
    "text",
    [
        "512",
        "512x",
        "x512",
        "-1x5",
        "5.0x5",
        "٣x٣",
        "1" * 50 + "x1",
        "large",
        "1024px",
        "512x512x3",
        "0:1",
        "16:",
        "2K",
    ],
)
def test_malformed_size_error_has_example(text: str) -> None:
    with pytest.raises(InvalidParams, match=r"like 512x512|like 16:9") as caught:
        resolve_size(text, MODEL)
    assert caught.value.param == "size"


@pytest.mark.parametrize("native", [256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("ratio", ["1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16", "21:9", "4:5", "1/2", "32:18"])
def test_size_of_ratio_is_exact_and_near_native(native: int, ratio: str) -> None:
    model = replace(MODEL, default_size=(native, native))
    width, height = resolve_size(ratio, model)
    across, down = map(int, ratio.replace("/", ":").split(":"))
    assert width * down == height * across
    assert max(width, height) <= model.max_side
    if native < 4096:  # whose longer sides would exceed the largest
        assert width * height == pytest.approx(native**2, rel=0.21)


@pytest.mark.parametrize(
    ("native", "sizes"),
    [
        (256, ["256x256", "288x192", "320x240", "320x180"]),
        (512, ["512x512", "672x448", "640x480", "640x360"]),
        (1024, ["1024x1024", "1248x832", "1152x864", "1280x720"]),
    ],
)
def test_size_of_ratio_prefers_coarse_grid(native: int, sizes: list[str]) -> None:
    model = replace(MODEL, default_size=(native, native))
    resolved = [resolve_size(ratio, model) for ratio in ("1:1", "3:2", "4:3", "16:9")]
    assert [f"{width}x{height}" for width, height in resolved] == sizes


@pytest.mark.parametrize("size", [None, "auto", "", "  ", "AUTO"])
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
    seeds = {resolve_params(MODEL, "a cat", seed=seed).seed for seed in (None, RANDOM) for _ in range(20)}
    assert len(seeds) > 30
    assert all(0 <= seed < RANDOM_SEEDS for seed in seeds)
