"""The op tests again with kernels instead of references, in Triton's interpreter on the CPU."""

import re

from .suite import KERNELS, MODEL_TESTS, OP_TESTS, start_tests


def test_interpreted_kernels_match_formulas() -> None:
    """Two processes at once: the interpreter takes one core and its time."""
    children = [start_tests(tests, {"TRITON_INTERPRET": "1"}) for tests in (OP_TESTS, MODEL_TESTS)]
    outputs = [child.communicate()[0] for child in children]
    executed: set[str] = set()
    for child, output in zip(children, outputs, strict=True):
        assert child.returncode == 0, output
        assert re.search(r"^\d+ passed in", output, re.MULTILINE), output  # nothing skipped
        (names,) = re.findall(r"^interpreted: (.*)$", output, re.MULTILINE)
        executed |= set(names.split())
    assert executed == set(KERNELS)
