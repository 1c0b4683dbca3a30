"""POST /v1/images/edits and /v1/images/variations as the official clients and others send them."""

import asyncio
import base64
import io
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from PIL import Image, ImageDraw

from engine import EngineConfig
from server.app import create_app
from server.settings import ServerConfig

from ..live import LiveServer
from .test_operations import asgi_client

EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
JSON = {"content-type": "application/json"}
SECRET = "zanzibar-secret"


def picture(width: int = 96, height: int = 64, hole: bool = False) -> bytes:
    image = Image.new("RGBA", (width, height), (200, 60, 60, 255))
    ImageDraw.Draw(image).ellipse((8, 8, 50, 50), fill=(40, 40, 220, 255))
    if hole:
        ImageDraw.Draw(image).rectangle((48, 0, width, height), fill=(0, 0, 0, 0))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


PNG, HOLE = picture(), picture(hole=True)


def pixels(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64))).convert("RGB")


def edit(http: httpx.Client, **fields: Any) -> httpx.Response:
    """A form with the image, a prompt and few steps, with `fields` in place of these."""
    form = {"prompt": "a green square", "steps": "2", "seed": "3", **fields}
    files = {"image": ("in.png", PNG, "image/png"), **form.pop("files", {})}
    return http.post(EDITS, data=form, files=files)


def check_refused(response: httpx.Response, param: str | None, words: str, status: int = 400) -> None:
    assert response.status_code == status, response.text[:300]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert words in error["message"]


def test_official_client_edits_within_transparency(client: openai.OpenAI) -> None:
    answer = client.images.edit(
        image=("in.png", HOLE),
        prompt="a green square",
        n=2,
        size="96x64",
        quality="low",
        response_format="b64_json",
        extra_body={"seed": 5, "num_inference_steps": 3, "guidance_scale": 3.5, "negative_prompt": "2"},
    )
    assert answer.data is not None
    assert answer.size == "96x64"
    assert [image.seed for image in answer.data] == [5, 6]  # type: ignore[attr-defined]
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.image_tokens == 6
    original = Image.open(io.BytesIO(HOLE)).convert("RGB").crop((0, 0, 48, 64))
    images = [pixels(image.b64_json) for image in answer.data]
    assert [image.crop((0, 0, 48, 64)).tobytes() for image in images] == [original.tobytes()] * 2
    assert images[0].tobytes() != images[1].tobytes()


def test_official_client_mask_and_stream(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=[("in.png", PNG)],
        mask=("mask.png", HOLE),
        prompt="a green square",
        stream=True,
        partial_images=2,
        extra_body={"steps": 4, "mask_feather": 0},
    )
    events = list(stream)
    kinds = ["image_edit.partial_image", "image_edit.partial_image", "image_edit.completed"]
    assert [event.type for event in events] == kinds
    original = Image.open(io.BytesIO(PNG)).convert("RGB").crop((0, 0, 48, 64)).tobytes()
    assert all(pixels(event.b64_json).crop((0, 0, 48, 64)).tobytes() == original for event in events)


def test_official_client_variation(client: openai.OpenAI) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = client.images.create_variation(image=PNG, n=1, response_format="b64_json", extra_body={"steps": 2})
    assert answer.data is not None
    assert pixels(answer.data[0].b64_json).size == (96, 64)


def test_strengths_zero_and_one(http: httpx.Client) -> None:
    kept, lost = (edit(http, strength=strength).json()["data"][0]["b64_json"] for strength in ("0", "1"))
    body = {"prompt": "a green square", "steps": 2, "seed": 3, "size": "96x64"}
    generated = http.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"]
    assert pixels(lost).tobytes() == pixels(generated).tobytes()
    red, green, blue = pixels(kept).getpixel((90, 5))  # type: ignore[misc]
    assert red > green + 60
    assert red > blue + 60


@pytest.mark.parametrize(
    "wrap",
    [lambda text: text, lambda text: [{"image_url": f"data:image/png;base64,{text}"}]],
    ids=["base64", "data-url"],
)
def test_json_equals_form(http: httpx.Client, wrap: Any) -> None:
    body = {"prompt": "a green square", "steps": 2, "seed": 3, "images": wrap(base64.b64encode(PNG).decode())}
    assert http.post(EDITS, json=body).json()["data"] == edit(http).json()["data"]


def test_outpainting_keeps_the_centre(http: httpx.Client) -> None:
    border = Image.new("RGBA", (128, 96))
    border.paste(Image.open(io.BytesIO(PNG)), (16, 16))
    out = io.BytesIO()
    border.save(out, "PNG")
    answer = edit(http, files={"image": ("in.png", out.getvalue())}, size="128x96").json()
    image = pixels(answer["data"][0]["b64_json"])
    assert image.size == (128, 96)
    assert image.crop((16, 16, 112, 80)).tobytes() == Image.open(io.BytesIO(PNG)).convert("RGB").tobytes()


def test_open_webui_form(http: httpx.Client) -> None:
    """As Open WebUI sends it: image[] for several, no strength, an explicit size."""
    data = {"model": "gpt-image-1", "prompt": "a green square", "n": "1", "size": "64x64"}
    response = http.post(EDITS, data=data, files=[("image[]", ("image.png", PNG, "image/png"))])
    assert response.status_code == 200
    assert pixels(response.json()["data"][0]["b64_json"]).size == (64, 64)


