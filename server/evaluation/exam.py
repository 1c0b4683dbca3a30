"""`sana eval`: asks a server, or an engine of its own, for every picture of the suite, and marks them."""

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

from ..request_params import fill_params
from .suite import KINDS, Task, tasks

CONCURRENCY = 8
ANSWER_SECONDS = 600.0
Z95 = 1.96
Draw = Callable[[str, int], Awaitable[bytes]]  # prompt, seed -> an image file


@dataclass(frozen=True)
class ExamSettings:
    """What is asked of the model. `each`: prompts of every kind; picture k of the exam starts from seed + k."""

    each: int = 30
    steps: int | None = None
    guidance: float | None = None
    size: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Mark:
    task: Task
    picture: NDArray[np.uint8]  # [H, W, 3]
    passed: bool


async def examine_url(url: str, settings: ExamSettings, api_key: str = "") -> list[Mark]:
    """Marks a running server. Raises SanaError when it cannot be reached or answers with an error."""
    options = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "size": settings.size,
        "response_format": "b64_json",
    }
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_SECONDS) as client:

        async def draw(prompt: str, seed: int) -> bytes:
            body = {"prompt": prompt, "seed": seed, **options}
            answer = await ask(client, body)
            waited = 0.0
            while answer.status_code == httpx2.codes.TOO_MANY_REQUESTS and waited < ANSWER_SECONDS:
                pause = float(answer.headers.get("retry-after", 1))
                await asyncio.sleep(pause)
                waited += pause
                answer = await ask(client, body)
            if answer.status_code != httpx2.codes.OK:
                raise SanaError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
            return base64.b64decode(answer.json()["data"][0]["b64_json"])

        return await examine(draw, settings)


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> httpx2.Response:
    try:
        return await client.post("/v1/images/generations", json=body)
    except httpx2.HTTPError as error:
        raise SanaError(f"{client.base_url} did not answer: {type(error).__name__}: {error}") from None


async def examine_engine(config: EngineConfig, settings: ExamSettings) -> list[Mark]:
    """Marks a model by an engine of our own. Raises SanaError."""
    engine = EngineClient(dataclasses.replace(config, max_queue_seconds=math.inf))  # nobody else is waiting
    model = await engine.start()

    async def draw(prompt: str, seed: int) -> bytes:
        params = fill_params(
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
        return await examine(draw, settings)
    finally:
        await engine.stop()


async def examine(draw: Draw, settings: ExamSettings) -> list[Mark]:
    """Every task drawn and marked, in the order of the suite."""
    places = asyncio.Semaphore(CONCURRENCY)

    async def mark(index: int, task: Task) -> Mark:
        async with places:
            file = await draw(task.prompt, settings.seed + index)
        return await asyncio.to_thread(judge, task, file)

    try:
        async with asyncio.TaskGroup() as group:
            marking = [group.create_task(mark(i, task)) for i, task in enumerate(tasks(settings.each))]
    except* SanaError as failed:
        raise failed.exceptions[0] from None  # the others say the same, or were stopped by it
    return [task.result() for task in marking]


def judge(task: Task, file: bytes) -> Mark:
    picture = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    return Mark(task, picture, task.passed(picture))


def shares(marks: list[Mark]) -> dict[str, tuple[int, int]]:
    """(passed, asked) of every kind."""
    return {
        kind: (sum(m.passed for m in marks if m.task.kind == kind), sum(m.task.kind == kind for m in marks))
        for kind in KINDS
    }


def wilson(passed: int, asked: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson, 1927)."""
    share, z2 = passed / asked, Z95**2 / asked
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(marks: list[Mark]) -> str:
    """One row per kind and one for all."""
    rows = {**shares(marks), "overall": (sum(m.passed for m in marks), len(marks))}
    lines = [f"{'':20}{'right':>8}{'asked':>8}{'share':>9}   95 % interval"]
    for kind, (passed, asked) in rows.items():
        low, high = wilson(passed, asked)
        share = f"{passed / asked:.1%}"
        lines.append(f"{kind:20}{passed:8}{asked:8}{share:>9}   {low:.1%} to {high:.1%}")
    return "\n".join(lines)


def contact_sheet(marks: list[Mark], side: int = 128, columns: int = 12) -> bytes:
    """A PNG of all pictures by kind, framed green or red."""
    ordered = sorted(marks, key=lambda m: KINDS.index(m.task.kind))
    cell = side + 8
    sheet = Image.new("RGB", (columns * cell, math.ceil(len(ordered) / columns) * cell), "white")
    for i, mark in enumerate(ordered):
        frame = Image.new("RGB", (side + 6, side + 6), "#2e9e50" if mark.passed else "#d8302f")
        frame.paste(Image.fromarray(mark.picture).resize((side, side)), (3, 3))
        sheet.paste(frame, (i % columns * cell + 1, i // columns * cell + 1))
    file = io.BytesIO()
    sheet.save(file, "png")
    return file.getvalue()
