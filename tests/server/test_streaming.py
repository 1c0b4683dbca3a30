"""stream=true: the official clients, and the events as they are on the wire."""

import asyncio
import base64
import json
from typing import Any

import httpx
import openai
import pytest

from engine import GenerationFailed
from server import streaming

from .live import LiveServer, request_under_way
from .routes.test_images import PNG, png_size

SMALL: dict[str, Any] = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 8, "guidance_scale": 1.0}
EXTRA = {"num_inference_steps": 8, "guidance_scale": 1.0, "seed": 5}
Block = tuple[str, dict[str, Any]]


def stream(http: httpx.Client, **fields: Any) -> tuple[list[Block], list[str], httpx.Headers]:
    """The events, the comments between them, and the headers."""
    with http.stream("POST", "/v1/images/generations", json={**SMALL, "stream": True, **fields}) as response:
        assert response.status_code == 200
        text = "".join(response.iter_text())
    assert text.endswith("\n\n")
    comments, events = [], []
    for block in text[:-2].split("\n\n"):  # as hand-written readers do, which require data in every block
        *before, name, data = block.split("\n")
        assert all(line.startswith(": ") for line in before)
        comments += before
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events, comments, response.headers


def test_openai_client_streams_previews_then_image(client: openai.OpenAI) -> None:
    events = list(
        client.images.generate(prompt="a red circle", size="64x64", stream=True, partial_images=3, extra_body=EXTRA)  # type: ignore[call-overload]
    )
    *previews, last = events
    assert [event.type for event in previews] == ["image_generation.partial_image"] * 3
    assert [event.partial_image_index for event in previews] == [0, 1, 2]
    assert last.type == "image_generation.completed"
    for event in events:
        assert png_size(base64.b64decode(event.b64_json, validate=True)) == (64, 64)
        assert (event.size, event.quality, event.background, event.output_format) == ("64x64", "low", "opaque", "png")
        assert event.created_at > 1_700_000_000
    assert len({event.b64_json for event in events}) == 4
    assert last.usage.total_tokens == last.usage.input_tokens + last.usage.output_tokens
    assert (last.usage.input_tokens, last.usage.output_tokens) == (3, 4)
    assert last.usage.input_tokens_details.text_tokens == 3
    assert last.seed == 5


def test_previews_off_grid_have_exact_size(http: httpx.Client) -> None:
    events, _, _ = stream(http, size="70x45", partial_images=2)
    assert len(events) == 3
    for _, event in events:
        assert png_size(base64.b64decode(event["b64_json"])) == (70, 45)
        assert event["size"] == "70x45"


def test_openai_async_client_streams(server: LiveServer) -> None:
    async def read() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
            events = await client.images.generate(
                prompt="a cat", size="64x64", stream=True, partial_images=1, extra_body=EXTRA
            )  # type: ignore[call-overload]
            return [event.type async for event in events]

    assert asyncio.run(read()) == ["image_generation.partial_image", "image_generation.completed"]


def test_previews_leave_image_unchanged(http: httpx.Client) -> None:
    plain = http.post("/v1/images/generations", json={**SMALL, "seed": 9}).json()["data"][0]["b64_json"]
    events, _, _ = stream(http, seed=9, partial_images=3)
    assert events[-1][1]["b64_json"] == plain


@pytest.mark.parametrize("partial_images", [None, 0])
def test_no_previews_sends_only_completed(http: httpx.Client, partial_images: int | None) -> None:
    events, comments, headers = stream(http, partial_images=partial_images)
    assert [name for name, _ in events] == ["image_generation.completed"]
    assert ": image 0 step 8/8" in comments
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-request-id"]


def test_event_line_equals_data_type(http: httpx.Client) -> None:
    events, _, _ = stream(http, partial_images=2)
    assert len(events) == 3
    assert all(name == data["type"] for name, data in events)


def test_events_have_documented_fields(http: httpx.Client) -> None:
    events, _, _ = stream(http, partial_images=1)
    common = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format", "image_index"}
    [(_, preview), (_, completed)] = events
    assert set(preview) == common | {"partial_image_index"}
    assert set(completed) == common | {"usage", "seed", "num_inference_steps", "timings"}


