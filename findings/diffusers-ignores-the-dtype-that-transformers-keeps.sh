#!/usr/bin/env bash
# Subject: diffusers 0.42.0 and transformers 5.23.0, from_pretrained of the two halves of a SANA folder; torch 2.13.0.
#
# Guess:   both libraries treat a bfloat16 checkpoint alike, and dtype="auto" keeps the files' dtype in both.
# Actual:  transformers keeps bfloat16 by default. diffusers turns the transformer into float32, twice the memory.
#          It does not know "auto" either: it logs "torch.float32 is not a torch.dtype", naming the fallback in place
#          of the value it refused, and loads float32. Only an explicit dtype works in both.
# Seen:    default: text encoder bfloat16, transformer float32; "auto": the same; torch.bfloat16: both bfloat16
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 diffusers==0.42.0 transformers==5.23.0 accelerate==1.15.0

cat >"$work/check.py" <<'EOF'
import sys

import torch
from diffusers import SanaTransformer2DModel
from safetensors import safe_open
from transformers import Gemma2Config, Gemma2Model

folder = sys.argv[1]
config = Gemma2Config(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8,
)  # fmt: skip
Gemma2Model(config).to(torch.bfloat16).save_pretrained(f"{folder}/text_encoder")
SanaTransformer2DModel(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
    num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
    mlp_ratio=2.0, sample_size=8,
).to(torch.bfloat16).save_pretrained(f"{folder}/transformer")  # fmt: skip
with safe_open(f"{folder}/transformer/diffusion_pytorch_model.safetensors", "pt") as file:
    assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}

seen = {}
for name, options in (("default", {}), ("auto", {"dtype": "auto"}), ("bfloat16", {"dtype": torch.bfloat16})):
    encoder = Gemma2Model.from_pretrained(f"{folder}/text_encoder", **options)
    transformer = SanaTransformer2DModel.from_pretrained(f"{folder}/transformer", **options)
    seen[name] = encoder.dtype, transformer.dtype
    print(f"dtype {name}: transformers {encoder.dtype}, diffusers {transformer.dtype}")

mixed, same = (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)
sys.exit(0 if seen == {"default": mixed, "auto": mixed, "bfloat16": same} else "the behaviour has changed")
EOF
"$work/venv/bin/python" -W ignore "$work/check.py" "$work"
