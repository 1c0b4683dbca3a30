"""POST /v1/images/generations by OpenAI's client and by plain HTTP."""

import asyncio
import base64
import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from transformers import AutoTokenizer

from engine import GenerationParams, ModelInfo
from server.routes.images import to_params
from server.schemas import ImageGenerationRequest

from ..live import ROOT, LiveServer

SMALL: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 1, "guidance_scale": 1.0}
PNG = b"\x89PNG\r\n\x1a\n"


def generate(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/images/generations", json={**SMALL, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def png_size(image: bytes) -> tuple[int, int]:
    assert image.startswith(PNG)
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image))).astype(int)


def decoded(answer: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(entry["b64_json"], validate=True) for entry in answer["data"]]


def test_shared_fields_reach_engine_params() -> None:
    """With and without `stream`, since previews are only sent in a stream."""
    model = ModelInfo("m", (512, 256), 20, 4.5, 32, 4096, 0, "cpu", "float32")
    shared: dict[str, Any] = {
        "prompt": "a cat",
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "seed": 3,
        "negative_prompt": "grey",
        "n": 2,
        "partial_images": 1,
        "output_format": "webp",
        "output_compression": 50,
        "embed_params": False,
        "priority": "high",
        "timeout": 9.0,
    }
    expected = GenerationParams(width=64, height=32, tenant="tenant", **shared)
    for stream in (True, False):
        body = ImageGenerationRequest(size="64x32", stream=stream, **shared)
        assert to_params(body, model, "tenant") == replace(expected, partial_images=1 if stream else 0)


def test_openai_client_gets_png(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red circle left of a blue square",
        model=client.models.list().data[0].id,
        n=1,
        size="64x96",  # type: ignore[arg-type]
        response_format="b64_json",
        output_format="png",
        extra_body={"seed": 7, "num_inference_steps": 2, "guidance_scale": 4.5, "negative_prompt": "grey"},
    )
    assert answer.data is not None
    image = base64.b64decode(answer.data[0].b64_json or "")
    assert png_size(image) == (64, 96)
    assert b"a red circle left of a blue square" in image  # the settings are in the file's text chunks
    assert answer.data[0].seed == 7  # type: ignore[attr-defined]
    assert (answer.size, answer.output_format, answer.background, answer.quality) == ("64x96", "png", "opaque", "low")
    assert answer.created > 1_700_000_000
    assert answer._request_id


def test_null_and_hint_fields_leave_image_unchanged(http: httpx.Client) -> None:
    plain = generate(http, size="64x64", seed=3)
    nulls = dict.fromkeys(("model", "n", "response_format", "stream", "background", "quality", "svg"))
    hints = {"user": "u", "moderation": "low", "style": "vivid", "output_compression": 100}
    same = generate(http, size="64x64", seed=3, **nulls, **hints)
    assert decoded(same) == decoded(plain)


def test_seed_offset_per_image(http: httpx.Client) -> None:
    three = generate(http, size="64x64", seed=40, n=3)
    assert [entry["seed"] for entry in three["data"]] == [40, 41, 42]
    assert len(set(decoded(three))) == 3
    third = generate(http, size="64x64", seed=42)
    assert decoded(third) == decoded(three)[2:]


def test_random_seed_reported_and_reproducible(http: httpx.Client) -> None:
    first, second = generate(http, size="64x64"), generate(http, size="64x64")
    assert first["data"][0]["seed"] != second["data"][0]["seed"]
    assert decoded(generate(http, size="64x64", seed=first["data"][0]["seed"])) == decoded(first)