def test_url_and_other_formats(http: httpx.Client) -> None:
    answer = edit(http, response_format="url", output_format="webp", input_fidelity="high", user="7").json()
    assert answer["output_format"] == "webp"
    assert http.get(answer["data"][0]["url"]).content[8:12] == b"WEBP"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "Missing required"),
        ({"prompt": " "}, "prompt", "empty"),
        ({"strength": "1.5"}, "strength", "between 0.0 and 1.0, got 1.5"),
        ({"strength": "much"}, "strength", "expected a number"),
        ({"n": "two"}, "n", "expected an integer"),
        ({"n": "11"}, "n", "between 1 and 10"),
        ({"size": "31x31"}, "size", "nearest valid size"),
        ({"size": "999999999x999999999"}, "size", "nearest valid size"),
        ({"mask_feather": "65"}, "mask_feather", "between 0 and 64"),
        ({"denoising_strength": "0.5", "strength": "0.4"}, "strength", "same parameter"),
        ({"files": {"image": ("a.png", b"nothing")}}, "image", "PNG, JPEG, WebP or GIF"),
        ({"files": {"image": ("a.png", PNG[:80])}}, "image", "damaged"),
        ({"files": {"mask": ("a.png", picture(32, 32))}}, "mask", "size of the image"),
        ({"files": {"image[]": ("b.png", PNG)}}, "image", "one image"),
        ({"background": "transparent"}, "background", "Supported values"),
    ],
    ids=range(15),
)
def test_bad_forms_are_refused(http: httpx.Client, fields: dict[str, Any], param: str, words: str) -> None:
    check_refused(edit(http, **fields), param, words)


def test_missing_image_and_several(http: httpx.Client) -> None:
    check_refused(http.post(EDITS, json={"prompt": "a"}), "image", "Missing required parameter")
    empty = http.post(EDITS, data={"prompt": "a"}, files={"image": ("a.png", b"")})
    check_refused(empty, "image", "Missing required parameter")
    two = http.post(EDITS, data={"prompt": "a"}, files=[("image[]", ("a.png", PNG)), ("image[]", ("b.png", PNG))])
    check_refused(two, "image[]", "got two")
    text = base64.b64encode(PNG).decode()
    check_refused(http.post(EDITS, json={"prompt": "a", "image": [text, text]}), "image", "must be one image, got 2")


BOUNDARY = "multipart/form-data; boundary=b"
PART = b'--b\r\ncontent-disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b""),
        (BOUNDARY, b""),
        (BOUNDARY, b"--c--\r\n"),
        (BOUNDARY, b"--b--\r\n"),
        (BOUNDARY, PART % (b"image", PNG)),
        (BOUNDARY, PART % (b"image", PNG) + b"--b--\r\n"),
        (BOUNDARY, PART % (b"prompt", b"a" * 200_000) + b"--b--\r\n"),
        (BOUNDARY, PART % (b"\xff\xfe", b"\xff") * 3 + b"--b--\r\n"),
        (BOUNDARY, (PART % (b"x", b"1")) * 30 + b"--b--\r\n"),
        (BOUNDARY, b"--b\r\n" + b"x" * 50_000),
        ("application/x-www-form-urlencoded", b"prompt=a"),
        ("text/plain", b"x"),
        ("application/json", b"[]"),
        ("application/json", json.dumps({"prompt": "a", "image": {"a": [1] * 100}}).encode()),
        ("application/json", b'{"prompt": "a", "image": "\\ud800"}'),
    ],
    ids=range(15),
)
def test_malformed_bodies_are_refused(http: httpx.Client, content_type: str, body: bytes) -> None:
    for path in (EDITS, VARIATIONS):
        response = http.post(path, content=body, headers={"content-type": content_type})
        if not (path == VARIATIONS and response.status_code == 200):  # which needs no prompt
            assert response.status_code == 400, response.text[:300]
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_large_form_is_refused_by_its_length(server: LiveServer) -> None:
    address = urlsplit(server.url)
    head = f"POST {EDITS} HTTP/1.1\r\nhost: a\r\ncontent-type: {BOUNDARY}\r\ncontent-length: 200000000\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_uploads_are_neither_logged_nor_kept(server: LiveServer, http: httpx.Client) -> None:
    form = {"prompt": SECRET, "steps": "2", "webhook": "x"}
    files = {"image": (f"{SECRET}.png", HOLE), "mask": (f"{SECRET}.png", HOLE)}
    response = http.post(EDITS, data=form, files=files, headers={"x-request-id": "private-edit"})
    assert (response.status_code, response.headers["x-ignored-params"]) == (200, "webhook")
    time.sleep(0.1)
    log = server.logged("private-edit")
    assert SECRET not in log
    assert "PNG" not in log.split("private-edit")[-1]


def test_models_say_that_images_are_taken(http: httpx.Client) -> None:
    assert http.get("/v1/models").json()["data"][0]["takes_images"] is True


def test_generations_refuse_images_and_name_the_route(http: httpx.Client) -> None:
    response = http.post("/v1/images/generations", json={"prompt": "a", "image": "AA=="})
    check_refused(response, "image", "/v1/images/edits")


def test_uploads_in_memory_are_bounded_and_given_back() -> None:
    app = create_app(ServerConfig(EngineConfig()))  # its model is never loaded

    async def statuses() -> list[int]:
        async with asgi_client(app) as client:
            found = []
            for limit in (10_000, len(PNG)):
                app.state.uploads.limit = limit
                form = await client.post(EDITS, data={"prompt": "a"}, files={"image": ("a.png", PNG)})
                json_body = await client.post(EDITS, json={"prompt": "a", "image": base64.b64encode(PNG).decode()})
                found += [form.status_code, json_body.status_code]
                assert app.state.uploads.held == 0
            return found

    assert asyncio.run(statuses()) == [503, 503, 429, 429]
