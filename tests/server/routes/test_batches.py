"""/v1/batches with the official clients, on a server that generates."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest

from ..batches.jsonl import BATCH_KEYS, ENDPOINT, SMALL, client_of, read_lines, request_line, submit, wait
from ..live import ENVIRONMENT, ROOT, LiveServer
from ..test_clients import NODE
from ..test_metrics import scrape


def test_batch_gives_images_of_single_requests(batch_server: LiveServer, batch_client: openai.OpenAI) -> None:
    """Mixed sizes and forms, one invalid request: each line as the same request alone would be answered."""
    lines = [
        request_line("a", seed=3),
        request_line("b", size="96x64", num_inference_steps=2, n=2),
        request_line("c", size="1x1"),
        request_line("d", response_format="url", output_format="jpeg", timeout=0.001),
        request_line("e", model="gpt-image-9"),
        request_line("f", stream=True),
        request_line('g "b64_json":"@"'),
    ]
    batch = submit(batch_client, lines, metadata={"set": "first"})
    assert (batch.status, batch.metadata, batch.endpoint) == ("validating", {"set": "first"}, ENDPOINT)
    assert batch.expires_at == batch.created_at + 86400
    batch = wait(batch_client, batch)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 7, "completed": 4, "failed": 3}
    assert batch.status == "completed"
    assert batch.created_at <= (batch.in_progress_at or 0) <= (batch.finalizing_at or 0) <= (batch.completed_at or 0)
    output = {line["custom_id"]: line for line in read_lines(batch_client, batch.output_file_id)}
    errors = {line["custom_id"]: line for line in read_lines(batch_client, batch.error_file_id)}
    assert list(output) == ["a", "b", "d", 'g "b64_json":"@"']
    assert [(name, line["response"]["status_code"]) for name, line in errors.items()] == [
        ("c", 400),
        ("e", 404),
        ("f", 400),
    ]
    assert errors["c"]["response"]["body"]["error"]["param"] == "size"
    assert all(line["error"] is None and line["id"].startswith("batch_req_") for line in output.values())
    headers = {"authorization": f"Bearer {BATCH_KEYS[0]}"}
    for name, text in zip("abd", (lines[0], lines[1], lines[3]), strict=True):
        body = {**json.loads(text)["body"], "timeout": None, "response_format": "b64_json"}
        alone = httpx.post(f"{batch_server.url}{ENDPOINT}", json=body, headers=headers, timeout=60).json()
        answer = output[name]["response"]["body"]
        for entry, expected in zip(answer["data"], alone["data"], strict=True):
            image = base64.b64decode(entry["b64_json"]) if "b64_json" in entry else httpx.get(entry["url"]).content
            assert image == base64.b64decode(expected["b64_json"])
            assert entry["seed"] == expected["seed"]
        assert {**answer, "created": 0, "data": 0, "timings": 0} == {**alone, "created": 0, "data": 0, "timings": 0}


def test_image_url_of_batch_needs_no_key_and_has_type(batch_client: openai.OpenAI) -> None:
    batch = wait(batch_client, submit(batch_client, [request_line("a", response_format="url", output_format="webp")]))
    (line,) = read_lines(batch_client, batch.output_file_id)
    response = httpx.get(line["response"]["body"]["data"][0]["url"])
    assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert batch.output_file_id is not None
    batch_client.files.delete(batch.output_file_id)


def test_bad_lines_fail_batch(batch_client: openai.OpenAI) -> None:
    batch = wait(batch_client, submit(batch_client, [request_line("a"), "{", request_line("a")]))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.errors is not None
    assert [(error.line, error.code) for error in batch.errors.data or []] == [(2, "invalid_json_line")]


def test_cancelled_batch_ends_with_partial_output(batch_client: openai.OpenAI) -> None:
    lines = [request_line("first"), *(request_line(f"{i}", size="512x512", num_inference_steps=100) for i in range(20))]
    batch = wait(batch_client, submit(batch_client, lines), until=("in_progress",))
    while not (batch.request_counts and batch.request_counts.completed):
        batch = batch_client.batches.retrieve(batch.id)
    assert batch_client.batches.cancel(batch.id).status == "cancelling"
    batch = wait(batch_client, batch)
    assert batch.status == "cancelled"
    assert batch.request_counts is not None
    assert batch.request_counts.completed + batch.request_counts.failed == 21
    assert {line["error"]["code"] for line in read_lines(batch_client, batch.error_file_id)} == {"batch_cancelled"}
    assert read_lines(batch_client, batch.output_file_id)[0]["custom_id"] == "first"
    assert batch_client.batches.cancel(batch.id) == batch  # nothing left to cancel


def test_batches_listed_newest_first_for_their_key(batch_server: LiveServer, batch_client: openai.OpenAI) -> None:
    made = [submit(batch_client, [request_line("a")]).id for _ in range(3)]
    listed = [batch.id for batch in batch_client.batches.list(limit=2)]
    assert sorted(listed[:3]) == sorted(made)
    assert len(set(listed)) == len(listed)
    with client_of(batch_server, BATCH_KEYS[1]) as other:
        assert list(other.batches.list()) == []
        for call in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                call(made[0])
        file_id = batch_client.batches.retrieve(made[0]).input_file_id
        with pytest.raises(openai.NotFoundError):
            other.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "1 week"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"completion_window": 24}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after"),
        ({"input_file_id": None}, "input_file_id"),
    ],
)
def test_invalid_batch_gets_400(
    batch_server: LiveServer, batch_client: openai.OpenAI, changes: dict, param: str
) -> None:  # type: ignore[type-arg]
    file = batch_client.files.create(file=("a", b"{}"), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h", **changes}
    headers = {"authorization": f"Bearer {BATCH_KEYS[0]}"}
    response = httpx.post(f"{batch_server.url}/v1/batches", json=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "changes", ['"metadata": {"a": "\\ud800"}', '"metadata": {"\\ud800": "a"}', '"input_file_id": "\\ud800"']
)
def test_half_of_a_surrogate_pair_refused(batch_server: LiveServer, batch_client: openai.OpenAI, changes: str) -> None:
    file = batch_client.files.create(file=("a", b"{}"), purpose="batch")
    body = f'{{"input_file_id": "{file.id}", "endpoint": "{ENDPOINT}", "completion_window": "24h", {changes}}}'
    headers = {"authorization": f"Bearer {BATCH_KEYS[0]}", "content-type": "application/json"}
    response = httpx.post(f"{batch_server.url}/v1/batches", content=body, headers=headers)
    assert response.status_code == (404 if "input" in changes else 400)
    assert batch_client.batches.list()


def test_interactive_request_overtakes_batch(batch_server: LiveServer, batch_client: openai.OpenAI) -> None:
    """The batch has minutes of work, which neither delays a request nor counts in the queue's limit."""
    lines = [request_line(f"{i}", size="256x256", num_inference_steps=100) for i in range(60)]
    batch = wait(batch_client, submit(batch_client, lines), until=("in_progress",))
    headers = {"authorization": f"Bearer {BATCH_KEYS[0]}"}
    for _ in range(3):
        response = httpx.post(f"{batch_server.url}{ENDPOINT}", json=SMALL, headers=headers, timeout=60)
        assert response.status_code == 200
    with httpx.Client(base_url=batch_server.url) as http:
        samples = scrape(http)
    assert samples[("sana_queue_seconds", ())] == 0
    counts = batch_client.batches.retrieve(batch.id).request_counts
    assert counts is not None
    assert counts.completed < 60
    batch_client.batches.cancel(batch.id)
    wait(batch_client, batch)


