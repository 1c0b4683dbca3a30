"""`sana batch`: the prompts of a file, each generated to image files in a folder. Run again, it goes on.

An image that exists is done: a file is written whole or not at all, so the folder needs no other record.
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from engine import EngineClient, EngineConfig, EngineUnavailable, Finished, GenerationParams, ModelInfo, SanaError

from .body import parse_json
from .request_params import resolve_params
from .schemas import parse_generation
from .writing import OutputError, write_whole

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
ERRORS = "errors.jsonl"
FIELDS = (
    "n",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "output_format",
    "output_compression",
    "embed_params",
)
ROOM_SECONDS = 0.02


@dataclass(frozen=True)
class Entry:
    """A line of the file: the name of its images, and its request, or why it is none."""

    number: int
    name: str
    fields: dict[str, Any]
    error: str = ""


async def generate_prompts(config: EngineConfig, file: Path, out: Path, defaults: dict[str, Any]) -> int:
    """Generates what is missing. Returns the exit status: 1 if a line failed; out/errors.jsonl says why.

    Args:
        file: one prompt per line, as text or as JSON: {"prompt": ..., "size": ...} or a line of OpenAI's batch files.
        out: folder of the images, created if it is missing.
        defaults: fields of the requests that do not have them.
    """
    try:
        total = sum(1 for _ in read_entries(file))
    except UnicodeDecodeError:
        raise SanaError(f"{file} must be in UTF-8; save it in that encoding") from None
    except OSError as error:
        raise SanaError(f"cannot read {file}: {error.strerror}") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ERRORS).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write into {out}: {error.strerror}") from None
    if not total:
        raise SanaError(f"{file} must hold at least one prompt, but has none")
    print(f"sana: loading {config.model}", file=sys.stderr)
    engine = EngineClient(config)
    model = await engine.start()
    try:
        with tqdm(total=total, unit="prompt", file=sys.stderr, dynamic_ncols=True) as bar:
            run = Run(engine, model, out, defaults, bar)
            async with asyncio.TaskGroup() as group:
                for entry in read_entries(file):
                    while not engine.background_room:
                        await asyncio.sleep(ROOM_SECONDS)
                    group.create_task(run.generate(entry))
                    await asyncio.sleep(0)  # so that the engine counts it
    except* SanaError as errors:
        raise errors.exceptions[0] from None
    finally:
        await engine.stop()
    there = f" ({run.existing} were there before)" if run.existing else ""
    why = f"; {run.failed} failed: see {out / ERRORS}" if run.failed else ""
    print(f"sana: {total - run.failed} of {total} prompts are done in {out}{there}{why}", file=sys.stderr)
    return 1 if run.failed else 0


class Run:
    """One run of `sana batch`."""

    def __init__(
        self, engine: EngineClient, model: ModelInfo, out: Path, defaults: dict[str, Any], bar: "tqdm[Any]"
    ) -> None:
        self.failed = self.existing = 0
        self._engine, self._model, self._out, self._defaults, self._bar = engine, model, out, defaults, bar
        self._names: set[str] = set()

    async def generate(self, entry: Entry) -> None:
        """Writes the missing images of a line, or its error."""
        try:
            if entry.error:
                raise SanaError(entry.error)
            if entry.name in self._names:
                raise SanaError(f"custom_id {entry.name} is also that of an earlier line")
            self._names.add(entry.name)
            given = {name: value for name, value in entry.fields.items() if value is not None}
            params = row_params(self._model, {**self._defaults, **given})
            paths = [self._out / name for name in image_names(entry.name, params)]
            if all(path.exists() for path in paths):
                self.existing += 1
            else:
                async with contextlib.aclosing(self._engine.generate(params)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            await asyncio.to_thread(write_whole, paths[event.image_index], event.image)
        except (OutputError, EngineUnavailable):
            raise  # a full disk, say: all further lines would fail too
        except SanaError as error:
            self.failed += 1
            with (self._out / ERRORS).open("a") as file:
                file.write(json.dumps({"line": entry.number, "name": entry.name, "error": str(error)}) + "\n")
        self._bar.update()


def row_params(model: ModelInfo, fields: dict[str, Any]) -> GenerationParams:
    """The request of a line or row, with the model's defaults. Fields that are no part of a request are ignored.

    Raises SanaError.
    """
    body, _ = parse_generation({name: value for name, value in fields.items() if value is not None})
    if body.stream:
        raise SanaError("stream must be false in a batch")
    values = {name: getattr(body, name) for name in FIELDS}
    params = resolve_params(model, body.prompt, size=body.size, quality=body.quality, **values)
    return replace(params, background=True)


def image_names(name: str, params: GenerationParams) -> list[str]:
    """Names of the images of a line: cat.png, or cat-1.png, cat-2.png, ..."""
    ends = [""] if params.n == 1 else [f"-{k + 1}" for k in range(params.n)]
    return [f"{name}{end}.{params.output_format}" for end in ends]


def read_entries(file: Path) -> Iterator[Entry]:
    """The lines that are not blank. Raises OSError or UnicodeDecodeError."""
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield parse_entry(number, line.strip())


def parse_entry(number: int, line: str) -> Entry:
    name = f"{number:06d}"
    if not line.startswith("{"):
        return Entry(number, name, {"prompt": line})
    try:
        value = parse_json(line.encode())
    except ValueError as error:
        return Entry(number, name, {}, f"the line begins like JSON and is not: {error}")
    body, custom_id = value.get("body", value), value.get("custom_id", name)
    if not isinstance(body, dict):
        return Entry(number, name, {}, "body must be an object")
    if not isinstance(custom_id, str) or not SAFE_NAME.fullmatch(custom_id):
        wanted = "custom_id names the file, so it must be letters, digits, dots, dashes and underscores"
        return Entry(number, name, {}, f"{wanted}, got {custom_id!r}"[:300])
    return Entry(number, custom_id, {name: entry for name, entry in body.items() if name != "custom_id"})
