"""One table of a GPU's speed and memory, on random weights of the real shapes; nothing is downloaded.

    python -m benchmarks.gpu

Each time is the median after a warm-up, with the device synchronized; the share is of the bf16 matrix rate measured in
the same run. diffusers runs on the same weights: it encodes the instruction and 300 padded tokens for each prompt and
each negative prompt, its step is the transformer under guidance (300 padded text tokens per branch), its decode the
autoencoder alone. Without a GPU the command fails, unless with --tiny.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from statistics import median

import numpy as np
import torch

from engine import GenerationParams
from engine.models.configs import SanaConfig
from engine.worker.image_task import ImageTask
from engine.worker.runner import MAX_GRAPH_TOKENS, ModelRunner

from .arguments import make_parser, parse
from .psnr import psnr
from .random_models import Shape, make_runner, shape_of
from .released_shapes import PROMPT

GUIDANCE = 4.5
REPEATS = 5
COLUMNS = ("model", "px", "batch", "engine", "encode", "step", "decode", "total", "GiB", "TFLOP/s", "of peak")


class Clock:
    """Measures seconds on a device, within a time limit in minutes."""

    def __init__(self, device: torch.device, minutes: float) -> None:
        self.device = device
        self.end = time.monotonic() + 60 * minutes

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def measure(self, call: Callable[[], object], repeats: int = REPEATS) -> float:
        """Median seconds of `repeats` calls after one warm-up."""
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
        """Peak GiB of tensors since `reset_memory`."""
        if self.device.type != "cuda":
            return "-"
        return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f}"


def matrix_peak(clock: Clock, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a large matrix product of random numbers: the denominator of the shares."""
    a, b = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / clock.measure(lambda: a @ b, repeats=20)


def step_flops(config: SanaConfig, tokens: int, attended: int, text: int) -> float:
    """FLOPs of the matrix products of one packed forward; `attended` of its tokens attend to `text` keys."""
    hidden = int(config.mlp_ratio * config.width)
    linear = 4 * config.width**2 + 3 * hidden * config.width + 2 * config.width * config.attention_head_dim
    cross = 2 * config.width * config.cross_width + 2 * text * config.cross_width
    return 2.0 * config.num_layers * (tokens * linear + attended * cross)


