#!/usr/bin/env bash
# Subject: torch 2.13.0, casts to float8_e4m3fn and float8_e5m2 on the CPU; ml_dtypes 0.6.0 as the second opinion.
#
# Guess:   e4m3fn has no infinity, so a value beyond 448 becomes NaN and an overflow in a quantized checkpoint shows
#          up as NaN. This is what ml_dtypes (JAX, ONNX tools) does with the same numbers.
# Actual:  torch saturates: 500, 1e30 and even infinity become 448, so a weight that was infinite before the cast is
#          an ordinary number after it. e5m2, in the same release, does not saturate: 1e30 is infinity there.
#          A check for NaN or infinity after quantization therefore finds no overflow in e4m3fn.
# Seen:    e4m3fn 500 -> 448, inf -> 448, nan -> nan (ml_dtypes: nan, nan, nan); e5m2 1e30 -> inf
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 ml_dtypes==0.6.0

cat >"$work/check.py" <<'EOF'
import sys

import ml_dtypes
import numpy
import torch

values = [448.0, 500.0, 1e30, float("inf"), float("-inf"), float("nan")]
seen = {}
for dtype, other in ((torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn), (torch.float8_e5m2, ml_dtypes.float8_e5m2)):
    seen[dtype] = torch.tensor(values).to(dtype).float().tolist()
    second = numpy.array(values, numpy.float32).astype(other).astype(numpy.float32).tolist()
    seen[other] = second
    for value, result, reference in zip(values, seen[dtype], second, strict=True):
        print(f"{str(dtype)[6:]:>14} {value:>6g}: torch {result:g}, ml_dtypes {reference:g}")


def text(numbers):
    return " ".join(f"{number:g}" for number in numbers)


expected = (
    text(seen[torch.float8_e4m3fn]) == "448 448 448 448 -448 nan"
    and text(seen[ml_dtypes.float8_e4m3fn]) == "448 nan nan nan nan nan"
    and text(seen[torch.float8_e5m2])[-16:] == "inf inf -inf nan"
)
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
