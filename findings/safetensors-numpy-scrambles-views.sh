#!/usr/bin/env bash
# Subject: safetensors 0.8.0, safetensors.numpy; numpy 2.4.6.
#
# Guess:   save_file stores what the array holds, whatever its memory layout: numpy users rarely think about layout,
#          and safetensors.torch refuses a non-contiguous tensor with an explanation.
# Actual:  the numpy side writes the bytes as they lie in memory under the array's shape. A transposed or
#          Fortran-ordered array, for instance a Linear weight converted with .T, loads as another matrix, and a
#          strided slice as its neighbours. No error, no warning; shape and dtype are right.
#          numpy.ascontiguousarray before saving avoids it.
# Seen:    [[0, 1, 2], [3, 4, 5]].T loads as [[0, 1], [2, 3], [4, 5]] instead of [[0, 3], [1, 4], [2, 5]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6

cat >"$work/check.py" <<'EOF'
import sys

import numpy
from safetensors.numpy import load_file, save_file

path = sys.argv[1]
weight = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
arrays = {
    "transposed": weight.T,
    "fortran_order": numpy.asfortranarray(weight),
    "strided": weight[:, ::2],
    "contiguous_copy": numpy.ascontiguousarray(weight.T),
}
save_file(arrays, path)
loaded = load_file(path)

intact = {}
for name, array in arrays.items():
    intact[name] = numpy.array_equal(array, loaded[name])
    print(f"{name}: saved {array.tolist()}, loaded {loaded[name].tolist()}, equal: {intact[name]}")

expected = {"transposed": False, "fortran_order": False, "strided": False, "contiguous_copy": True}
sys.exit(0 if intact == expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py" "$work/weights.safetensors"