def make_tasks(px: Sequence[int], steps: int, guided: bool) -> tuple[ImageTask, ...]:
    """One task per image side, each with a different prompt."""
    tasks = []
    for i, side in enumerate(px):
        params = GenerationParams(f"{PROMPT} {i}", side, side, steps, GUIDANCE, seed=i)
        tokens = (side // 32) ** 2 * (2 if guided else 1)
        tasks.append(ImageTask(str(i), 0, params, (side, side), guided, tokens))
    return tuple(tasks)


def measure_ours(clock: Clock, runner: ModelRunner, px: int, batch: int, steps: int, peak: float) -> tuple[str, ...]:
    """Cells from `encode` on; `total` is the sum of encode, all steps and all decodes."""
    clock.reset_memory()
    guided = not runner.config.guidance_embeds
    tasks = make_tasks([px] * batch, steps, guided)
    encode_time = clock.measure(lambda: runner.encode(tasks))
    step_time = clock.measure(lambda: runner.denoise(tasks))  # step 0 of the schedule every time
    decode_time = clock.measure(lambda: [runner.decode(task)() for task in tasks], repeats=3)
    tokens = sum(task.tokens for task in tasks)
    attended = tokens // 2 if guided else tokens  # the empty negative prompt is one token: no attention
    text = tasks[0].state.text.length if tasks[0].state else 0
    flops = step_flops(runner.config, tokens, attended, text)
    rate = flops / step_time
    total = encode_time + steps * step_time + decode_time
    times = [f"{1000 * t:.1f}" for t in (encode_time, step_time, decode_time, total)]
    return (*times, clock.peak_memory(), f"{rate / 1e12:.3g}", f"{rate / peak:.0%}")


def measure_diffusers(
    clock: Clock, runner: ModelRunner, shape: Shape, px: int, batch: int, steps: int, compiled: bool
) -> tuple[str, ...]:
    """Cells from `encode` on of diffusers on the weights of `runner`, transformer and decoder eager or compiled."""
    from .diffusers_models import make_decode, make_encode, make_step  # the rest runs without diffusers

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
    """Seconds of one step of a mixed trace: all images packed, images of one shape together, and one at a time.

    The second is the best case of a server that sorts by size.
    """
    tasks = make_tasks(sides, 20, not runner.config.guidance_embeds)
    runner.encode(tasks)
    same_shape = [tuple(task for task in tasks if task.params.width == side) for side in dict.fromkeys(sides)]
    policies = ([tasks], same_shape, [(task,) for task in tasks])
    packed, same, one = (sum(clock.measure(partial(runner.denoise, b)) for b in batches) for batches in policies)
    return packed, same, one


def generate(runner: ModelRunner, px: int, steps: int) -> np.ndarray:
    """uint8 pixels [px, px, 3] of one image, from prompt to decode."""
    (task,) = make_tasks([px], steps, not runner.config.guidance_embeds)
    runner.encode((task,))
    while not task.denoise_done:
        runner.denoise((task,))
        task.step += 1
    return runner.decode(task)()


def choose_device(tiny: bool) -> tuple[torch.device, torch.dtype]:
    """The GPU and bf16; with `tiny`, the CPU and fp32 where there is no GPU. Exits when there is none otherwise."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    if not tiny:
        raise SystemExit("no CUDA device: nothing was measured")
    return torch.device("cpu"), torch.float32


def print_line(*cells: object) -> None:
    print("  ".join(f"{cell!s:>11}" for cell in cells), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("gpu", __doc__)
    models_help = "models, separated by commas (default: %(default)s)"
    parser.add_argument("--models", default="0.6B,1.6B,sprint-1.6B", help=models_help)
    parser.add_argument("--px", default="512,1024,2048,4096", help="image sides in pixels (default: %(default)s)")
    parser.add_argument("--batches", default="1,8", help="images per batch (default: %(default)s)")
    minutes_help = "time limit; later lines are left out (default: %(default)s)"
    parser.add_argument("--minutes", type=float, default=7.0, help=minutes_help)
    args = parse(parser, argv, models="tiny", px="64", batches="1,2")
    device, dtype = choose_device(args.tiny)
    clock = Clock(device, args.minutes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = matrix_peak(clock, dtype, 256 if args.tiny else 8192)
    print(f"{name}, torch {torch.__version__}, {dtype}: matrix product {peak / 1e12:.3g} TFLOP/s; times in ms")
    print_line(*COLUMNS)
    with torch.inference_mode():
        for model in args.models.split(","):
            run_model(clock, model, args, dtype, peak)


def run_model(clock: Clock, model: str, args: argparse.Namespace, dtype: torch.dtype, peak: float) -> None:
    shape = shape_of(model)
    runner = make_runner(shape, clock.device, dtype, "none")
    steps = 2 if shape.sprint or args.tiny else 20
    sides, batches = ([int(part) for part in text.split(",")] for text in (args.px, args.batches))
    usual = sides[min(1, len(sides) - 1)]
    print_line(model, usual, batches[0], "no graphs", *measure_ours(clock, runner, usual, batches[0], steps, peak))
    capture(clock, runner)
    for px in sides:
        for batch in batches:
            if clock.over or px * px * batch > 4096 * 4096:
                print_line(model, px, batch, "not run")
                continue
            print_line(model, px, batch, "sana-serve", *measure_ours(clock, runner, px, batch, steps, peak))
            if not shape.sprint and px <= 1024:
                for engine, compiled in (("diffusers", False), ("compiled", True)):
                    if find_spec("diffusers") is None:
                        print_line(model, px, batch, engine, "not installed")
                    elif not (compiled and clock.device.type == "cpu"):
                        cells = measure_diffusers(clock, runner, shape, px, batch, steps, compiled)
                        print_line(model, px, batch, engine, *cells)
    if clock.over:
        return
    mixed = [64, 96, 64] if args.tiny else [512, 1024, 2048, 512, 1024]
    packed, same, one = measure_mixed(clock, runner, mixed)
    print(
        f"{model}: one step of {', '.join(map(str, mixed))} px {1000 * packed:.1f} ms packed, "
        f"{1000 * same:.1f} ms by shape, {1000 * one:.1f} ms one at a time"
    )
    if clock.over:
        return
    image = generate(runner, sides[0], steps)
    del runner
    exact = make_runner(shape, clock.device, dtype, "none", compute=torch.float32)
    reference = generate(exact, sides[0], steps)
    del exact
    print(f"{model}: {sides[0]} px in {dtype}, PSNR {psnr(image, reference):.1f} dB to the same weights in fp32")
    if clock.over or not (clock.device.type == "cpu" or torch.cuda.get_device_capability(clock.device) >= (8, 9)):
        return
    runner = make_runner(shape, clock.device, dtype, "fp8")
    quantized = generate(runner, sides[0], steps)
    print(f"{model}: {sides[0]} px in FP8, PSNR {psnr(quantized, reference):.1f} dB to the same weights in fp32")
    capture(clock, runner)
    for batch in batches:
        print_line(model, usual, batch, "fp8", *measure_ours(clock, runner, usual, batch, steps, peak))


def capture(clock: Clock, runner: ModelRunner) -> None:
    """Captures the CUDA graphs, where there are any, and prints their cost."""
    started = time.perf_counter()
    if clock.device.type == "cuda":
        runner.capture_graphs(MAX_GRAPH_TOKENS)
    if runner.graphs is not None:
        seconds, held = time.perf_counter() - started, runner.memory_bytes / 2**30
        print(f"{len(runner.graphs.graphs)} graphs captured in {seconds:.1f} s; {held:.1f} GiB held")


if __name__ == "__main__":
    main()
