"""One table of what a GPU does: `python -m benchmarks.gpu`; without one it says so and measures nothing.

Random weights of the real shapes, so nothing is downloaded. Every time is the median after a warm-up, with the device
synchronized; the share is of the bf16 matrix rate measured in the same run. diffusers runs the same weights: it encodes
the instruction and 300 rows for every prompt and every negative prompt, its step is the transformer under guidance (300
padded text rows per branch), its decode the autoencoder alone.
`--tiny` runs every line with a toy model on any device, to show that the command works; its times mean nothing.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from statistics import median

import torch

from engine import GenerationParams
from engine.models.configs import SanaConfig
from engine.worker.image_task import ImageTask
from engine.worker.runner import MAX_GRAPH_TOKENS, ModelRunner

from .random_models import Shape, make_runner, shape_of
from .real_size import PROMPT

GUIDANCE = 4.5
REPEATS = 5
COLUMNS = ("model", "px", "batch", "engine", "encode", "step", "decode", "total", "GiB", "TFLOP/s", "of peak")


class Clock:
    """Seconds on a device, and when to stop."""

    def __init__(self, device: torch.device, minutes: float) -> None:
        self.device = device
        self.end = time.monotonic() + 60 * minutes

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def measure(self, call: Callable[[], object], repeats: int = REPEATS) -> float:
        times = []
        for _ in range(repeats + 1):
            self.synchronize()
            started = time.perf_counter()
            call()
            self.synchronize()
            times.append(time.perf_counter() - started)
        return median(times[1:])

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> str:
        """GiB of tensors at the worst moment since `reset_memory`."""
        if self.device.type != "cuda":
            return "-"
        return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f}"


def matrix_peak(clock: Clock, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a large product of random numbers: the ceiling that shares are given of."""
    a, b = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / clock.measure(lambda: a @ b, repeats=20)


def step_flops(config: SanaConfig, tokens: int, attended: int, text: int) -> float:
    """Products of one forward that the packed engine makes; `attended` of its tokens see `text` keys."""
    hidden = int(config.mlp_ratio * config.width)
    linear = 4 * config.width**2 + 3 * hidden * config.width + 2 * config.width * config.attention_head_dim
    cross = 2 * config.width * config.cross_width + 2 * text * config.cross_width
    return 2.0 * config.num_layers * (tokens * linear + attended * cross)


