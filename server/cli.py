"""The command `sana`: serve, generate, batch, eval, bench, doctor. An error is one line and status 1, no traceback."""

import argparse
import asyncio
import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine import VERSION, EngineConfig, GenerationParams, ModelInfo, SanaError, configure_logs

from .environment import RULES, VariableError
from .flags import add_device_flag, add_model_flags, add_quantization_flag, serve_flags
from .settings import ServerConfig

log = logging.getLogger("sana.cli")
USAGE_ERROR = 2  # what argparse exits with for a flag it cannot parse
STOPPED_BY_USER = 130  # what a shell reports for SIGINT


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = build_parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except SanaError as error:
        print(f"sana: {error}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, VariableError) else 1
    except KeyboardInterrupt:
        print("sana: stopped", file=sys.stderr)
        return STOPPED_BY_USER
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        print(f"sana: unexpected error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def serve(args: argparse.Namespace) -> int:
    from .serving import run_server  # here, because `generate` needs no HTTP

    config = server_config(args, os.environ)
    configure_logs(config.engine.log_level, config.engine.log_format)
    for name, nearest in serve_flags().unknown(os.environ).items():
        log.warning("ignored the environment variable %s, which no flag reads; the nearest is %s", name, nearest)
    return run_server(config)


def generate(args: argparse.Namespace) -> int:
    from .generate import generate_files
    from .request_params import check_size_text, resolve_params

    check_size_text(args.size)  # before minutes of loading
    values = {"size": args.size, **settings(args, GenerationParams)}
    if args.image_file is None and (args.mask_file or args.strength is not None):
        raise SanaError("--mask and --strength need the image to repaint: --image FILE")
    image, mask = read_file(args.image_file), read_file(args.mask_file)

    def resolve(model: ModelInfo) -> GenerationParams:
        if image is None:
            return resolve_params(model, **values)
        from .source_images import repaint_values

        repainted = repaint_values(model, image, mask, args.size, args.strength)
        return resolve_params(model, **(values | repainted))

    # An error is one line, since its traceback is for a server's log. One request has too few steps to repay capturing
    # CUDA graphs.
    engine = dataclasses.replace(engine_config(args), log_level="critical", cuda_graphs=False)
    asyncio.run(generate_files(engine, resolve, args.out))
    return 0


def read_file(path: Path | None) -> bytes | None:
    """The content of a file, None for no path. Raises SanaError."""
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise SanaError(f"cannot read {path}: {error.strerror}") from None


def batch(args: argparse.Namespace) -> int:
    from .prompt_files import generate_prompts
    from .request_params import check_size_text

    check_size_text(args.size)  # before minutes of loading
    names = ("size", "num_inference_steps", "guidance_scale")
    defaults = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    engine = dataclasses.replace(engine_config(args), log_level="critical")  # errors are lines of a file
    try:
        return asyncio.run(generate_prompts(engine, args.file, args.out, defaults))
    except KeyboardInterrupt:
        print("sana: the same command generates what is missing", file=sys.stderr)
        raise


def evaluate(args: argparse.Namespace) -> int:
    from .evaluation.exam import ExamSettings, contact_sheet, examine_engine, examine_url, table
    from .writing import check_writable, write_whole

    check_writable(args.out)
    exam = ExamSettings(args.each, args.num_inference_steps, args.guidance_scale, args.size, args.seed)
    if args.url:
        marks = asyncio.run(examine_url(args.url, exam, os.environ.get("OPENAI_API_KEY", "")))
    else:
        marks = asyncio.run(examine_engine(engine_config(args), exam))
    write_whole(args.out, contact_sheet(marks))
    print(f"{table(marks)}\nimages: {args.out}")
    return 0


def doctor(args: argparse.Namespace) -> int:
    config = engine_config(args)
    flags = ["--model", config.model, "--device", config.device, "--dtype", config.dtype]
    return subprocess.call([sys.executable, "-m", "engine.worker.doctor", *flags])  # a child: it imports torch


def bench(args: argparse.Namespace) -> int:
    from .bench import measure

    return asyncio.run(measure(args))


def server_config(args: argparse.Namespace, environment: Mapping[str, str]) -> ServerConfig:
    """Settings from the flags that were given, else from the environment, else the defaults. Raises VariableError."""
    given = argparse.Namespace(**{**serve_flags().read(environment), **vars(args)})
    return ServerConfig(**settings(given, ServerConfig), engine=engine_config(given))


def engine_config(args: argparse.Namespace) -> EngineConfig:
    return EngineConfig(**settings(args, EngineConfig))


def settings(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """The flags that are fields of `config`; a field whose flag was not given is absent and keeps its default."""
    names = {field.name for field in fields(config)}
    return {name: value for name, value in vars(args).items() if name in names}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sana", description="Text in, image out: an inference server for SANA.")
    parser.add_argument("--version", action="version", version=f"sana {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser("serve", help="answer HTTP requests", parents=[serve_flags()], epilog=RULES)
    command.set_defaults(run=serve)

    command = commands.add_parser("generate", help="generate images of one prompt as PNG files")
    command.set_defaults(run=generate)
    command.add_argument("prompt", help="what the images show")
    add_model_flags(command)
    add_quantization_flag(command)
    add_device_flag(command)
    add_size_flags(command)
    add_guidance_flag(command)
    command.add_argument("--seed", type=int, help="seed of the first image (default: random)")
    command.add_argument("--negative-prompt", default="", help="what to steer away from (default: nothing)")
    image_help = "image to repaint: PNG, JPEG, WebP or GIF; its transparent pixels alone if it has any"
    command.add_argument("--image", dest="image_file", type=Path, metavar="FILE", help=image_help)
    mask_help = "mask of the image's size: what is transparent, or white in a mask without transparency, is repainted"
    command.add_argument("--mask", dest="mask_file", type=Path, metavar="FILE", help=mask_help)
    strength_help = "how much of --image is lost, from 0 to 1 (default: 0.6, with a mask 1)"
    command.add_argument("--strength", type=float, metavar="SHARE", help=strength_help)
    n_help = "number of images; several are numbered: sana-1.png, sana-2.png, ... (default: %(default)s)"
    command.add_argument("-n", type=int, default=1, help=n_help)
    command.add_argument("--out", type=Path, default=Path("sana.png"), help="PNG file to write (default: %(default)s)")

    command = commands.add_parser("batch", help="generate the images of a file of prompts, and go on after a stop")
    command.set_defaults(run=batch)
    command.add_argument("file", type=Path, help="one prompt per line, as text or as JSON with the fields of a request")
    add_model_flags(command)
    add_quantization_flag(command)
    add_device_flag(command)
    add_size_flags(command)
    add_guidance_flag(command)
    folder_help = "folder for the images; those that exist are not generated again (default: %(default)s)"
    command.add_argument("--out", type=Path, default=Path("images"), help=folder_help)

    command = commands.add_parser("eval", help="measure how well a model follows the prompts of the demo's world")
    command.set_defaults(run=evaluate)
    add_model_flags(command)
    add_quantization_flag(command)
    add_device_flag(command)
    add_size_flags(command)
    add_guidance_flag(command)
    command.add_argument("--url", help="evaluate this running server; OPENAI_API_KEY holds its key")
    each_help = "prompts of each of the eight kinds (default: %(default)s)"
    command.add_argument("--each", type=positive, default=30, help=each_help)
    command.add_argument("--seed", type=int, default=0, help="seed of the first image (default: %(default)s)")
    out_help = "contact sheet to write, a PNG file (default: %(default)s)"
    command.add_argument("--out", type=Path, default=Path("sana-eval.png"), help=out_help)

    command = commands.add_parser("bench", help="measure a running server")
    command.set_defaults(run=bench)
    command.add_argument("url", help="URL of the server, like http://127.0.0.1:8000")
    command.add_argument("--requests", type=int, default=20, help="requests to send (default: %(default)s)")
    command.add_argument("--concurrency", type=int, default=4, help="concurrent requests (default: %(default)s)")
    add_size_flags(command)
    prompt = "a red circle left of a blue square"
    command.add_argument("--prompt", default=prompt, help="what the images show (default: %(default)s)")
    command.add_argument("--stream", action="store_true", help="request three previews and measure the first")
    command.add_argument("--api-key", default="", help="key to send (default: none)")

    command = commands.add_parser("doctor", help="report what this machine offers")
    command.set_defaults(run=doctor)
    add_model_flags(command)
    add_device_flag(command)
    return parser


def add_size_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--size", default="auto", help="WIDTHxHEIGHT in pixels (default: the model's)")
    steps_help = "denoising steps (default: the model's)"
    command.add_argument("--steps", dest="num_inference_steps", type=int, metavar="N", help=steps_help)


def add_guidance_flag(command: argparse.ArgumentParser) -> None:
    guidance_help = "guidance scale (default: the model's)"
    command.add_argument("--guidance", dest="guidance_scale", type=float, metavar="SCALE", help=guidance_help)


def positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
