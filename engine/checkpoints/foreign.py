"""Names the network in a file by its keys, for files that are not a SANA transformer."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError

KINDS = (
    (r"lora_(A|B|up|down|magnitude)|\.lora\.|lokr_|loha_|hada_w", "a LoRA adapter, which needs its base model"),
    (r"^controlnet|(^|\.)controlnet_blocks\.|^control_model\.|^input_block\.", "a ControlNet"),
    (r"bitsandbytes__|\.absmax$|\.qweight$|\.weight_scale$|\.SCB$|_packed$", "a quantized network"),
    (r"(^|\.)mlp\.t_conv\.|(^|\.)ff\.conv_temp\.|temporal", "a SANA-Video transformer"),
    (r"(^|\.)(double|single)_blocks\.|(^|\.)single_transformer_blocks\.", "a FLUX transformer"),
    (r"(^|\.)joint_blocks\.|^context_embedder\.", "a Stable Diffusion 3 transformer"),
    (r"input_blocks\.|(^|\.)(down_blocks\.\d+\.(attentions|resnets))", "a Stable Diffusion UNet or autoencoder"),
    (r"^(encoder|decoder)\.(stages|(up|down)_blocks|project_(in|out)|conv_(in|out))", "an autoencoder"),
    (r"^(post_)?quant_conv|^(encoder|decoder)\.(mid|up|down)\b", "an autoencoder"),
    (r"^adaln_single\.|^pos_embed\.proj\.|^csize_embedder", "a PixArt transformer"),
    (r"(^|\.)layers\.\d+\.self_attn\.|^embed_tokens\.|^lm_head\.", "a language model, such as SANA's text encoder"),
    (r"^encoder\.block\.\d+\.layer|^shared\.weight$|text_model\.encoder\.", "a text encoder"),
    (r"(^|\.)patch_embedding\.|time_projection\.1\.|(^|\.)cross_attn\.norm_k\.", "a Wan video transformer"),
    (r"^exp_avg|^param_groups$|^optimizer", "an optimizer's state"),
)
"""Pattern of a key that only this kind of network has, and what to call it; the first that matches decides."""


def refuse_foreign(state: Mapping[str, torch.Tensor], path: Path) -> CheckpointError:
    """The error for a file that does not hold a SANA transformer, with what it seems to hold."""
    keys = sorted(state)
    kind = next((kind for pattern, kind in KINDS if any(re.search(pattern, key) for key in keys)), None)
    listed = f"{len(keys)} tensor{'s' * (len(keys) > 1)} such as {', '.join(keys[:2])}" if keys else "no tensors"
    if kind:
        return CheckpointError(f"{path} is not a SANA transformer but looks like {kind}: it holds {listed}")
    return CheckpointError(f"{path} is not a SANA transformer: it holds {listed}")
