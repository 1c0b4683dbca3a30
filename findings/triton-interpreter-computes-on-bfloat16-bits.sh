#!/usr/bin/env bash
# Subject: triton 3.7.1 with TRITON_INTERPRET=1, torch 2.13.0.
#
# Guess:   Triton's interpreter either computes bfloat16 as the GPU does or refuses it.
# Actual:  it keeps bfloat16 as 16-bit integers. Some operations convert first and are right (maximum); others work
#          on the bit patterns without any message: an addition, a sum and tl.dot give wild numbers; exp, for one, is
#          refused. A kernel tested in the interpreter must convert to float32 after every load.
# Seen:    2.5 + 2.0 = -2.9e-39; a 16x16 dot of small integers is off by 2e10; float16 and float32 are exact
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
def add_kernel(a, b, out, size: tl.constexpr):
    index = tl.arange(0, size)
    tl.store(out + index, tl.load(a + index) + tl.load(b + index))


@triton.jit
def dot_kernel(a, b, out, size: tl.constexpr):
    index = tl.arange(0, size)
    square = index[:, None] * size + index[None, :]
    tl.store(out + square, tl.dot(tl.load(a + square), tl.load(b + square)))


torch.manual_seed(0)
add_error, dot_error = {}, {}
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    a, b = torch.tensor([2.5, 1.0], dtype=dtype), torch.tensor([2.0, 1.0], dtype=dtype)
    total = torch.empty_like(a)
    add_kernel[(1,)](a, b, total, size=2)
    add_error[dtype] = (total.float() - torch.tensor([4.5, 2.0])).abs().max().item()

    a, b = (torch.randint(-2, 3, (16, 16)).to(dtype) for _ in range(2))
    product = torch.empty(16, 16)
    dot_kernel[(1,)](a, b, product, size=16)
    dot_error[dtype] = (product - a.float() @ b.float()).abs().max().item()
    print(f"{dtype}: 2.5 + 2.0 = {total[0].item():.3g}, largest error of tl.dot {dot_error[dtype]:.3g}")

exact = all(errors[dtype] == 0 for errors in (add_error, dot_error) for dtype in (torch.float32, torch.float16))
wild = add_error[torch.bfloat16] > 1 and dot_error[torch.bfloat16] > 1e6
sys.exit(0 if exact and wild else "the behaviour has changed")
EOF
TRITON_INTERPRET=1 "$work/venv/bin/python" "$work/check.py"
