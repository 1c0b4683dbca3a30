"""Seconds of an image of the demo on an idle machine and beside programs that compute without end, pair by pair.

python -m benchmarks.beside_busy --images 5
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from statistics import median

import httpx2

from .arguments import make_parser, parse
from .beside_large import generate
from .live import serve

WARM_UP = 3


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that each keep a core busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def measure(url: str, px: int, steps: int, images: int, neighbours: int) -> tuple[list[float], list[float]]:
    """Seconds per image alone and beside `neighbours` busy processes, in turn."""
    alone, beside = list[float](), list[float]()
    async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
        for seed in range(WARM_UP):
            await generate(client, px, steps, seed)
        for seed in range(images):
            alone.append(await generate(client, px, steps, seed))
            with busy_processes(neighbours):
                beside.append(await generate(client, px, steps, seed))
    return alone, beside


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("beside_busy", __doc__)
    parser.add_argument("--px", type=int, default=256, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--images", type=int, default=5, help="images of each kind (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps per image (default: %(default)s)")
    parser.add_argument("--neighbours", type=int, default=1, help="busy processes (default: %(default)s)")
    args = parse(parser, argv, px=64, images=1, steps=1)
    with serve() as server:
        alone, beside = asyncio.run(measure(server.url, args.px, args.steps, args.images, args.neighbours))
    print(f"demo model on the CPU, {args.px} px, {args.steps} steps; median seconds of {args.images} images each")
    print(f"alone                    {median(alone):.3f} s")
    print(f"beside {args.neighbours} busy            {median(beside):.3f} s")
    print(f"ratio                    {median(beside) / median(alone):.2f} (target: at most 2.5)")


if __name__ == "__main__":
    main()
