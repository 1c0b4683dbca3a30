"""The tests of the ops once more, with the kernels in the place of the references, in Triton's interpreter on the CPU.

Triton reads TRITON_INTERPRET when it is imported: hence a process of its own.
"""

import os
import re
import subprocess
import sys

from ..deploy.dockerfile import ROOT

WHOLE = ["tests/kernels/whole_models.py", "tests/kernels/whole_steps.py"]
OPS = sorted(path for path in (ROOT / "kernels").glob("*.py") if "@triton.jit" in path.read_text())


def kernel_names() -> set[str]:
    return {name for path in OPS for name in re.findall(r"^def (_\w+_kernel)\(", path.read_text(), re.MULTILINE)}


def test_every_kernel_computes_its_op() -> None:
    """Two processes at once: the interpreter takes one core and its time."""
    ops = [f"tests/kernels/test_{path.stem}.py" for path in OPS]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for tests in (ops, WHOLE)
    ]
    said = [child.communicate()[0] for child in children]
    ran: set[str] = set()
    for child, output in zip(children, said, strict=True):
        assert child.returncode == 0, output
        assert re.search(r"^\d+ passed in", output, re.MULTILINE), output  # nothing skipped
        (names,) = re.findall(r"^interpreted: (.*)$", output, re.MULTILINE)
        ran |= set(names.split())
    assert ran == kernel_names()
