#!/usr/bin/env bash
# torch 2.13.0: the CPU generator reads only the low 32 bits of a seed.
#
# Expected: manual_seed takes 64 bits (it accepts up to 2**64 - 1), so different seeds give different noise.
# Actual: seeds that agree in their low 32 bits give the same noise, although initial_seed() reports each in full.
# A client that draws 64-bit seeds at random, as ComfyUI does, meets only 2**32 different images per prompt.
#
# Output seen:
#   seed 1: 0.661352, seed 2**32 + 1: 0.661352, seed 2: 0.392297
#   reported: 1, 4294967297, 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

seeds = {"1": 1, "2**32 + 1": 2**32 + 1, "2": 2}
noise, reported = {}, []
for name, seed in seeds.items():
    generator = torch.Generator().manual_seed(seed)
    noise[name] = torch.randn(4, generator=generator)
    reported.append(generator.initial_seed())
print(", ".join(f"seed {name}: {values[0]:.6f}" for name, values in noise.items()))
print("reported:", ", ".join(map(str, reported)))
same = torch.equal(noise["1"], noise["2**32 + 1"]) and not torch.equal(noise["1"], noise["2"])
sys.exit(0 if same and reported == list(seeds.values()) else "the behaviour has changed")
PYTHON