def make_tasks(px: Sequence[int], steps: int, guided: bool) -> tuple[ImageTask, ...]:
    """One per picture side, each with a prompt of its own."""
    tasks = []
    for i, side in enumerate(px):
        params = GenerationParams(f"{PROMPT} {i}", side, side, steps, GUIDANCE, seed=i)
        tasks.append(ImageTask(str(i), 0, params, guided, tokens=(side // 32) ** 2 * (2 if guided else 1)))
    return tuple(tasks)


def measure_ours(clock: Clock, runner: ModelRunner, px: int, batch: int, steps: int, peak: float) -> tuple[str, ...]:
    """Cells from `encode` on; `total` is encode, all steps and all decodes, put together."""
    clock.reset_memory()
    guided = not runner.config.guidance_embeds
    tasks = make_tasks([px] * batch, steps, guided)
    encode_time = clock.measure(lambda: runner.encode(tasks))
    step_time = clock.measure(lambda: runner.denoise(tasks))  # at the first place of the schedule every time
    decode_time = clock.measure(lambda: [runner.decode(task)() for task in tasks], repeats=3)
    tokens = sum(task.tokens for task in tasks)
    attended = tokens // 2 if guided else tokens  # the empty negative prompt asks no query
    text = tasks[0].state.text.length if tasks[0].state else 0
    flops = step_flops(runner.config, tokens, attended, text)
    rate = flops / step_time
    total = encode_time + steps * step_time + decode_time
    times = [f"{1000 * t:.1f}" for t in (encode_time, step_time, decode_time, total)]
    return (*times, clock.peak_memory(), f"{rate / 1e12:.3g}", f"{rate / peak:.0%}")


def measure_diffusers(
    clock: Clock, runner: ModelRunner, shape: Shape, px: int, batch: int, steps: int, compiled: bool
) -> tuple[str, ...]:
    """diffusers on the weights of `runner`, transformer and decoder eager or compiled."""
    from .diffusers_models import make_decode, make_encode, make_step  # all else runs without diffusers

    clock.reset_memory()
    encode_time = clock.measure(make_encode(runner, batch), repeats=3)
    step = make_step(runner, shape, px // 32, batch, compiled)
    step_time = clock.measure(step)
    decode = make_decode(runner, shape, px // 32, compiled)
    decode_time = batch * clock.measure(decode, repeats=3)
    total = encode_time + steps * step_time + decode_time
    times = [f"{1000 * t:.1f}" for t in (encode_time, step_time, decode_time, total)]
    return (*times, clock.peak_memory(), "-", "-")


def measure_mixed(clock: Clock, runner: ModelRunner, sides: Sequence[int]) -> tuple[float, float, float]:
    """Seconds of one step of a mixed trace: all in one pack, pictures of one shape together, and one after the other.

    The second is the ideal of a server that sorts by size.
    """
    tasks = make_tasks(sides, 20, not runner.config.guidance_embeds)
    runner.encode(tasks)
    shapes = [[r for r in tasks if r.params.width == side] for side in dict.fromkeys(sides)]
    alone = [[task] for task in tasks]
    policies = ([list(tasks)], shapes, alone)
    packed, same, one = (sum(clock.measure(partial(runner.denoise, tuple(b))) for b in batches) for batches in policies)
    return packed, same, one


def draw(runner: ModelRunner, px: int, steps: int) -> torch.Tensor:
    """Pixels of one picture, from prompt to the end."""
    (task,) = make_tasks([px], steps, not runner.config.guidance_embeds)
    runner.encode((task,))
    while not task.denoise_done:
        runner.denoise((task,))
        task.step += 1
    return torch.from_numpy(runner.decode(task)())


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """In dB, of uint8 pictures."""
    error = (a.double() - b.double()).square().mean().item()
    return float("inf") if error == 0 else 10 * math.log10(255**2 / error)


def line(*cells: object) -> None:
    print("  ".join(f"{cell!s:>11}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="0.6B,1.6B,sprint-1.6B")
    parser.add_argument("--px", default="512,1024,2048,4096")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--minutes", type=float, default=7.0, help="lines that begin later are left out")
    parser.add_argument("--tiny", action="store_true", help="a toy model on any device")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing was measured")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    clock = Clock(device, args.minutes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = matrix_peak(clock, dtype, 256 if args.tiny else 8192)
    print(f"{name}, torch {torch.__version__}, {dtype}: matrix product {peak / 1e12:.3g} TFLOP/s; times in ms")
    line(*COLUMNS)
    with torch.inference_mode():
        for model in ["tiny"] if args.tiny else args.models.split(","):
            run_model(clock, model, args, dtype, peak)


def run_model(clock: Clock, model: str, args: argparse.Namespace, dtype: torch.dtype, peak: float) -> None:
    shape = shape_of(model)
    runner = make_runner(shape, clock.device, dtype, "none")
    steps = 2 if shape.sprint else 20
    sides = [64, 96] if args.tiny else [int(px) for px in args.px.split(",")]
    batches = [1, 2] if args.tiny else [int(batch) for batch in args.batches.split(",")]
    usual = sides[min(1, len(sides) - 1)]
    line(model, usual, batches[0], "no graphs", *measure_ours(clock, runner, usual, batches[0], steps, peak))
    capture(clock, runner)
    for px in sides:
        for batch in batches:
            if clock.over or px * px * batch > 4096 * 4096:
                line(model, px, batch, "not run")
                continue
            line(model, px, batch, "sana-serve", *measure_ours(clock, runner, px, batch, steps, peak))
            if not shape.sprint and px <= 1024:
                for engine, compiled in (("diffusers", False), ("compiled", True)):
                    if find_spec("diffusers") is None:
                        line(model, px, batch, engine, "not installed")
                    elif not (compiled and clock.device.type == "cpu"):
                        cells = measure_diffusers(clock, runner, shape, px, batch, steps, compiled)
                        line(model, px, batch, engine, *cells)
    if not clock.over:
        packed, same, one = measure_mixed(clock, runner, [64, 96, 64] if args.tiny else [512, 1024, 2048, 512, 1024])
        print(
            f"{model}: one step of a mixed trace {1000 * packed:.1f} ms packed, {1000 * same:.1f} ms by shape, "
            f"{1000 * one:.1f} ms one at a time"
        )
    if clock.over:
        return
    picture = draw(runner, sides[0], steps)
    del runner
    exact = make_runner(shape, clock.device, dtype, "none", compute=torch.float32)
    reference = draw(exact, sides[0], steps)
    del exact
    print(f"{model}: {sides[0]} px in {dtype} {psnr(picture, reference):.1f} dB to the same weights in fp32")
    if clock.over or not (clock.device.type == "cpu" or torch.cuda.get_device_capability(clock.device) >= (8, 9)):
        return
    runner = make_runner(shape, clock.device, dtype, "fp8")
    print(f"{model}: {sides[0]} px in FP8 {psnr(draw(runner, sides[0], steps), reference):.1f} dB to fp32")
    capture(clock, runner)
    for batch in batches:
        line(model, usual, batch, "fp8", *measure_ours(clock, runner, usual, batch, steps, peak))


def capture(clock: Clock, runner: ModelRunner) -> None:
    started = time.perf_counter()
    runner.capture_graphs(MAX_GRAPH_TOKENS)
    if runner.graphs is not None:
        seconds, held = time.perf_counter() - started, runner.memory_bytes / 2**30
        print(f"{len(runner.graphs.graphs)} graphs captured in {seconds:.1f} s; {held:.1f} GiB held")


if __name__ == "__main__":
    main()
