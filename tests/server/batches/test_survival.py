"""A batch while its server is killed, stopped, and runs out of disk; nothing is lost and nothing is twice."""

import os
import random
import resource
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import openai

from ..live import LiveServer
from ..test_load import await_true
from .jsonl import ENDPOINT, SMALL, client_of, read_lines, request_line, submit, wait

LINES = 30
INVALID = range(3, LINES, 10)


def fields(i: int) -> dict[str, Any]:
    """Changes of the body of line i: mixed sizes and steps, every tenth line invalid."""
    if i in INVALID:
        return {"size": "1x1"}
    side = (64, 96, 128)[i % 3]
    return {"size": f"{side}x128", "num_inference_steps": 4 + i % 3, "seed": i}


def start(folder: Path, number: int) -> LiveServer:
    return LiveServer(folder / f"log{number}", "--data", str(folder / "data"), "--log-level", "warning")


def kill_group(server: LiveServer) -> None:
    """Ends the server and its engine at once, without warning."""
    os.killpg(server.process.pid, signal.SIGKILL)
    server.wait()


def completed(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    assert counts is not None
    return counts.completed


def check_batch(client: openai.OpenAI, url: str, batch_id: str) -> None:
    """Each line has one result, and the images are those of the same requests alone."""
    batch = client.batches.retrieve(batch_id)
    output, errors = (read_lines(client, file_id) for file_id in (batch.output_file_id, batch.error_file_id))
    assert [line["custom_id"] for line in output] == [str(i) for i in range(LINES) if i not in INVALID]
    assert [line["custom_id"] for line in errors] == [str(i) for i in INVALID]
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": LINES, "completed": len(output), "failed": len(errors)}
    for line in output[:: len(output) // 5]:
        body = {**SMALL, **fields(int(line["custom_id"]))}
        alone = httpx.post(f"{url}{ENDPOINT}", json=body, timeout=60).json()
        assert line["response"]["body"]["data"] == alone["data"]


def test_killed_and_stopped_server_goes_on(tmp_path: Path) -> None:
    rng = random.Random(0)
    batch_id, done = "", 0
    for number in range(3):
        server = start(tmp_path, number)
        with server, client_of(server, "any") as client:
            if not batch_id:
                batch_id = submit(client, [request_line(str(i), **fields(i)) for i in range(LINES)]).id
            assert completed(client, batch_id) >= done  # what was reported as done stays done
            if number == 2:
                wait(client, client.batches.retrieve(batch_id))
                check_batch(client, server.url, batch_id)
                break
            wanted = done + rng.randint(2, 7)
            while (done := completed(client, batch_id)) < wanted:
                time.sleep(0.02)
            if number == 0:
                kill_group(server)
            else:
                server.stop()
                assert server.status == 0
    assert done < LINES


def test_full_disk_pauses_and_goes_on(tmp_path: Path) -> None:
    """A limit of the size of files stands for a full disk: SQLite's writes fail, and succeed again later."""
    with start(tmp_path, 0) as server, client_of(server, "any") as client:
        batch = wait(
            client, submit(client, [request_line(str(i), **fields(i)) for i in range(LINES)]), until=("in_progress",)
        )
        await_true(lambda: completed(client, batch.id) >= 2)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        server.logged("batches: paused")
        assert httpx.get(f"{server.url}/ready").json()["batches"] == "paused; see the log"
        assert "sana_batch_api_paused 1.0" in httpx.get(f"{server.url}/metrics").text
        assert httpx.post(f"{server.url}{ENDPOINT}", json=SMALL, timeout=60).status_code == 200
        refused = httpx.post(f"{server.url}/v1/files", files={"file": b"{}"}, data={"purpose": "batch"})
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait(client, batch)
        check_batch(client, server.url, batch.id)
        assert httpx.get(f"{server.url}/ready").json()["batches"] == "running"


def test_killed_engine_costs_no_line(tmp_path: Path) -> None:
    with start(tmp_path, 0) as server, client_of(server, "any") as client:
        batch = wait(
            client, submit(client, [request_line(str(i), **fields(i)) for i in range(LINES)]), until=("in_progress",)
        )
        await_true(lambda: completed(client, batch.id) >= 2)
        children = Path(f"/proc/{server.process.pid}/task").glob("*/children")
        for child in {int(pid) for path in children for pid in path.read_text().split()}:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)
        wait(client, batch)
        check_batch(client, server.url, batch.id)
    assert Counter(server.log.read_text().split())["restarting"] == 1
