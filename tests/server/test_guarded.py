"""A server with API keys, URLs by default, strict fields, JSON logs and a limit per key."""

import json

import httpx
import openai
import pytest

from .conftest import API_KEY
from .live import LiveServer, request_under_way
from .test_load import LONG

ONE_LONG = {**LONG, "n": 1}


@pytest.fixture
def guarded(guarded_server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{guarded_server.url}/v1", api_key=API_KEY, max_retries=0)


def test_openai_client_raises_authentication_error(guarded: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        guarded.with_options(api_key="wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


def test_strict_params_refuse_unknown_field(guarded: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        guarded.images.generate(prompt="a cat", extra_body={"num_inference_step": 1})
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "num_inference_step")


def test_default_url_fetched_without_key(guarded: openai.OpenAI) -> None:
    answer = guarded.images.generate(
        prompt="a cat",
        size="64x64",  # type: ignore[arg-type]
        output_format="png",
        extra_body={"num_inference_steps": 1},
    )
    assert answer.data
    url = answer.data[0].url or ""
    whole = httpx.get(url)
    assert whole.status_code == 200
    part = httpx.get(url, headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")


def test_concurrency_limit_per_key_gets_429(guarded: openai.OpenAI, guarded_server: LiveServer) -> None:
    """A stream counts as running until it ends."""
    with (
        request_under_way(guarded_server.url, "one", ONE_LONG, API_KEY),
        request_under_way(guarded_server.url, "two", {**ONE_LONG, "stream": True}, API_KEY),
        pytest.raises(openai.RateLimitError) as caught,
    ):
        guarded.images.generate(prompt="a cat", size="64x64")  # type: ignore[call-overload]
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_json_log_lines_hold_no_key(guarded_server: LiveServer) -> None:
    headers = {"authorization": f"Bearer {API_KEY}", "x-request-id": "seen-in-the-log"}
    httpx.get(f"{guarded_server.url}/v1/models", headers=headers)
    text = guarded_server.logged("seen-in-the-log")
    assert API_KEY not in text
    lines = [json.loads(line) for line in text.splitlines()]  # including those of the engine process
    assert any(line["logger"] == "engine.worker.core" for line in lines)
    [line] = [line for line in lines if line.get("request_id") == "seen-in-the-log"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/models", 200)
    assert len(line["tenant"]) == 16


@pytest.mark.parametrize(
    ("model", "form"),
    [
        ("demo", "url"),
        ("", "url"),
        ("dall-e-3", "url"),
        ("any/name", "url"),
        ("dall-e-2", "b64_json"),
        ("gpt-image-1", "b64_json"),
        ("gpt-image-2-mini", "b64_json"),
    ],
)
def test_default_format_by_model_name(guarded: openai.OpenAI, model: str, form: str) -> None:
    extra = {"num_inference_steps": 1, "max_tokens": 10}  # LiteLLM's health check adds max_tokens
    answer = guarded.images.generate(model=model, prompt="a", size="64x64", extra_body=extra)  # type: ignore[arg-type]
    assert [name for name in ("url", "b64_json") if getattr(answer.data[0], name)] == [form]  # type: ignore[index]
    assert answer.model == "demo"  # type: ignore[attr-defined]


def test_any_name_is_a_model_but_not_listed(guarded: openai.OpenAI) -> None:
    assert [model.id for model in guarded.models.list()] == ["demo", "dall-e-2", "dall-e-3"]
    assert guarded.models.retrieve("any/name").id == "any/name"
