"""`sana eval`: generates every image of the suite, on a server or an own engine, and scores them."""

import asyncio
import base64
import contextlib
import dataclasses
import io
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine import EngineClient, EngineConfig, Finished, SanaError

from ..request_params import resolve_params
from ..urls import server_url
from .suite import KINDS, tasks
from .task import Task

CONCURRENCY = 8
TIMEOUT_SECONDS = 600.0
Z95 = 1.96
Generate = Callable[[str, int], Awaitable[bytes]]  # prompt, seed -> an image file


@dataclass(frozen=True)
class ExamSettings:
    """Settings of an evaluation. `each`: prompts of each kind. Image k has the seed `seed` + k."""

    each: int = 30
    steps: int | None = None
    guidance: float | None = None
    size: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Mark:
    """The result of one task."""

    task: Task
    image: NDArray[np.uint8]  # [H, W, 3]
    passed: bool


async def examine_url(url: str, settings: ExamSettings, api_key: str = "") -> list[Mark]:
    """Scores a running server. Raises SanaError if it cannot be reached or responds with an error."""
    options = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "size": settings.size,
        "response_format": "b64_json",
    }
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    async with httpx2.AsyncClient(base_url=server_url(url), headers=headers, timeout=TIMEOUT_SECONDS) as client:

        async def generate(prompt: str, seed: int) -> bytes:
            body = {"prompt": prompt, "seed": seed, **options}
            response = await post(client, body)
            waited = 0.0
            while response.status_code == httpx2.codes.TOO_MANY_REQUESTS and waited < TIMEOUT_SECONDS:
                pause = float(response.headers.get("retry-after", 1))
                await asyncio.sleep(pause)
                waited += pause
                response = await post(client, body)
            if response.status_code != httpx2.codes.OK:
                raise SanaError(f"{url} responded with {response.status_code}: {response.text[:300]}")
            return base64.b64decode(response.json()["data"][0]["b64_json"])

        return await examine(generate, settings)


async def post(client: httpx2.AsyncClient, body: dict[str, Any]) -> httpx2.Response:
    try:
        return await client.post("/v1/images/generations", json=body)
    except httpx2.HTTPError as error:
        raise SanaError(f"{client.base_url} did not respond: {type(error).__name__}: {error}") from None


async def examine_engine(config: EngineConfig, settings: ExamSettings) -> list[Mark]:
    """Scores a model in an engine that this process starts. Raises SanaError."""
    engine = EngineClient(dataclasses.replace(config, max_queue_seconds=math.inf))  # no other client is waiting
    model = await engine.start()

    async def generate(prompt: str, seed: int) -> bytes:
        params = resolve_params(
            model,
            prompt,
            size=settings.size,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            seed=seed,
        )
        async with contextlib.aclosing(engine.generate(params)) as events:
            return next(iter([event.image async for event in events if isinstance(event, Finished)]))

    try:
        return await examine(generate, settings)
    finally:
        await engine.stop()


async def examine(generate: Generate, settings: ExamSettings) -> list[Mark]:
    """The scores of all tasks, in the order of the suite."""
    slots = asyncio.Semaphore(CONCURRENCY)

    async def mark(index: int, task: Task) -> Mark:
        async with slots:
            file = await generate(task.prompt, settings.seed + index)
        return await asyncio.to_thread(judge, task, file)

    try:
        async with asyncio.TaskGroup() as group:
            marking = [group.create_task(mark(i, task)) for i, task in enumerate(tasks(settings.each))]
    except* SanaError as failed:
        raise failed.exceptions[0] from None  # the others are the same error, or were cancelled by it
    return [task.result() for task in marking]


def judge(task: Task, file: bytes) -> Mark:
    image = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    return Mark(task, image, task.passed(image))


def shares(marks: list[Mark]) -> dict[str, tuple[int, int]]:
    """Numbers of (passed, all) tasks by kind; tasks of one group count as one, which passes if all of them do."""
    groups: dict[tuple[str, int], list[bool]] = {}
    for index, mark in enumerate(marks):
        groups.setdefault((mark.task.kind, mark.task.group or -index), []).append(mark.passed)
    found = {kind: [all(passed) for (k, _), passed in groups.items() if k == kind] for kind in KINDS}
    return {kind: (sum(passed), len(passed)) for kind, passed in found.items()}


def wilson(passed: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson, 1927)."""
    share, z2 = passed / total, Z95**2 / total
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(marks: list[Mark]) -> str:
    """A table with one row per kind and one for all tasks."""
    rows = {**shares(marks), "overall": (sum(m.passed for m in marks), len(marks))}
    lines = [f"{'':20}{'passed':>8}{'total':>8}{'share':>9}   95 % interval"]
    for kind, (passed, total) in rows.items():
        low, high = wilson(passed, total)
        share = f"{passed / total:.1%}"
        lines.append(f"{kind:20}{passed:8}{total:8}{share:>9}   {low:.1%} to {high:.1%}")
    return "\n".join(lines)


def contact_sheet(marks: list[Mark], side: int = 128, columns: int = 12) -> bytes:
    """A PNG of all images by kind, framed green if passed and red if not."""
    ordered = sorted(marks, key=lambda m: KINDS.index(m.task.kind))
    cell = side + 8
    sheet = Image.new("RGB", (columns * cell, math.ceil(len(ordered) / columns) * cell), "white")
    for i, mark in enumerate(ordered):
        frame = Image.new("RGB", (side + 6, side + 6), "#2e9e50" if mark.passed else "#d8302f")
        frame.paste(Image.fromarray(mark.image).resize((side, side)), (3, 3))
        sheet.paste(frame, (i % columns * cell + 1, i // columns * cell + 1))
    file = io.BytesIO()
    sheet.save(file, "png")
    return file.getvalue()
