"""The command `sana`: serve, generate, eval, doctor. One clear line and status 1 for an error, never a traceback."""

import argparse
import asyncio
import dataclasses
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine import VERSION, EngineConfig, SanaError, configure_logs

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
    run_server(config)
    return 0


def generate(args: argparse.Namespace) -> int:
    from .generate import generate_files
    from .request_params import fill_params, parse_size

    if args.size != "auto":
        parse_size(args.size)  # before minutes of loading
    fill = functools.partial(
        fill_params,
        prompt=args.prompt,
        size=args.size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed,
        negative_prompt=args.negative_prompt,
        n=args.n,
    )
    # A failure is told in one line; its traceback is for the log of a server. So few steps repay no capture.
    engine = dataclasses.replace(engine_config(args), log_level="critical", cuda_graphs=False)
    asyncio.run(generate_files(engine, fill, args.out))
    return 0


def evaluate(args: argparse.Namespace) -> int:
    from .evaluation.exam import ExamSettings, contact_sheet, examine_engine, examine_url, table
    from .writing import check_writable, write_whole

    check_writable(args.out)
    exam = ExamSettings(args.each, args.steps, args.guidance, args.size, args.seed)
    if args.url:
        marks = asyncio.run(examine_url(args.url, exam, os.environ.get("OPENAI_API_KEY", "")))
    else:
        marks = asyncio.run(examine_engine(engine_config(args), exam))
    write_whole(args.out, contact_sheet(marks))
    print(f"{table(marks)}\npictures: {args.out}")
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
    parser = argparse.ArgumentParser(prog="sana", description="Text in, picture out: an inference server for SANA.")
    parser.add_argument("--version", action="version", version=f"sana {VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command = commands.add_parser("serve", help="answer HTTP requests", parents=[serve_flags()], epilog=RULES)
    command.set_defaults(run=serve)

    command = commands.add_parser("generate", help="draw one prompt into PNG files")
    command.set_defaults(run=generate)
    command.add_argument("prompt", help="what to draw")
    add_model_flags(command)
    add_quantization_flag(command)
    add_device_flag(command)
    command.add_argument("--size", default="auto", help="WIDTHxHEIGHT in pixels (the model's own)")
    command.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    command.add_argument("--guidance", type=float, help="guidance scale (the model's own)")
    command.add_argument("--seed", type=int, help="of the first image (random)")
    command.add_argument("--negative-prompt", default="", help="what to steer away from (nothing)")
    command.add_argument(
        "-n", type=int, default=1, help="images; several are numbered: sana-1.png, sana-2.png, ... (%(default)s)"
    )
    command.add_argument("--out", type=Path, default=Path("sana.png"), help="PNG file to write (%(default)s)")

    command = commands.add_parser("eval", help="mark how well a model follows the prompts of the demo's world")
    command.set_defaults(run=evaluate)
    add_model_flags(command)
    add_quantization_flag(command)
    add_device_flag(command)
    command.add_argument("--url", help="ask this running server instead; its key is read from OPENAI_API_KEY")
    command.add_argument("--each", type=positive, default=30, help="prompts of each of the six kinds (%(default)s)")
    command.add_argument("--size", default="auto", help="WIDTHxHEIGHT in pixels (the model's own)")
    command.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    command.add_argument("--guidance", type=float, help="guidance scale (the model's own)")
    command.add_argument("--seed", type=int, default=0, help="of the first picture (%(default)s)")
    command.add_argument("--out", type=Path, default=Path("sana-eval.png"), help="contact sheet (%(default)s)")

    command = commands.add_parser("bench", help="measure a running server")
    command.set_defaults(run=bench)
    command.add_argument("url", help="of the server, like http://127.0.0.1:8000")
    command.add_argument("--requests", type=int, default=20, help="to send in all (%(default)s)")
    command.add_argument("--concurrency", type=int, default=4, help="requests at once (%(default)s)")
    command.add_argument("--size", default="auto", help="WIDTHxHEIGHT in pixels (the model's own)")
    command.add_argument("--steps", type=int, help="denoising steps (the model's own)")
    command.add_argument("--prompt", default="a red circle left of a blue square", help="what to draw (%(default)s)")
    command.add_argument("--stream", action="store_true", help="ask for three previews, and time the first")
    command.add_argument("--api-key", default="", help="where the server asks for one")

    command = commands.add_parser("doctor", help="say what this machine offers")
    command.set_defaults(run=doctor)
    add_model_flags(command)
    add_device_flag(command)
    return parser


def positive(text: str) -> int:
    """An argument that is an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
