"""Our engine beside diffusers and OpenVINO on the CPU, in turn in one process, medians of all rounds.

    python -m benchmarks.cpu --parts peaks,demo,real,packed,busy

OpenVINO comes with the extra `bench-cpu`; without it its rows are skipped. `real` is a 0.6B-shaped transformer and the
DC-AE 1.1 decoder with random weights.
"""

import queue
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

from engine import EngineConfig, Event, GenerationParams, StepReport
from engine.checkpoints.dtypes import choose_dtype
from engine.checkpoints.locate import locate_model
from engine.models.gemma2 import Gemma2Config
from engine.models.reorder import reorder_for_cpu
from engine.worker.core import EngineCore
from engine.worker.image_task import ImageTask
from engine.worker.threads import limit_threads
from kernels.onednn import bfloat16_instructions
from tests.reference import quiet

from . import openvino_models
from .arguments import make_parser, parse
from .diffusers_models import TEXT_TOKENS, make_decode, make_step
from .policies import replay
from .random_models import make_runner, shape_of
from .released_shapes import PROMPT

Contestants = dict[str, Callable[[], object]]
CPU = torch.device("cpu")
GUIDANCE = 4.5
OURS = "sana-serve"
PARTS = ("peaks", "demo", "real", "packed", "busy")
SPIN = "while True: pass"


def seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def alternate(contestants: Contestants, rounds: int) -> dict[str, float]:
    """The median seconds of each contestant, which take turns. One round before is not counted."""
    for run in contestants.values():
        run()
    times = [{name: seconds_of(run) for name, run in contestants.items()} for _ in range(rounds)]
    return {name: statistics.median(time[name] for time in times) for name in contestants}


def show(title: str, contestants: Contestants, rounds: int, flop: float = 0.0) -> None:
    """Measures and prints one table; ratios are a contestant's seconds divided by ours."""
    print(title)
    medians = alternate(contestants, rounds)
    for name, seconds in medians.items():
        rate = f"{flop / seconds / 1e9:9.1f} GFLOP/s" if flop else ""
        print(f"  {name:24}{seconds:9.4f} s{seconds / medians[OURS]:8.2f}x{rate}", flush=True)
    if not openvino_models.INSTALLED:
        print("  OpenVINO                skipped: not installed (extra bench-cpu)")


class Demo:
    """The demo checkpoint in our engine, one image or one trace at a time."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event | StepReport] = queue.SimpleQueue()
        self.core = EngineCore(EngineConfig(device="cpu"), self.events.put)
        self.count = 0

    def params(self, args: Namespace) -> GenerationParams:
        self.count += 1  # another prompt each time: none is found in the cache
        return GenerationParams(f"{PROMPT} {self.count}", args.px, args.px, args.steps, GUIDANCE, seed=self.count)

    def run(self, args: Namespace, images: int, policy: str) -> float:
        """Seconds of `images` images under a policy of `benchmarks.policies`."""
        trace = [self.params(args) for _ in range(images)]
        return replay(self.core, self.events, trace, images, policy)[0]


def peaks(args: Namespace, ours: Demo) -> None:
    """Rates of one matrix product, one 3x3 convolution and one copy."""
    side = args.peak
    for dtype in (torch.float32, torch.bfloat16) if bfloat16_instructions() else (torch.float32,):
        x, weight = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
        image = torch.randn(1, 128, side // 8, side // 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(128, 128, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        product = alternate({"": partial(torch.nn.functional.linear, x, weight)}, args.rounds)[""]
        conv = alternate({"": partial(torch.nn.functional.conv2d, image, kernel, padding=1)}, args.rounds)[""]
        rates = 2 * side**3 / product / 1e9, 2 * 9 * 128**2 * (side // 8) ** 2 / conv / 1e9
        name = str(dtype).removeprefix("torch.")
        print(f"peak {name}: product {rates[0]:.0f} GFLOP/s, 3x3 convolution {rates[1]:.0f} GFLOP/s")
    source = torch.zeros(side**2 * 8)
    target = torch.empty_like(source)
    copy = alternate({"": partial(target.copy_, source)}, args.rounds)[""]
    print(f"peak memory: copy {2 * source.nbytes / copy / 1e9:.1f} GB/s")


def demo(args: Namespace, ours: Demo) -> None:
    """One image of the demo, from prompt to file, beside the same checkpoint in diffusers' pipeline."""
    contestants: Contestants = {OURS: partial(ours.run, args, 1, "packed")}
    for dtype in (torch.float32, torch.bfloat16):
        name = f"diffusers {str(dtype).removeprefix('torch.')}"
        contestants[name] = partial(generate, make_pipeline(dtype), args)
    if openvino_models.INSTALLED:
        contestants["OpenVINO"] = partial(generate, openvino_pipeline(make_pipeline(torch.float32), args), args)
    show(f"demo, {args.px} px, {args.steps} steps, guidance {GUIDANCE}, end to end", contestants, args.rounds)


