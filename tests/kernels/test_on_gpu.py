"""The tests of the ops, whole models and CUDA graphs once more, on a GPU."""

import os
import subprocess
import sys

import pytest

from ..deploy.dockerfile import ROOT
from .test_interpreted import OPS, WHOLE


@pytest.mark.gpu
def test_every_op_and_graph_on_the_device() -> None:
    tests = [f"tests/kernels/test_{path.stem}.py" for path in OPS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *WHOLE]
    environment = os.environ | {"KERNEL_TESTS_DEVICE": "cuda:0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
