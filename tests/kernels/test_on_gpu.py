"""The tests of ops, whole models and CUDA graphs again, on a GPU."""

import pytest

from .suite import MODEL_TESTS, OP_TESTS, start_tests


@pytest.mark.gpu
def test_gpu_kernels_match_formulas() -> None:
    environment = {"KERNEL_TESTS_DEVICE": "cuda:0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    child = start_tests(OP_TESTS + MODEL_TESTS, environment)
    output, _ = child.communicate()
    assert child.returncode == 0, output
