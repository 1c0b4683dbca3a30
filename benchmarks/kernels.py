"""Time per kernel of each phase of one image, on random weights of the real shapes.

    python -m benchmarks.kernels --model 1.6B --px 1024

Each phase is profiled once after a warm-up, its kernels launched one by one, so that gaps between them show as the
difference between the busy time and the time that passed.
"""

from collections.abc import Callable, Sequence

from torch.profiler import ProfilerActivity, profile

from .arguments import make_parser, parse
from .gpu import Clock, choose_device, make_tasks
from .random_models import make_runner, shape_of

MAX_LINES = 12


def kernel_table(clock: Clock, call: Callable[[], object]) -> list[str]:
    """A heading and the longest kernels (on the CPU: operations) of one call."""
    on_cuda = clock.device.type == "cuda"
    passed = clock.measure(call, repeats=3)
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as profiler:  # else torch 2.11 warns
        call()
        clock.synchronize()
    kernels = [
        (event.self_device_time_total if on_cuda else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
    ]  # times in microseconds
    busy = sum(time for time, _, _ in kernels)
    lines = [f"{1e3 * passed:.2f} ms, {sum(count for _, count, _ in kernels)} launches, busy {busy / 1e3:.2f} ms"]
    for time, count, name in sorted(kernels, reverse=True)[:MAX_LINES]:
        lines.append(f"{time / 1e3:10.3f} ms {time / busy:6.1%} {count:6}  {name[:90]}")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("kernels", __doc__)
    parser.add_argument("--model", default="1.6B", help="0.6B, 1.6B or sprint-1.6B (default: %(default)s)")
    parser.add_argument("--px", type=int, default=1024, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images per batch (default: %(default)s)")
    parser.add_argument("--quantization", default="none", choices=("none", "fp8"), help="(default: %(default)s)")
    args = parse(parser, argv, model="tiny", px=64)
    device, dtype = choose_device(args.tiny)
    shape = shape_of(args.model)
    clock, runner = Clock(device, minutes=10), make_runner(shape, device, dtype, args.quantization)
    tasks = make_tasks([args.px] * args.batch, 20, guided=not shape.sprint)
    phases: dict[str, Callable[[], object]] = {
        "encode": lambda: runner.encode(tasks),
        "denoise": lambda: runner.denoise(tasks),
        "decode": lambda: [runner.decode(task)() for task in tasks],
    }
    print(f"{args.model} in {dtype} on {device}: {args.batch} x {args.px} px; share is of the busy time")
    for phase, call in phases.items():
        heading, *lines = kernel_table(clock, call)
        print(f"{phase}: {heading}", *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