def test_docs_python_program(batch_server: LiveServer, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "batches.md").read_text(), flags=re.DOTALL)
    program = program.replace("http://127.0.0.1:8000", batch_server.url).replace("unused", BATCH_KEYS[0])
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["circle.png", "square.png"]


NODE_BATCH = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI({ baseURL: process.argv[1] + "/v1", apiKey: process.argv[2], maxRetries: 0 });
const body = { prompt: "a red circle", size: "64x64", num_inference_steps: 1 };
const line = JSON.stringify({ custom_id: "a", method: "POST", url: "/v1/images/generations", body });
const file = await client.files.create({ file: await toFile(Buffer.from(line), "a.jsonl"), purpose: "batch" });
let batch = await client.batches.create(
  { input_file_id: file.id, endpoint: "/v1/images/generations", completion_window: "24h" });
while (!["completed", "failed"].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  batch = await client.batches.retrieve(batch.id);
}
const output = await (await client.files.content(batch.output_file_id)).text();
const listed = [];
for await (const entry of client.batches.list({ limit: 1 })) listed.push(entry.id);
console.log(JSON.stringify([JSON.parse(output).custom_id, batch.request_counts, listed[0] === batch.id]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.skipif(not (NODE / "node_modules" / "openai").is_dir(), reason="needs npm ci in tests/clients")
def test_node_client_runs_batch(batch_server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    command = ["node", "--input-type=module", "-e", NODE_BATCH, batch_server.url, BATCH_KEYS[0]]
    ended = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert ended.stderr == ""
    assert json.loads(ended.stdout) == ["a", {"total": 1, "completed": 1, "failed": 0}, True]
