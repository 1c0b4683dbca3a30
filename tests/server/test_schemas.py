from typing import Any

import pytest

from engine import InvalidParams
from server.schemas import ImageGenerationRequest, parse_generation

# sent by the official clients and UIs; this server ignores or honours each of them
HARMLESS: list[dict[str, Any]] = [
    {"user": "u"},
    {"safety_identifier": "s"},
    {"moderation": "low"},
    {"moderation": "none"},
    {"user": 123},
    {"max_tokens": 1.0},
    {"style": "vivid"},
    {"quality": "standard"},
    {"quality": "hd"},
    {"quality": "max"},
    {"complexity": "high"},
    {"background": "auto"},
    {"background": "opaque"},
    {"output_compression": 100},
    {"output_format": "png"},
    {"output_format": "jpeg", "output_compression": 0},
    {"output_format": "webp", "output_compression": 50},
    {"response_format": "b64_json"},
    {"response_format": "url"},
    {"stream": True},
    {"priority": "high", "timeout": 3, "embed_params": False},
    {"stream": False},
    {"partial_images": 3},
    {"guidance_scale": 4},
]

TYPE, VALUE, LOW, HIGH = "invalid_type", "invalid_value", "integer_below_min_value", "integer_above_max_value"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": 5}, "prompt", TYPE),
    ({"prompt": ["a cat"]}, "prompt", TYPE),
    ({"prompt": {"text": "a cat"}}, "prompt", TYPE),
    ({"n": "2"}, "n", TYPE),
    ({"n": True}, "n", TYPE),
    ({"n": 1.5}, "n", TYPE),
    ({"n": []}, "n", TYPE),
    ({"seed": "7"}, "seed", TYPE),
    ({"seed": 1e-3}, "seed", TYPE),
    ({"seed": float("inf")}, "seed", TYPE),
    ({"steps": 4.5}, "steps", TYPE),
    ({"partial_images": 0.5}, "partial_images", TYPE),
    ({"output_compression": float("nan")}, "output_compression", TYPE),
    ({"num_inference_steps": False}, "num_inference_steps", TYPE),
    ({"guidance_scale": "4.5"}, "guidance_scale", TYPE),
    ({"guidance_scale": True}, "guidance_scale", TYPE),
    ({"guidance_scale": 10**400}, "guidance_scale", TYPE),
    ({"negative_prompt": 0}, "negative_prompt", TYPE),
    ({"size": 512}, "size", TYPE),
    ({"model": 1}, "model", TYPE),
    ({"quality": 1}, "quality", TYPE),
    ({"stream": "true"}, "stream", TYPE),
    ({"stream": 1}, "stream", TYPE),
    ({"response_format": "file"}, "response_format", VALUE),
    ({"output_format": "gif"}, "output_format", VALUE),
    ({"priority": "urgent"}, "priority", VALUE),
    ({"timeout": "3"}, "timeout", TYPE),
    ({"embed_params": 1}, "embed_params", TYPE),
    ({"output_format": "svg"}, "output_format", VALUE),
    ({"background": "transparent"}, "background", VALUE),
    ({"quality": "best"}, "quality", VALUE),
    ({"quality": "\ud800"}, "quality", VALUE),
    ({"style": "manga"}, "style", VALUE),
    ({"output_compression": "50"}, "output_compression", TYPE),
    ({"partial_images": -1}, "partial_images", LOW),
    ({"partial_images": 4}, "partial_images", HIGH),
    ({"svg": {"model": "x"}}, "svg", "unknown_parameter"),
    ({"frame_count": 2}, "frame_count", "unknown_parameter"),
    ({"frame_duration_ms": 100}, "frame_duration_ms", "unknown_parameter"),
]


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
def test_harmless_fields_accepted(fields: dict[str, Any]) -> None:
    request, unknown = parse_generation({"prompt": "a cat", **fields})
    assert request.prompt == "a cat"
    assert unknown == []


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED, ids=lambda value: ascii(value)[:40])
def test_unsupported_values_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse_generation({"prompt": "a cat", **fields})
    assert (caught.value.param, caught.value.code) == (param, code)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("output_format", "jpg", "jpeg"),
        ("output_format", "JPEG", "jpeg"),
        ("output_format", "image/webp", "webp"),
        ("output_format", ".png", "png"),
        ("quality", "HD", "hd"),
        ("quality", " Standard ", "standard"),
        ("response_format", "URL", "url"),
        ("response_format", "base64", "b64_json"),
        ("style", "Vivid", "vivid"),
        ("background", "Auto", "auto"),
        ("priority", "HIGH", "high"),
    ],
)
def test_usual_spelling_of_word_accepted(name: str, value: str, meant: str) -> None:
    request, _ = parse_generation({"prompt": "a cat", name: value})
    assert getattr(request, name) == meant


@pytest.mark.parametrize("name", sorted(ImageGenerationRequest.model_fields.keys() - {"prompt"}))
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_text_is_absent(name: str, value: str) -> None:
    """Forms and templates send it for what was not filled in."""
    request, unknown = parse_generation({"prompt": "a cat", name: value})
    assert (getattr(request, name), unknown) == (None, [])


@pytest.mark.parametrize("name", ["n", "seed", "num_inference_steps", "partial_images", "output_compression"])
@pytest.mark.parametrize("value", [2.0, 0.0, 3e0])
def test_whole_float_accepted_as_integer(name: str, value: float) -> None:
    request, _ = parse_generation({"prompt": "a cat", name: value})
    assert getattr(request, name) == value
    assert type(getattr(request, name)) is int


def test_prompt_required() -> None:
    with pytest.raises(InvalidParams, match="prompt") as caught:
        parse_generation({"n": 1})
    assert (caught.value.param, caught.value.code) == ("prompt", "missing_required_parameter")


def test_invalid_word_error_lists_supported() -> None:
    with pytest.raises(InvalidParams, match=r"'bogus'\. Supported values are: 'vivid', 'natural'\."):
        parse_generation({"prompt": "a cat", "style": "bogus"})


def test_unknown_names_returned() -> None:
    _, unknown = parse_generation({"prompt": "a cat", "webhook": "x", "tag\n\ud800": 1})
    assert unknown == ["webhook", "tag\n\ud800"]


def test_strict_unknown_name_suggests_nearest() -> None:
    with pytest.raises(InvalidParams, match=r"'num_inference_step'\. Did you mean 'num_inference_steps'") as caught:
        parse_generation({"prompt": "a cat", "num_inference_step": 3}, strict=True)
    assert (caught.value.param, caught.value.code) == ("num_inference_step", "unknown_parameter")
    with pytest.raises(InvalidParams) as caught:
        parse_generation({"prompt": "a cat", "\ud800\n": 3}, strict=True)
    assert "\n" not in str(caught.value)
    parse_generation({"prompt": "a cat", "user": "u", "seed": 1}, strict=True)


def test_only_prompt_is_required() -> None:
    required = [name for name, field in ImageGenerationRequest.model_fields.items() if field.is_required()]
    assert required == ["prompt"]
