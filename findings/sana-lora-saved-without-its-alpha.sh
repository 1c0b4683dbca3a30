#!/usr/bin/env bash
# Subject: diffusers 0.42.0 SanaPipeline.save_lora_weights / load_lora_into_transformer, peft 0.21.2, torch 2.13.0,
#          transformers 5.23.0.
#
# Guess:   a LoRA trained with rank 4 and alpha 16, saved with the pipeline's own method and loaded with the
#          pipeline's own method, has the effect it had before: alpha is part of the adapter.
# Actual:  the file holds lora_A and lora_B and no alpha, neither as a tensor nor as metadata, unless the optional
#          argument transformer_lora_adapter_metadata is given. The loader then takes alpha = rank, so here the LoRA
#          acts with a quarter of its strength. Nothing warns. A scale of alpha / rank in set_adapters restores it.
# Seen:    metadata {"format": "pt"}; alpha 16 -> 4; outputs differ; with weight 4.0 they are equal
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 diffusers==0.42.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0

cat >"$work/check.py" <<'EOF'
import sys
import tempfile

import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open

RANK, ALPHA = 4, 16


def tiny_transformer():
    torch.manual_seed(0)
    return SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        mlp_ratio=2.0, sample_size=8,
    ).eval()  # fmt: skip


trained = tiny_transformer()
inputs = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 16), torch.tensor([500.0])
config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
trained.add_adapter(config, adapter_name="style")

folder = tempfile.mkdtemp(dir=sys.argv[1])
SanaPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(trained, adapter_name="style"))
with safe_open(f"{folder}/pytorch_lora_weights.safetensors", "pt") as file:
    print("metadata:", file.metadata(), "keys with alpha:", [key for key in file.keys() if "alpha" in key])

loaded = tiny_transformer()
SanaPipeline.load_lora_into_transformer(SanaPipeline.lora_state_dict(folder), loaded, adapter_name="style")
print("alpha:", ALPHA, "->", loaded.peft_config["style"].lora_alpha)


def difference():
    with torch.no_grad():
        return (trained(*inputs).sample - loaded(*inputs).sample).abs().max().item()


plain = difference()
loaded.set_adapters(["style"], weights=[ALPHA / RANK])
scaled = difference()
print(f"largest difference to the trained model: {plain:.3f}; with weight {ALPHA / RANK}: {scaled:.3g}")
expected = loaded.peft_config["style"].lora_alpha == RANK and plain > 0.01 and scaled < 1e-5
sys.exit(0 if expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" -W ignore "$work/check.py" "$work"
