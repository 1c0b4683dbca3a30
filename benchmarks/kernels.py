"""Where the time of a picture goes, kernel by kernel: `python -m benchmarks.kernels --model 1.6B --px 1024`.

Random weights of the real shapes; each phase runs once after a warm-up, its kernels launched one by one, so that gaps
between them show as the difference between their sum and the time that passed. With `--tiny` a toy model on any device:
its times mean nothing.
"""

import argparse
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from .gpu import Clock, make_tasks
from .random_models import make_runner, shape_of

ROWS = 12


def kernel_table(clock: Clock, call: Callable[[], object]) -> list[str]:
    """A heading and the kernels (on the CPU: the operations) that took longest, of one call."""
    on_cuda = clock.device.type == "cuda"
    passed = clock.measure(call, repeats=3)
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as profiler:  # else torch 2.11 warns
        call()
        clock.synchronize()
    found = [
        (event.self_device_time_total if on_cuda else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
    ]
    busy = sum(time for time, _, _ in found)
    lines = [f"{1e3 * passed:.2f} ms, {sum(count for _, count, _ in found)} launches, busy {busy / 1e3:.2f} ms"]
    for time, count, name in sorted(found, reverse=True)[:ROWS]:
        lines.append(f"{time / 1e3:10.3f} ms {time / busy:6.1%} {count:6}  {name[:90]}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1.6B", help="0.6B, 1.6B or sprint-1.6B")
    parser.add_argument("--px", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--quantization", default="none", choices=("none", "fp8"))
    parser.add_argument("--tiny", action="store_true", help="a toy model on any device")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing was measured")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = shape_of("tiny" if args.tiny else args.model)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    clock, runner = Clock(device, minutes=10), make_runner(shape, device, dtype, args.quantization)
    tasks = make_tasks([64 if args.tiny else args.px] * args.batch, 20, guided=not shape.sprint)
    phases: dict[str, Callable[[], object]] = {
        "encode": lambda: runner.encode(tasks),
        "denoise": lambda: runner.denoise(tasks),
        "decode": lambda: [runner.decode(request)() for request in tasks],
    }
    for phase, call in phases.items():
        heading, *lines = kernel_table(clock, call)
        print(f"{phase}: {heading}", *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