def png_settings(image: bytes) -> dict[str, Any]:
    return json.loads(Image.open(io.BytesIO(image)).text["sana-serve"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"size": "100x75"}, (100, 75)),
        ({"size": "33*64"}, (33, 64)),
        ({"size": " 64 X 95 "}, (64, 95)),
        ({"width": 65.0, "height": 33.0}, (65, 33)),
        ({"aspect_ratio": "16:9", "size": ""}, (320, 180)),
    ],
    ids=str,
)
@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_size_off_grid_is_exact(
    http: httpx.Client, fields: dict[str, Any], size: tuple[int, int], output_format: str
) -> None:
    answer = generate(http, **fields, seed=3, output_format=output_format)
    [image] = decoded(answer)
    assert Image.open(io.BytesIO(image)).size == size
    assert answer["size"] == f"{size[0]}x{size[1]}"
    if output_format == "png":
        assert png_settings(image)["size"] == answer["size"]
    grid = [-(-side // 32) * 32 for side in size]
    assert answer["usage"]["output_tokens"] == grid[0] * grid[1] // 1024


def test_size_off_grid_is_centre_of_next_grid_size(http: httpx.Client) -> None:
    [whole], [part] = (decoded(generate(http, size=size, seed=3)) for size in ("96x64", "71x41"))
    assert np.array_equal(pixels(part), pixels(whole)[11:52, 12:83])


def test_synonyms_give_same_image(http: httpx.Client) -> None:
    named = {"num_inference_steps": 3, "guidance_scale": 2.0, "size": "64x96", "seed": 9, "negative_prompt": "grey"}
    common = {"steps": 3, "cfg_scale": 2, "width": 64, "height": 96, "noise_seed": 9, "negativePrompt": "grey"}
    answers = [
        http.post("/v1/images/generations", json={"prompt": "a red circle", **fields}) for fields in (named, common)
    ]
    assert decoded(answers[0].json()) == decoded(answers[1].json())
    assert "x-ignored-params" not in answers[1].headers


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63, 2**64 - 1])
def test_seed_of_64_bits_reported_and_distinct(http: httpx.Client, seed: int) -> None:
    first, second = generate(http, size="32x32", seed=seed), generate(http, size="32x32", seed=seed - 1)
    assert first["data"][0]["seed"] == seed == png_settings(decoded(first)[0])["seed"]
    assert not np.array_equal(pixels(decoded(first)[0]), pixels(decoded(second)[0]))


def test_seed_wraps_at_64_bits(http: httpx.Client) -> None:
    answer = generate(http, size="32x32", seed=2**64 - 1, n=2)
    assert [entry["seed"] for entry in answer["data"]] == [2**64 - 1, 0]
    assert decoded(answer)[1:] == decoded(generate(http, size="32x32", seed=0))


def test_seed_of_minus_one_is_random(http: httpx.Client) -> None:
    seeds = [generate(http, size="32x32", seed=seed)["data"][0]["seed"] for seed in (-1, -1.0)]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0


@pytest.mark.parametrize("stream", [False, True])
def test_unused_negative_prompt_named_and_not_recorded(http: httpx.Client, server: LiveServer, stream: bool) -> None:
    body = {**SMALL, "size": "64x64", "seed": 3, "negative_prompt": "grey", "stream": stream}
    response = http.post("/v1/images/generations", json=body)
    assert response.headers["x-ignored-params"] == "negative_prompt"
    server.logged(f"{response.headers['x-request-id']} ignored parameters: negative_prompt")
    if not stream:
        [image] = decoded(response.json())
        assert png_settings(image)["negative_prompt"] == ""
        assert [image] == decoded(generate(http, size="64x64", seed=3))


def test_used_negative_prompt_recorded(http: httpx.Client) -> None:
    body = {**SMALL, "size": "64x64", "seed": 3, "negative_prompt": "grey", "guidance_scale": 1.5}
    response = http.post("/v1/images/generations", json=body)
    assert "x-ignored-params" not in response.headers
    assert png_settings(decoded(response.json())[0])["negative_prompt"] == "grey"


@pytest.mark.parametrize("size", ["auto", None])
def test_default_size_reported_in_pixels(http: httpx.Client, size: str | None) -> None:
    answer = generate(http, size=size)
    width, height = png_size(decoded(answer)[0])
    assert answer["size"] == f"{width}x{height}"