def test_stream_of_several_images_has_indices(http: httpx.Client) -> None:
    events, _, _ = stream(http, n=3, seed=70, partial_images=1, output_format="webp")
    completed = {data["image_index"]: data for name, data in events if name.endswith("completed")}
    assert sorted(completed) == [0, 1, 2]
    assert [completed[index]["seed"] for index in range(3)] == [70, 71, 72]
    previewed = [data["image_index"] for name, data in events if name.endswith("partial_image")]
    assert sorted(previewed) == [0, 1, 2]
    assert all(base64.b64decode(data["b64_json"])[8:12] == b"WEBP" for _, data in events)
    assert all(data["timings"]["total"] > 0 for data in completed.values())


def test_event_usages_sum_to_unstreamed_usage(http: httpx.Client) -> None:
    fields = {"n": 3, "guidance_scale": 4.5, "negative_prompt": "grey"}
    whole = http.post("/v1/images/generations", json={**SMALL, **fields}).json()["usage"]
    events, _, _ = stream(http, **fields)
    usages = [data["usage"] for _, data in events]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert sum(usage[name] for usage in usages) == whole[name]
    for usage in usages:
        assert set(usage) == set(whole)
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["input_tokens_details"] == {"text_tokens": usage["input_tokens"], "image_tokens": 0}
        assert usage["output_tokens_details"] == {"text_tokens": 0, "image_tokens": usage["output_tokens"]}
    assert [usage["input_tokens"] > 0 for usage in usages] == [True, False, False]


def test_stream_with_url_sends_b64_json(http: httpx.Client) -> None:
    events, _, _ = stream(http, response_format="url")
    assert base64.b64decode(events[-1][1]["b64_json"]).startswith(PNG)


def test_refusal_before_stream_is_json(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a cat", size="5000x1000", stream=True)  # type: ignore[call-overload]
    assert caught.value.param == "size"
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=" ", stream=True)
    assert caught.value.param == "prompt"


def test_stream_disconnect_frees_device(server: LiveServer, http: httpx.Client) -> None:
    body = {"prompt": "a cat", "n": 10, "num_inference_steps": 100, "stream": True, "partial_images": 3}
    with request_under_way(server.url, "stream-leaver", body):
        pass
    server.logged("stream-leaver POST /v1/images/generations 200")
    assert http.post("/v1/images/generations", json=SMALL).status_code == 200


class Failing:
    """An engine's events that end in an error, or never begin."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.closed = False

    async def events(self) -> Any:
        try:
            await asyncio.sleep(streaming.OPENING_SECONDS + 0.1)
            if self.error is None:
                await asyncio.sleep(3600)
            raise self.error or AssertionError
            yield
        finally:
            self.closed = True


async def read_lines(source: Failing, seconds: float) -> list[bytes]:
    lines: list[bytes] = []

    async def receive() -> Any:
        await asyncio.sleep(seconds)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        lines.append(message.get("body", b""))

    response = await streaming.EventStream(None, None, source.events(), {}, "r").opened()  # type: ignore[arg-type]
    await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    return lines


@pytest.mark.parametrize("heartbeat", [15.0, 0.02], ids=["alone", "after heartbeats"])
def test_late_error_is_stream_event(heartbeat: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", heartbeat)
    source = Failing(GenerationFailed("the device fell over"))
    text = b"".join(asyncio.run(read_lines(source, 60))).decode()
    [block] = text.removesuffix("\n\n").split("\n\n")
    *comments, name, data = block.split("\n")
    assert set(comments) == (set() if heartbeat > 1 else {": still generating"})
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert error["type"] == "error"
    assert error["error"] == {
        "message": "the device fell over",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert source.closed


def test_heartbeats_until_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.1)
    source = Failing(None)
    lines = asyncio.run(read_lines(source, 0.8))
    assert lines.count(b": still generating\n") >= 2
    assert b"\n\n" not in b"".join(lines)
    assert source.closed
