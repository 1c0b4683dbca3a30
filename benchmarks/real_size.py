"""Our engine and diffusers on one random checkpoint of a real size, stage by stage.

    python -m benchmarks.real_size --folder random-0.6B --size 0.6B --steps 2

Each engine runs in a separate process, so that their peak memory is separate.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .arguments import make_parser, parse
from .released_shapes import PROMPT, SIZES

NEGATIVE = ""
GUIDANCE = 4.5
FULL_STEPS = 20
STAGES = {
    "load": "load [s]",
    "prepare": "instruction and null prompt, once [s]",
    "encode": "encode [s]",
    "step": "denoise [s/step]",
    "decode": "decode [s]",
}
Times = dict[str, tuple[float, float]]
"""Stage to (seconds, CPU seconds of all threads); the second is the fairer figure on a shared machine."""


class Stopwatch:
    """Time since the last lap, by stage; the fastest when a stage runs more than once."""

    def __init__(self) -> None:
        self.times: Times = {}
        self._last = self._now()

    def lap(self, stage: str, parts: int = 1) -> None:
        now = self._now()
        lap = ((now[0] - self._last[0]) / parts, (now[1] - self._last[1]) / parts)
        self.times[stage] = min(lap, self.times.get(stage, lap))
        self._last = now

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def write(folder: Path, size: str) -> int:
    """Writes the checkpoint unless it exists. Returns the bytes of its weights."""
    from .random_checkpoint import write_random_checkpoint
    from .random_models import shape_of, tokenizer

    done = folder / "bytes"
    if not done.is_file():
        shape = shape_of(size)
        started = time.perf_counter()
        needed = write_random_checkpoint(folder, shape.transformer, shape.vae, shape.gemma, tokenizer())
        print(f"wrote {folder} in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        done.write_text(str(needed))
    return int(done.read_text())


def run_ours(folder: Path, px: int, steps: int, images: int) -> Times:
    import torch

    from engine import EngineConfig, GenerationParams
    from engine.checkpoints.loader import load_models, open_checkpoint
    from engine.worker.image_files import encode_image
    from engine.worker.image_task import ImageTask
    from engine.worker.runner import ModelRunner

    watch = Stopwatch()
    checkpoint = open_checkpoint(str(folder), torch.bfloat16)
    models = load_models(checkpoint, torch.device("cpu"), torch.bfloat16)
    watch.lap("load")
    runner = ModelRunner(models, checkpoint, EngineConfig().prompt_cache_bytes)
    watch.lap("prepare")
    for image in range(images):  # each has a different prompt: none is found in the cache
        params = GenerationParams(f"{PROMPT} {image}", px, px, steps, GUIDANCE, 0, negative_prompt=NEGATIVE)
        task = ImageTask("0", 0, params, (px, px), guided=True, tokens=2 * (px // 32) ** 2)
        runner.encode((task,))
        watch.lap("encode")
        for _ in range(steps):
            runner.denoise((task,))
            task.step += 1
        watch.lap("step", steps)
        encode_image(runner.decode(task)(), params, task.seed, checkpoint.id)
        watch.lap("decode")
    return watch.times


def run_diffusers(folder: Path, px: int, steps: int, images: int) -> Times:
    import torch
    from diffusers import SanaPipeline

    from engine.worker.prompts import COMPLEX_HUMAN_INSTRUCTION

    watch = Stopwatch()
    pipeline = SanaPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    watch.lap("load")
    watch.lap("prepare")
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    instruction = COMPLEX_HUMAN_INSTRUCTION.split("\n")
    with torch.inference_mode():
        for image in range(images):
            prompt = f"{PROMPT} {image}"
            texts = pipeline.encode_prompt(prompt, True, NEGATIVE, complex_human_instruction=instruction)
            watch.lap("encode")
            latents = pipeline(
                **dict(zip(names, texts, strict=True)),
                negative_prompt=None,
                width=px,
                height=px,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                generator=torch.Generator().manual_seed(0),
                use_resolution_binning=False,
                output_type="latent",
            ).images
            watch.lap("step", steps)
            pixels = pipeline.vae.decode(latents.bfloat16() / pipeline.vae.config.scaling_factor).sample
            pipeline.image_processor.postprocess(pixels, output_type="pil")
            watch.lap("decode")
    return watch.times


ENGINES: dict[str, Callable[[Path, int, int, int], Times]] = {"sana-serve": run_ours, "diffusers": run_diffusers}


def peak_bytes() -> int:
    """Peak resident memory of this process, mapped weight files included."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure(engine: str, args: argparse.Namespace) -> tuple[Times, float]:
    """Runs one engine in a child process. Returns its times, and its peak memory in GiB.

    The files are read once before, so that both engines load from the page cache.
    """
    for file in args.folder.rglob("*.safetensors"):
        with file.open("rb") as opened:
            while opened.read(2**24):
                pass
    options = [f"--folder={args.folder}", f"--engine={engine}"]
    options += [f"--px={args.px}", f"--steps={args.steps}", f"--images={args.images}"]
    command = [sys.executable, "-m", "benchmarks.real_size", *options]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(child.stdout.splitlines()[-1])
    return {stage: tuple(times) for stage, times in result["times"].items()}, result["peak"] / 2**30


