#!/usr/bin/env bash
# Subject: triton 3.7.1 with TRITON_INTERPRET=1, tl.float8e4nv and tl.float8e5; torch 2.13.0 as the yardstick.
#
# Guess:   a cast to FP8 in Triton's interpreter rounds to nearest, ties to even, and saturates or gives NaN beyond
#          the largest value (448 for e4m3), as hardware and torch do.
# Actual:  it rounds ties away from zero, flushes the range between half and one smallest subnormal to zero, and
#          beyond the largest value the exponent wraps around: 500 becomes 256 and 10000 becomes 320, plausible
#          values with no NaN to notice. In e5m2 an overflow becomes 65536, a value that e5m2 does not have.
# Seen:    e4m3: 464 -> 480, 500 -> 256, 10000 -> 320, 1.0625 -> 1.125 (torch: 448, 448, 448, 1.0)
#          e5m2: 1000000 -> 65536 (torch: inf)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 triton==3.7.1

cat >"$work/check.py" <<'EOF'
import sys

import torch
import triton
import triton.language as tl


@triton.jit
def round_trip_kernel(source, out, dtype: tl.constexpr, size: tl.constexpr):
    index = tl.arange(0, size)
    tl.store(out + index, tl.load(source + index).to(dtype).to(tl.float32))


def round_trip(values, dtype):
    source = torch.tensor(values)
    out = torch.empty_like(source)
    round_trip_kernel[(1,)](source, out, dtype=dtype, size=len(values))
    return out.tolist()


e4m3 = [448.0, 464.0, 500.0, 10000.0, 1.0625, 1.1875, 2.0**-9, 0.75 * 2.0**-9]
e5m2 = [57344.0, 61440.0, 1000000.0, 1.125]
seen_e4m3, seen_e5m2 = round_trip(e4m3, tl.float8e4nv), round_trip(e5m2, tl.float8e5)
for name, values, seen, dtype in (
    ("e4m3", e4m3, seen_e4m3, torch.float8_e4m3fn),
    ("e5m2", e5m2, seen_e5m2, torch.float8_e5m2),
):
    for value, result, reference in zip(values, seen, torch.tensor(values).to(dtype).float().tolist(), strict=True):
        print(f"{name} {value:>12g}: interpreter {result:g}, torch {reference:g}")

changed = seen_e4m3 != [448, 480, 256, 320, 1.125, 1.25, 2.0**-9, 0] or seen_e5m2 != [57344, 65536, 65536, 1.25]
sys.exit("the behaviour has changed" if changed else 0)
EOF
TRITON_INTERPRET=1 "$work/venv/bin/python" "$work/check.py"
