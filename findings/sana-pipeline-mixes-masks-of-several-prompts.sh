#!/usr/bin/env bash
# Subject: diffusers 0.42.0, SanaPipeline.encode_prompt with several prompts and num_images_per_prompt above 1;
#          torch 2.13.0, transformers 5.23.0.
#
# Guess:   the repeated prompt embeddings and the repeated attention masks are in the same order.
# Actual:  embeddings come as prompt 1, 1, 2, 2 and masks as 1, 2, 1, 2. Half of the images are generated with another
#          prompt's mask: a short prompt's image reads padding, a long prompt's image ignores the end of its text.
#          With one prompt, or with one image for each prompt, all is well, so single-image tests never show it.
#          A reference image for a comparison must be made one prompt at a time.
# Seen:    embeddings [1, 1, 2, 2]; mask lengths [2, 4, 2, 4] where prompt 1 has 2 tokens and prompt 2 has 4
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 diffusers==0.42.0 transformers==5.23.0 accelerate==1.15.0

cat >"$work/check.py" <<'EOF'
import sys

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

torch.manual_seed(0)
transformer = SanaTransformer2DModel(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
    num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=3,
    mlp_ratio=2.0, sample_size=8,
).eval()  # fmt: skip
blocks = {"block_types": ("ResBlock", "ResBlock"), "block_out_channels": (8, 8), "layers_per_block": (1, 1)}
vae = AutoencoderDC(
    latent_channels=4, attention_head_dim=2, encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()},
).eval()  # fmt: skip
scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
pipeline = SanaPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=scheduler)

embeds = torch.stack([torch.full((4, 3), 1.0), torch.full((4, 3), 2.0)])  # prompt 1 and prompt 2
mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])  # of 2 and 4 tokens


def order(images):
    result, result_mask, _, _ = pipeline.encode_prompt(
        None, False, num_images_per_prompt=images, prompt_embeds=embeds, prompt_attention_mask=mask
    )
    return result[:, 0, 0].int().tolist(), result_mask.sum(1).tolist()


for images in (1, 2):
    print(f"{images} for each prompt: prompt and mask length of each image:", *order(images))
sys.exit(0 if order(1) == ([1, 2], [2, 4]) and order(2) == ([1, 1, 2, 2], [2, 4, 2, 4]) else "the behaviour has changed")
EOF
"$work/venv/bin/python" -W ignore "$work/check.py"