def make_pipeline(dtype: torch.dtype) -> SanaPipeline:
    with quiet():
        pipeline = SanaPipeline.from_pretrained(locate_model("demo", ("",))[0], dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: SanaPipeline, args: Namespace) -> None:
    size = dict(width=args.px, height=args.px, use_resolution_binning=False)
    with quiet():
        pipeline(PROMPT, num_inference_steps=args.steps, guidance_scale=GUIDANCE, **size)


def openvino_pipeline(pipeline: SanaPipeline, args: Namespace) -> SanaPipeline:
    """`pipeline` with its transformer and decoder compiled by OpenVINO; its small text encoder stays in torch."""
    side = args.px // 32
    transformer, vae = compiled(pipeline.transformer, pipeline.vae, side)
    pipeline.transformer.forward = transformer
    pipeline.vae.decode = vae
    return pipeline


def compiled(
    transformer: SanaTransformer2DModel, vae: AutoencoderDC, side: int
) -> tuple[openvino_models.Compiled, openvino_models.Compiled]:
    """The transformer under guidance and the decoder, for one image of side x side latents."""
    config = transformer.config
    step = openvino_models.Compiled(
        transformer,
        hidden_states=torch.randn(2, config.in_channels, side, side),
        encoder_hidden_states=torch.randn(2, TEXT_TOKENS, config.caption_channels),
        encoder_attention_mask=torch.ones(2, TEXT_TOKENS, dtype=torch.int64),
        timestep=torch.full((2,), 500.0),
    )
    decode = openvino_models.Compiled(DecodeOnly(vae), z=torch.randn(1, config.in_channels, side, side))
    return step, decode


class DecodeOnly(torch.nn.Module):
    """`AutoencoderDC.decode` as the forward of a module."""

    def __init__(self, vae: AutoencoderDC) -> None:
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, z: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        return (self.decoder(z),)


