"""Help texts of the commands that documents and deployment files name."""

import contextlib
import functools
import importlib
import io
import re
from pathlib import Path
from unittest.mock import patch

from server import cli

ROOT = Path(__file__).parents[1]


@functools.cache
def help_of(program: str, name: str) -> str:
    """Output of `sana NAME --help` or `python -m NAME --help`, in this process: a new one would import torch again."""
    output = io.StringIO()
    columns = patch.dict("os.environ", COLUMNS="1000")  # argparse breaks long names at the edge of the terminal
    with columns, contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        if program == "sana":
            cli.main([name, "--help"])
        else:
            module = importlib.import_module(name)
            main = getattr(module, "main", None) or importlib.import_module(f"{name}.__main__").main
            main(["--help"])
    assert output.getvalue().startswith("usage: "), (program, name)
    return output.getvalue()


def flags_of(program: str, name: str) -> set[str]:
    """Flags of a command, such as {"--model", "-n"}."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(program, name)))
