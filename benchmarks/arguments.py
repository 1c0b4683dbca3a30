"""Command lines of the benchmarks. `--tiny` takes toy sizes that end within seconds on a CPU; the tests run it."""

import argparse
from collections.abc import Sequence
from typing import Any

TINY_HELP = "toy sizes, seconds on a CPU: shows that the command works, its figures mean nothing"


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Parser of `python -m benchmarks.<name>`; the description keeps its line breaks."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None, **tiny: Any) -> argparse.Namespace:
    """Parses `argv` (default: the process's own), with `tiny` as the defaults under `--tiny`; given flags still win."""
    parser.add_argument("--tiny", action="store_true", help=TINY_HELP)
    if parser.parse_known_args(argv)[0].tiny:
        parser.set_defaults(**tiny)
    return parser.parse_args(argv)
