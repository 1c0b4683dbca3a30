#!/usr/bin/env bash
# Subject: safetensors 0.8.0, safetensors.torch.load_file and safe_open; torch 2.13.0, on the CPU.
#
# Guess:   a loaded tensor is a copy, or at worst a private mapping: once load_file has returned, the file may be
#          overwritten, and certainly a value that the program itself has written stays.
# Actual:  the tensors are the mapped file. Writing a new checkpoint of the same size into the same file (cp, rsync
#          --inplace, a plain open("wb")) changes the weights of every process that has it loaded, even values that
#          the process has changed since. safetensors.numpy copies and is not affected. Neither is a file that was
#          replaced by a rename, which is what save_file itself does.
# Seen:    torch 1.0 -> 2.0, own value 9.0 -> 2.0, safe_open 1.0 -> 2.0; numpy 1.0; after save_file on the path: 2.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 safetensors==0.8.0

cat >"$work/check.py" <<'EOF'
import sys
from pathlib import Path

import safetensors.numpy
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file


def checkpoint(value):
    return {"weight": torch.full((4096,), value)}


path = Path(sys.argv[1]) / "weights.safetensors"
save_file(checkpoint(1.0), path)
loaded = load_file(path)["weight"]
loaded[0] = 9.0
copied = safetensors.numpy.load_file(path)["weight"]
with safe_open(path, "pt") as file:
    opened = file.get_tensor("weight")

path.write_bytes(save(checkpoint(2.0)))  # the same file, the same size
in_place = {
    "load_file": loaded[4000].item(),
    "load_file, own value 9.0": loaded[0].item(),
    "safe_open": opened[4000].item(),
    "safetensors.numpy": float(copied[4000]),
}
for name, value in in_place.items():
    print(f"{name}: {value} after the file was overwritten with 2.0")

save_file(checkpoint(3.0), path)
print(f"load_file: {loaded[4000].item()} after save_file replaced the file with 3.0")
expected = list(in_place.values()) == [2.0, 2.0, 2.0, 1.0] and loaded[4000].item() == 2.0
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py" "$work"
