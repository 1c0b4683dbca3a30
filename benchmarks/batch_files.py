"""Batch files over HTTP, for the benchmarks of batches: lines, upload, progress."""

import asyncio
import json
import random
from typing import Any

import httpx2

ENDPOINT = "/v1/images/generations"
POLL_SECONDS = 0.05
FINAL = ("completed", "failed", "expired", "cancelled")


def bodies(count: int, sides: list[int], steps: list[int]) -> list[dict[str, Any]]:
    """Requests of mixed sizes and steps, the same for the same arguments."""
    rng = random.Random(0)
    sizes = [f"{rng.choice(sides)}x{rng.choice(sides)}" for _ in range(count)]
    prompts = ("a red circle", "a blue square left of a green triangle", "two yellow squares")
    return [
        {"prompt": prompts[i % 3], "size": size, "num_inference_steps": rng.choice(steps), "seed": i}
        for i, size in enumerate(sizes)
    ]


async def submit(client: httpx2.AsyncClient, requests: list[dict[str, Any]]) -> str:
    """The id of a new batch; request i has the custom_id i."""
    lines = [
        json.dumps({"custom_id": str(i), "method": "POST", "url": ENDPOINT, "body": body})
        for i, body in enumerate(requests)
    ]
    content = {"file": ("requests.jsonl", "\n".join(lines).encode())}
    response = await client.post("/v1/files", files=content, data={"purpose": "batch"})
    file = response.raise_for_status().json()
    body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    return str((await client.post("/v1/batches", json=body)).raise_for_status().json()["id"])


async def status(client: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    return dict((await client.get(f"/v1/batches/{batch_id}")).raise_for_status().json())


async def wait(client: httpx2.AsyncClient, batch_id: str, statuses: tuple[str, ...] = FINAL) -> dict[str, Any]:
    """The batch, once it has one of the statuses."""
    while (batch := await status(client, batch_id))["status"] not in statuses:
        await asyncio.sleep(POLL_SECONDS)
    return batch


async def read_lines(client: httpx2.AsyncClient, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none without a file."""
    if file_id is None:
        return []
    content = (await client.get(f"/v1/files/{file_id}/content")).raise_for_status().text
    return [json.loads(line) for line in content.splitlines()]