def real(args: Namespace, ours: Demo) -> None:
    """A guided step and a decode of the 0.6B shape, in the dtype that `--dtype auto` chooses and in bfloat16."""
    shape = shape_of(args.size)
    hidden = shape.transformer.get("caption_channels", 2304)
    gemma = Gemma2Config(vocab_size=2000, hidden_size=hidden, intermediate_size=64, num_hidden_layers=1)
    if args.layers:
        shape.transformer["num_layers"] = args.layers
    dtype = choose_dtype("auto", CPU, None, 1152).dtype
    runner = make_runner(replace(shape, gemma=gemma), CPU, dtype, "none")
    side = args.real_px // 32
    params = GenerationParams(PROMPT, args.real_px, args.real_px, 20, GUIDANCE, 0)
    task = ImageTask("0", 0, params, (args.real_px, args.real_px), guided=True, tokens=2 * side**2)
    step, decode = make_step(runner, shape, side, 1, False), make_decode(runner, shape, side, False)
    steps: Contestants = {OURS: lambda: runner.denoise((task,)), "diffusers": inference(step)}
    decodes: Contestants = {OURS: lambda: runner.decode(task)(), "diffusers": inference(decode)}
    if openvino_models.INSTALLED:
        network, vae = SanaTransformer2DModel(**shape.transformer).eval(), AutoencoderDC(**shape.vae).eval()
        ov_step, ov_decode = compiled(network, vae, side)
        example = (torch.randn(2, 32, side, side), torch.randn(2, TEXT_TOKENS, hidden))
        mask, times = torch.ones(2, TEXT_TOKENS, dtype=torch.int64), torch.full((2,), 500.0)
        steps["OpenVINO"] = lambda: ov_step(*example, mask, times)
        decodes["OpenVINO"] = lambda: ov_decode(torch.randn(1, 32, side, side))
    layers, name = shape.transformer.get("num_layers", 28), str(dtype).removeprefix("torch.")
    flop = 2 * 2 * side**2 * sum(p.numel() for p in runner.models.transformer.transformer_blocks.parameters())
    reorder_for_cpu(runner.models.transformer, runner.models.decoder)  # after diffusers has taken the weights
    runner.encode((task,))
    show(f"{args.size}, {args.real_px} px, {name}, {layers} layers: one guided step", steps, args.rounds, flop)
    task.step = 20
    show(f"{args.size}, {args.real_px} px, {name}: decode", decodes, args.rounds)


def inference(run: Callable[[], object]) -> Callable[[], object]:
    return torch.inference_mode()(run)


def packed(args: Namespace, ours: Demo) -> None:
    """Images per second of the demo with as many requests outstanding, packed and one at a time."""
    contestants: Contestants = {
        policy: partial(ours.run, args, args.concurrency, policy) for policy in ("packed", "one at a time")
    }
    medians = alternate(contestants, args.rounds)
    shown = ", ".join(f"{name} {args.concurrency / seconds:.2f} images/s" for name, seconds in medians.items())
    print(f"demo, concurrency {args.concurrency}: {shown}, {medians['one at a time'] / medians['packed']:.2f}x")


def busy(args: Namespace, ours: Demo) -> None:
    """One image of the demo beside a process that computes without pause, and without it."""

    idle: list[float] = []
    beside: list[float] = []
    for _ in range(args.rounds):
        idle.append(ours.run(args, 1, "packed"))
        spinning = subprocess.Popen([sys.executable, "-c", SPIN])
        try:
            beside.append(ours.run(args, 1, "packed"))
        finally:
            spinning.kill()
            spinning.wait()
    alone, shared = statistics.median(idle), statistics.median(beside)
    print(f"demo alone {alone:.3f} s, beside a busy process {shared:.3f} s: {shared / alone:.2f}x")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("cpu", __doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="tables to print (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median (default: %(default)s)")
    parser.add_argument("--px", type=int, default=256, help="side of the demo's images (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of the demo (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests outstanding (default: %(default)s)")
    parser.add_argument("--size", default="0.6B", help="shape of `real` (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=0, help="layers of `real` (default: those of the shape)")
    parser.add_argument("--real-px", type=int, default=512, help="side of the images of `real` (default: %(default)s)")
    parser.add_argument("--peak", type=int, default=1024, help="side of the matrices of `peaks` (default: %(default)s)")
    args = parse(parser, argv, rounds=1, px=64, steps=1, concurrency=2, size="tiny", real_px=64, peak=64)
    print(f"computing with {limit_threads()}; bfloat16 products: {bfloat16_instructions() or 'none'}")
    measure = dict(zip(PARTS, (peaks, demo, real, packed, busy), strict=True))
    ours = Demo()
    for part in args.parts.split(","):
        measure[part](args, ours)
    ours.core.close()


if __name__ == "__main__":
    main()