def add(*times: tuple[float, float]) -> tuple[float, float]:
    return sum(wall for wall, _ in times), sum(cpu for _, cpu in times)


def end_to_end(times: Times, steps: int) -> tuple[float, float]:
    """Times from prompt to image in a process that is ready, as the sum of the measured stages."""
    return add(times["encode"], *[times["step"]] * steps, times["decode"])


def report(results: dict[str, tuple[Times, float]], weights: int, args: argparse.Namespace) -> None:
    labels = STAGES | {"total": f"end to end, {args.steps} steps [s]"}
    for times, _ in results.values():
        times["total"] = end_to_end(times, args.steps)
        times["scaled"] = end_to_end(times, FULL_STEPS)
    labels["scaled"] = f"end to end, scaled to {FULL_STEPS} steps [s]"
    (ours, our_peak), (theirs, their_peak) = results["sana-serve"], results["diffusers"]
    what = f"{args.size}, {args.px} px, bf16 on the CPU, guidance {GUIDANCE}"
    print(f"{what}; weights {weights / 2**30:.2f} GiB; fastest of {args.images} images; CPU seconds in brackets")
    print(f"{'':40}{'sana-serve':>20}{'diffusers':>20}{'ratio':>8}{'CPU':>8}")
    for key, label in labels.items():
        (wall, cpu), (their_wall, their_cpu) = ours[key], theirs[key]
        columns = f"{wall:11.2f} ({cpu:6.1f}){their_wall:11.2f} ({their_cpu:6.1f})"
        ratios = f"{their_wall / wall:7.2f}x{their_cpu / cpu:7.2f}x" if key != "prepare" else ""
        print(f"{label:40}{columns}{ratios}")
    print(f"{'peak memory [GiB]':40}{our_peak:20.2f}{their_peak:20.2f}{their_peak / our_peak:7.2f}x")
    print("ratio: diffusers / sana-serve; above 1 we are faster or smaller")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("real_size", __doc__)
    parser.add_argument("--folder", type=Path, required=True, help="checkpoint folder; written unless it exists")
    parser.add_argument("--size", choices=SIZES, default="0.6B", help="transformer to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps per image (default: %(default)s)")
    parser.add_argument("--px", type=int, default=512, help="side of an image in pixels (default: %(default)s)")
    parser.add_argument("--images", type=int, default=3, help="images, of which the fastest (default: %(default)s)")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    args = parse(parser, argv, size="tiny", steps=1, px=64, images=1)
    if args.engine:
        times = ENGINES[args.engine](args.folder, args.px, args.steps, args.images)
        print(json.dumps({"times": times, "peak": peak_bytes()}))
        return
    weights = write(args.folder, args.size)
    report({engine: measure(engine, args) for engine in ENGINES}, weights, args)


if __name__ == "__main__":
    main()
