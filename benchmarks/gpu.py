"""One table of what a GPU does: `python -m benchmarks.gpu`; without one it says so and measures nothing.

Random weights of the real shapes, so nothing is downloaded. Every time is the median after a warm-up, with the device
synchronized; the share is of the bf16 matrix rate measured in the same run. diffusers runs the same weights: its step
is the transformer under guidance (300 padded text rows per branch), its decode the autoencoder alone.
`--tiny` runs every line with a toy model on any device, to show that the command works; its times mean nothing.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from engine import GenerationParams
from engine.models.sana_config import SanaConfig
from engine.request import Request
from engine.runner import ModelRunner

from .diffusers_models import make_decode, make_step
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


def make_requests(px: Sequence[int], steps: int, guided: bool) -> tuple[Request, ...]:
    """One per picture side, each with a prompt of its own."""
    requests = []
    for i, side in enumerate(px):
        params = GenerationParams(f"{PROMPT} {i}", side, side, steps, GUIDANCE, seed=i)
        requests.append(Request(str(i), 0, params, guided, tokens=(side // 32) ** 2 * (2 if guided else 1)))
    return tuple(requests)


def denoise_once(runner: ModelRunner, requests: tuple[Request, ...]) -> None:
    """One step at the same place of the schedule every time, so that it can be repeated."""
    runner.denoise(requests)


def measure_ours(clock: Clock, runner: ModelRunner, px: int, batch: int, steps: int, peak: float) -> tuple[str, ...]:
    """Cells from `encode` on; `total` is encode, all steps and all decodes, put together."""
    clock.reset_memory()
    guided = not runner.config.guidance_embeds
    requests = make_requests([px] * batch, steps, guided)
    encode_time = clock.measure(lambda: runner.encode(requests))
    step_time = clock.measure(lambda: denoise_once(runner, requests))
    decode_time = clock.measure(lambda: [runner.decode(request)() for request in requests], repeats=3)
    tokens = sum(request.tokens for request in requests)
    attended = tokens // 2 if guided else tokens  # the empty negative prompt asks no query
    text = requests[0].state.text.length if requests[0].state else 0
    flops = step_flops(runner.config, tokens, attended, text)
    rate = flops / step_time
    total = encode_time + steps * step_time + decode_time
    times = [f"{1000 * t:.1f}" for t in (encode_time, step_time, decode_time, total)]
    return (*times, clock.peak_memory(), f"{rate / 1e12:.3g}", f"{rate / peak:.0%}")


def measure_diffusers(
    clock: Clock, runner: ModelRunner, shape: Shape, px: int, batch: int, compiled: bool
) -> tuple[str, ...]:
    """Step and decode of diffusers on the weights of `runner`, eager or compiled."""
    clock.reset_memory()
    step = make_step(runner, shape, px // 32, batch, compiled)
    step_time = clock.measure(step)
    decode = make_decode(runner, shape, px // 32, compiled)
    decode_time = batch * clock.measure(decode, repeats=3)
    return ("-", f"{1000 * step_time:.1f}", f"{1000 * decode_time:.1f}", "-", clock.peak_memory(), "-", "-")


def measure_mixed(clock: Clock, runner: ModelRunner, sides: Sequence[int]) -> tuple[float, float]:
    """Seconds of one step of a mixed trace: all in one pack, and picture after picture."""
    requests = make_requests(sides, 20, not runner.config.guidance_embeds)
    runner.encode(requests)
    packed = clock.measure(lambda: denoise_once(runner, requests))
    alone = sum(clock.measure(lambda r=request: denoise_once(runner, (r,))) for request in requests)
    return packed, alone


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
    for px in sides:
        for batch in batches:
            if clock.over or px * px * batch > 4096 * 4096:
                line(model, px, batch, "not run")
                continue
            line(model, px, batch, "sana-serve", *measure_ours(clock, runner, px, batch, steps, peak))
            if not shape.sprint and px <= 1024:
                for engine, compiled in (("diffusers", False), ("compiled", True)):
                    if not (compiled and clock.device.type == "cpu"):
                        line(model, px, batch, engine, *measure_diffusers(clock, runner, shape, px, batch, compiled))
    if not clock.over:
        packed, alone = measure_mixed(clock, runner, [64, 96, 128] if args.tiny else [512, 1024, 2048, 512, 1024])
        print(f"{model}: one step of a mixed trace {1000 * packed:.1f} ms packed, {1000 * alone:.1f} ms one at a time")
    del runner
    fp8 = clock.device.type == "cpu" or torch.cuda.get_device_capability(clock.device) >= (8, 9)
    if fp8 and not clock.over:
        runner = make_runner(shape, clock.device, dtype, "fp8")
        px = sides[min(1, len(sides) - 1)]
        for batch in batches:
            line(model, px, batch, "fp8", *measure_ours(clock, runner, px, batch, steps, peak))


if __name__ == "__main__":
    main()