def test_response_has_stage_timings(http: httpx.Client) -> None:
    timings = generate(http, size="64x64")["timings"]
    assert set(timings) == {"queue", "encode", "denoise", "decode", "total"}
    assert all(seconds >= 0 for seconds in timings.values())
    assert timings["total"] >= timings["denoise"] > 0


def test_response_echoes_settings_and_usage(http: httpx.Client) -> None:
    answer = generate(http, size="64x96", n=2, quality="low", num_inference_steps=None, negative_prompt="grey")
    assert answer["model"] == "demo"
    assert (answer["num_inference_steps"], answer["guidance_scale"], answer["quality"]) == (10, 1.0, "low")
    usage = answer["usage"]
    assert usage["output_tokens"] == usage["output_tokens_details"]["image_tokens"] == 2 * (64 // 32) * (96 // 32)
    assert usage["input_tokens"] == usage["input_tokens_details"]["text_tokens"] == 3  # a, red, circle
    assert usage["input_tokens_details"]["image_tokens"] == usage["output_tokens_details"]["text_tokens"] == 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_usage_counts_encoded_text_tokens(http: httpx.Client) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "engine" / "demo" / "tokenizer")

    def text_tokens(**fields: Any) -> int:
        return generate(http, size="64x64", **fields)["usage"]["input_tokens"]

    assert text_tokens(negative_prompt="grey") == 3  # without guidance the negative prompt is not encoded
    assert text_tokens(negative_prompt="grey", guidance_scale=4.5) == 3 + len(
        tokenizer.encode("grey", add_special_tokens=False)
    )
    assert text_tokens(guidance_scale=4.5) == 3
    assert text_tokens(prompt="a red circle " * 500) == 299  # the encoder truncates the prompt


