"""Batch files and what becomes of them, by the official client."""

import json
import time
from typing import Any, Final

import openai
from openai.types import Batch

from ..live import LiveServer

BATCH_KEYS = ("sk-first", "sk-second")
SECONDS = 120.0
ENDPOINT: Final = "/v1/images/generations"
FINAL = ("completed", "failed", "expired", "cancelled")
SMALL: dict[str, Any] = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 1, "seed": 1}


def request_line(custom_id: str, **changes: Any) -> str:
    """A line of a valid batch file, with changes of its body."""
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {**SMALL, **changes}})


def submit(client: openai.OpenAI, lines: list[str], **options: Any) -> Batch:
    file = client.files.create(file=("requests.jsonl", "\n".join(lines).encode()), purpose="batch")
    options = {"completion_window": "24h", **options}
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, **options)


def wait(client: openai.OpenAI, batch: Batch, seconds: float = 120.0, until: tuple[str, ...] = FINAL) -> Batch:
    end = time.monotonic() + seconds
    while batch.status not in until:
        assert time.monotonic() < end, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def read_lines(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none without a file."""
    if file_id is None:
        return []
    content = client.files.content(file_id)
    assert len(content.content) == client.files.retrieve(file_id).bytes
    return [json.loads(line) for line in content.text.splitlines()]


def client_of(server: LiveServer, key: str = BATCH_KEYS[0]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=SECONDS)
