"""Help texts of the commands that documents and deployment files name."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


@functools.cache
def help_of(program: str, name: str) -> str:
    """Output of `sana NAME --help` or `python -m NAME --help`."""
    module = ["server.cli", name] if program == "sana" else [name]
    variables = {**os.environ, "COLUMNS": "1000"}  # argparse breaks long names at the edge of the terminal
    ended = subprocess.run(
        [sys.executable, "-m", *module, "--help"], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def flags_of(program: str, name: str) -> set[str]:
    """Flags of a command, such as {"--model", "-n"}."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(program, name)))