@pytest.mark.parametrize(("image_format", "start"), [("png", PNG), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_output_format_is_encoded(http: httpx.Client, image_format: str, start: bytes) -> None:
    compression = {} if image_format == "png" else {"output_compression": 80}
    answer = generate(http, size="64x64", output_format=image_format, **compression)
    assert decoded(answer)[0].startswith(start)
    assert answer["output_format"] == image_format


def test_embed_params_false_omits_prompt(http: httpx.Client) -> None:
    [image] = decoded(generate(http, size="64x64", seed=5, embed_params=False))
    assert b"a red circle" not in image
    assert b"seed" in image


def test_lower_output_compression_gives_smaller_file(http: httpx.Client) -> None:
    sizes = [
        len(decoded(generate(http, size="256x256", seed=1, output_format="jpeg", output_compression=level))[0])
        for level in (10, 95)
    ]
    assert sizes[0] < sizes[1]


def test_chunked_body_and_client_headers_accepted(http: httpx.Client) -> None:
    body = json.dumps({**SMALL, "size": "64x64", "seed": 3}).encode()
    headers = {
        "content-type": "application/json; charset=utf-8",
        "accept": "text/event-stream",  # only the body decides about streaming
        "openai-organization": "org",
        "openai-project": "proj",
        "openai-beta": "x",
        "x-stainless-lang": "python",
        "x-stainless-read-timeout": "600",
    }
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    response = http.post("/v1/images/generations?api-version=1", content=pieces, headers=headers)
    assert response.request.headers["transfer-encoding"] == "chunked"
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    assert decoded(response.json()) == decoded(generate(http, size="64x64", seed=3))


def test_response_has_documented_fields_without_null(http: httpx.Client) -> None:
    answer = generate(http, size="64x64", model="dall-e-3")
    ours = {"model", "num_inference_steps", "guidance_scale", "timings"}
    assert set(answer) == {"created", "data", "size", "quality", "background", "output_format", "usage"} | ours
    assert set(answer["data"][0]) == {"b64_json", "seed"}
    assert answer["quality"] in {"low", "medium", "high", "xhigh", "max"}  # some clients have closed enums


def test_alias_accepted_as_model(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="dall-e-3", prompt="a cat", quality="low", size="64x64", extra_body={"num_inference_steps": 1}
    )  # type: ignore[call-overload]
    assert answer.data
    assert answer.data[0].b64_json


def test_url_response_serves_png(client: openai.OpenAI, http: httpx.Client) -> None:
    answer = client.images.generate(
        prompt="a cat", response_format="url", size="64x64", extra_body={"num_inference_steps": 1}
    )  # type: ignore[call-overload]
    assert answer.data[0].b64_json is None
    response = httpx.get(answer.data[0].url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert png_size(response.content) == (64, 64)


def test_openai_client_raw_response(client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.generate(
        prompt="a cat", size="64x64", extra_body={"num_inference_steps": 1, "webhook": "x"}
    )  # type: ignore[call-overload]
    assert raw.headers["x-ignored-params"] == "webhook"
    assert raw.headers["content-type"] == "application/json"
    assert raw.request_id
    assert png_size(base64.b64decode(raw.parse().data[0].b64_json)) == (64, 64)


def test_openai_async_client_concurrent_requests(server: LiveServer) -> None:
    async def generate_three() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
            pending = [
                client.images.generate(prompt="a cat", size="64x64", extra_body={"num_inference_steps": 1, "seed": k})
                for k in range(3)
            ]  # type: ignore[call-overload]
            return [answer.data[0].b64_json for answer in await asyncio.gather(*pending)]

    assert len(set(asyncio.run(generate_three()))) == 3


def test_unknown_names_ignored_and_listed(http: httpx.Client, server: LiveServer) -> None:
    body = {**SMALL, "size": "64x64", "webhook": "x", "x\r\nset-cookie: a": 1, "caf\u00e9\ud800": 2}
    response = http.post(
        "/v1/images/generations", content=ascii_json(body), headers={"content-type": "application/json"}
    )
    assert response.status_code == 200
    assert response.headers["x-ignored-params"] == "webhook, x??set-cookie??a, caf??"
    assert "set-cookie" not in response.headers
    server.logged("ignored parameters: webhook")


TYPE, VALUE, LOW, HIGH = "invalid_type", "invalid_value", "integer_below_min_value", "integer_above_max_value"
BAD: list[tuple[dict[str, Any], str, str, str]] = [
    ({"prompt": None}, "prompt", "missing_required_parameter", "Missing"),
    ({"prompt": ""}, "prompt", VALUE, "empty"),
    ({"prompt": " \n\t"}, "prompt", VALUE, "empty"),
    ({"prompt": "x" * 100_000}, "prompt", "string_above_max_length", "32000"),
    ({"prompt": "a\0b"}, "prompt", VALUE, "NUL"),
    ({"prompt": "a\ud800b"}, "prompt", VALUE, "surrogate"),
    ({"prompt": 7}, "prompt", TYPE, "string"),
    ({"negative_prompt": "\udfff"}, "negative_prompt", VALUE, "surrogate"),
    ({"size": "0x0"}, "size", VALUE, "nearest valid size"),
    ({"size": "31x1000"}, "size", VALUE, "32x1000"),
    ({"size": "4097x1000"}, "size", VALUE, "4096x1000"),
    ({"width": 16, "height": 1000}, "size", VALUE, "32x1000"),
    ({"aspect_ratio": "1:1000"}, "size", VALUE, "between 32 and 4096"),
    ({"init_image": "AA=="}, "init_image", "unknown_parameter", "from text alone"),
    ({"steps": 3}, "num_inference_steps", VALUE, "num_inference_steps and steps"),
    ({"size": "8192x8192"}, "size", VALUE, "4096x4096"),
    ({"size": "999999999x32"}, "size", VALUE, "nearest"),
    ({"size": "large"}, "size", VALUE, "WIDTHxHEIGHT"),
    ({"size": "\ud800"}, "size", VALUE, "WIDTHxHEIGHT"),
    ({"n": 0}, "n", LOW, "1"),
    ({"n": 11}, "n", HIGH, "10"),
    ({"n": -(10**30)}, "n", LOW, "1"),
    ({"n": "2"}, "n", TYPE, "integer"),
    ({"num_inference_steps": 0}, "num_inference_steps", LOW, "1"),
    ({"num_inference_steps": 1000}, "num_inference_steps", HIGH, "100"),
    ({"seed": -2}, "seed", LOW, "0"),
    ({"seed": 2**64}, "seed", HIGH, "between 0 and 18446744073709551615"),
    ({"seed": 10**4000}, "seed", HIGH, "seed"),
    ({"guidance_scale": -1}, "guidance_scale", VALUE, "between 0.0 and 50.0"),
    ({"guidance_scale": 1e9}, "guidance_scale", VALUE, "between 0.0 and 50.0"),
    ({"guidance_scale": float("nan")}, "guidance_scale", VALUE, "got nan"),
    ({"guidance_scale": float("inf")}, "guidance_scale", VALUE, "got inf"),
    ({"stream": True, "n": 0}, "n", LOW, "1"),
    ({"stream": True, "size": "31x1000"}, "size", VALUE, "nearest"),
    ({"response_format": "file"}, "response_format", VALUE, "'b64_json', 'url'"),
    ({"output_format": "gif"}, "output_format", VALUE, "'png', 'jpeg', 'webp'"),
    ({"output_compression": 50}, "output_compression", VALUE, "lossless"),
    ({"output_format": "png", "output_compression": 99}, "output_compression", VALUE, "lossless"),
    ({"output_format": "jpeg", "output_compression": -1}, "output_compression", LOW, "between 0 and 100"),
    ({"output_compression": 101}, "output_compression", HIGH, "between 0 and 100"),
    ({"partial_images": 4}, "partial_images", HIGH, "between 0 and 3"),
    ({"stream": True, "partial_images": -1}, "partial_images", LOW, "between 0 and 3"),
    ({"frame_count": 2}, "frame_count", "unknown_parameter", "animations"),
    ({"priority": "urgent"}, "priority", VALUE, "'high', 'normal', 'low'"),
    ({"timeout": 0}, "timeout", VALUE, "above 0"),
    ({"timeout": 1e9}, "timeout", HIGH, "at most 86400"),
    ({"timeout": float("inf")}, "timeout", VALUE, "got inf"),
    ({"background": "transparent"}, "background", VALUE, "'opaque'"),
]


def ascii_json(value: object) -> bytes:
    return json.dumps(value).encode()  # escapes lone surrogates


@pytest.mark.parametrize(("fields", "param", "code", "words"), BAD, ids=lambda value: ascii(value)[:30])
def test_bad_values_refused_by_name(
    http: httpx.Client, fields: dict[str, Any], param: str, code: str, words: str
) -> None:
    content = ascii_json({**SMALL, **fields})
    response = http.post("/v1/images/generations", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_openai_client_raises_typed_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a cat", size="5000x1000")  # type: ignore[call-overload]
    assert (caught.value.param, caught.value.code, caught.value.type) == ("size", VALUE, "invalid_request_error")
    assert caught.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="a cat", model="dall-e-2")
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")


def test_upload_to_unknown_path_gets_404(client: openai.OpenAI) -> None:
    """It must be drained first: a client reads no response while it sends."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(file=("a.wav", bytes(3_000_000), "audio/wav"), model="whisper-1")
    assert (caught.value.code, caught.value.param, caught.value.type) == ("unknown_url", None, "invalid_request_error")


def test_server_log_has_no_errors(server: LiveServer) -> None:
    log = server.log.read_text()
    assert "Traceback" not in log
    assert not [line for line in log.splitlines() if " 500 " in line]
    assert Path(server.log).stat().st_size > 0
