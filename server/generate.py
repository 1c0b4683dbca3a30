"""`sana generate`: one request without HTTP, written to files."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from engine import MAX_SEED, EngineClient, EngineConfig, Finished, GenerationParams, ModelInfo, Progress, is_guided

from .writing import check_writable, write_whole


async def generate_files(config: EngineConfig, resolve: Callable[[ModelInfo], GenerationParams], out: Path) -> None:
    """Loads the model, generates the request that `resolve` returns for it, and writes each image when it is done.

    One image is written to `out`, several to out-1.png, out-2.png, ... Raises SanaError.
    """
    check_writable(out)
    engine = EngineClient(config)
    print(f"sana: loading {config.model}", file=sys.stderr)
    model = await engine.start()
    try:
        params = resolve(model)
        if params.negative_prompt.strip() and not is_guided(params, model):
            print("sana: the negative prompt is not used: it needs a guidance scale above 1", file=sys.stderr)
        await write_images(engine, params, out)
    finally:
        await engine.stop()


async def write_images(engine: EngineClient, params: GenerationParams, out: Path) -> None:
    started = time.monotonic()
    steps = params.denoise_steps * params.n
    async with contextlib.aclosing(engine.generate(params)) as events:
        with tqdm(total=max(steps, 0), unit="step", file=sys.stderr, dynamic_ncols=True) as bar:
            async for event in events:
                if isinstance(event, Progress):
                    bar.update()
                elif isinstance(event, Finished):
                    path = numbered(out, event.image_index) if params.n > 1 else out
                    write_whole(path, event.image)
                    bar.write(str(path), file=sys.stdout)
    last_seed = (params.seed + params.n - 1) % (MAX_SEED + 1)
    seeds = f"seed {params.seed}" if params.n == 1 else f"seeds {params.seed} to {last_seed}"
    print(
        f"sana: {params.width}x{params.height}, {params.num_inference_steps} steps, "
        f"guidance {params.guidance_scale:g}, {seeds}, {time.monotonic() - started:.1f} s",
        file=sys.stderr,
    )


def numbered(out: Path, image_index: int) -> Path:
    """The path of one of several images: cat-1.png for the first image of cat.png."""
    return out.with_name(f"{out.stem}-{image_index + 1}{out.suffix}")
