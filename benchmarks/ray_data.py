"""A job of Ray Data that is killed at random moments and started again. Needs the extra `ray`.

    python -m benchmarks.ray_data --prompts 500 --kills 2

Exit status 1 when an object is missing, was made twice, or is not the image that a solo engine generates.
"""

import asyncio
import contextlib
import io
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from engine import EngineClient, EngineConfig, Finished, ModelInfo
from server.prompt_files import row_params

from .arguments import make_parser, parse
from .ray_live import MARK, ROOT, processes

PROMPTS = ("a red circle", "a blue square left of a green triangle", "two yellow squares")
POLL_SECONDS = 0.2


def write_prompts(file: Path, count: int) -> None:
    rows = [
        {"prompt": PROMPTS[i % len(PROMPTS)], "size": "64x64", "num_inference_steps": 2, "seed": 10 * i}
        for i in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def job(folder: Path, replicas: int) -> "subprocess.Popen[bytes]":
    files = [str(folder / "prompts.jsonl"), "--out", str(folder / "images")]
    command = [sys.executable, "-m", "deploy.ray.generate", *files]
    flags = ["--device", "cpu", "--gpus", "0", "--cpus", "0.5", "--replicas", str(replicas), "--rows", "16"]
    variables = {
        MARK: str(folder),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_worker_niceness": "0",
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_agent_register_timeout_ms": "120000",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen([*command, *flags], cwd=ROOT, env=os.environ | variables)


def objects(folder: Path) -> dict[str, int]:
    """Moments at which the images were written, in nanoseconds, by name."""
    return {file.name: file.stat().st_mtime_ns for file in (folder / "images").glob("*.png")}


def end_all(folder: Path) -> None:
    """Ends every process of the job at once, as a power failure does."""
    for pid in processes(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def solo_images(rows: list[dict[str, object]]) -> list[bytes]:
    engine = EngineClient(EngineConfig(device="cpu"))
    model = await engine.start()
    try:
        return [await solo_image(engine, model, row) for row in rows]
    finally:
        await engine.stop()


async def solo_image(engine: EngineClient, model: ModelInfo, row: dict[str, object]) -> bytes:
    events = engine.generate(row_params(model, row))
    (image,) = [event.image async for event in events if isinstance(event, Finished)]
    return image


def largest_error(a: bytes, b: bytes) -> int:
    first, second = (np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in (a, b))
    return int(np.abs(first - second).max()) if first.shape == second.shape else 255


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("ray_data", __doc__)
    parser.add_argument("--prompts", type=int, default=500, help="number of prompts (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=2, help="times to kill the job (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=2, help="engines (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random choices (default: %(default)s)")
    args = parse(parser, argv, prompts=24, kills=1, replicas=1)
    rng = random.Random(args.seed)
    moments = sorted(rng.sample(range(1, args.prompts), args.kills))
    made: dict[str, int] = {}
    rewritten = 0
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_prompts(folder / "prompts.jsonl", args.prompts)
        for limit in [*moments, None]:
            started = time.perf_counter()
            running = job(folder, args.replicas)
            try:
                while running.poll() is None and (limit is None or len(objects(folder)) < limit):
                    time.sleep(POLL_SECONDS)
            finally:
                end_all(folder)
                running.wait()
            now = objects(folder)
            rewritten += sum(now.get(image) != moment for image, moment in made.items())
            made = now
            print(f"{len(made)} objects after {time.perf_counter() - started:.1f} s more", flush=True)
        index = [json.loads(line) for line in (folder / "images" / "index.jsonl").read_text().splitlines()]
        named = {image for row in index for image in row["objects"]}
        rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
        files = [(folder / "images" / row["objects"][0]).read_bytes() for row in index]
    wrong = sum(largest_error(*pair) > 1 for pair in zip(files, asyncio.run(solo_images(rows)), strict=True))
    missing, stray = args.prompts - len(named & made.keys()), len(made.keys() - named)
    print(f"{len(made)} objects of {args.prompts} prompts: {missing} missing, {stray} stray, {rewritten} made twice, "
          f"{wrong} wrong")  # fmt: skip
    return 0 if len(made) == args.prompts and not (missing or stray or rewritten or wrong) else 1


if __name__ == "__main__":
    sys.exit(main())
