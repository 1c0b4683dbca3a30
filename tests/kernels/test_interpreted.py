"""The tests of the ops once more, with the kernels in the place of the references, in Triton's interpreter on the CPU.

Triton reads TRITON_INTERPRET when it is imported: hence a process of its own.
"""

import os
import re
import subprocess
import sys

from ..deploy.dockerfile import ROOT

OPS = sorted(path for path in (ROOT / "kernels").glob("*.py") if "@triton.jit" in path.read_text())


def kernel_names() -> set[str]:
    return {name for path in OPS for name in re.findall(r"^def (_\w+_kernel)\(", path.read_text(), re.MULTILINE)}


def test_every_kernel_computes_its_op() -> None:
    tests = [f"tests/kernels/test_{path.stem}.py" for path in OPS] + [
        "tests/kernels/whole_models.py",
        "tests/kernels/whole_steps.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    assert re.search(r"^\d+ passed in", child.stdout, re.MULTILINE), child.stdout  # nothing skipped
    (ran,) = re.findall(r"^interpreted: (.*)$", child.stdout, re.MULTILINE)
    assert set(ran.split()) == kernel_names()
