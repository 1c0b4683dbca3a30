"""NVlabs' layout of a transformer: keys converted to those of diffusers, and the configuration that shapes show."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..models.configs import SanaConfig
from .weights import RenamedWeights

UNUSED_KEYS = ("y_embedder.y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias")
CROSS_HEADS = {1152: 16, 2240: 20}
"""Cross-attention heads by width: the only setting of a released model that its tensor shapes do not show."""
INTERPOLATION_SCALES = {64: 1.0, 128: 2.0}
"""Position-embedding scale of the 2K and 4K checkpoints by latent size; the others have none."""

TOP_MODULES = {
    "x_embedder.proj": "patch_embed.proj",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "attention_y_norm": "caption_norm",
    "t_block.1": "time_embed.linear",
    "final_layer.linear": "proj_out",
    "cfg_embedder.mlp.0": "time_embed.guidance_embedder.linear_1",
    "cfg_embedder.mlp.2": "time_embed.guidance_embedder.linear_2",
}
BLOCK_MODULES = {
    "attn.proj": "attn1.to_out.0",
    "attn.q_norm": "attn1.norm_q",
    "attn.k_norm": "attn1.norm_k",
    "cross_attn.q_linear": "attn2.to_q",
    "cross_attn.proj": "attn2.to_out.0",
    "cross_attn.q_norm": "attn2.norm_q",
    "cross_attn.k_norm": "attn2.norm_k",
    "mlp.inverted_conv.conv": "ff.conv_inverted",
    "mlp.depth_conv.conv": "ff.conv_depth",
    "mlp.point_conv.conv": "ff.conv_point",
}
FUSED_MODULES = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
}
QK_NORM_KEY = "transformer_blocks.0.attn1.norm_q.weight"


def convert_keys(weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """NVlabs keys to diffusers keys. Fused projections become views; unknown keys stay, and loading refuses them."""
    time = "time_embed" if "cfg_embedder.mlp.0.weight" in weights else "time_embed.emb"
    top = TOP_MODULES | {f"t_embedder.mlp.{i}": f"{time}.timestep_embedder.linear_{1 + i // 2}" for i in (0, 2)}
    sources: dict[str, tuple[str, int, int]] = {}
    for key in weights:
        module, _, leaf = key.rpartition(".")
        if key in UNUSED_KEYS:
            continue
        if key == "final_layer.scale_shift_table":
            sources["scale_shift_table"] = (key, 0, 1)
        elif key.startswith("blocks.") and module.count("."):
            _, index, *rest = module.split(".")
            inner = ".".join(rest)
            names = FUSED_MODULES.get(inner, (BLOCK_MODULES.get(inner, inner),))
            for i, name in enumerate(names):
                converted = ".".join(filter(None, ("transformer_blocks", index, name, leaf)))
                sources[converted] = (key, i, len(names))
        else:
            sources[".".join(filter(None, (top.get(module, module), leaf)))] = (key, 0, 1)
    return RenamedWeights(weights, sources)


def infer_config(weights: Mapping[str, torch.Tensor], latent_side: int | None, path: Path) -> SanaConfig:
    """Configuration of a released model from its tensor shapes. Raises CheckpointError for any other.

    Args:
        weights: tensors by diffusers key.
        latent_side: side of the training latents, or None if unknown.
        path: file to name in an error.
    """
    try:
        width, channels = weights["patch_embed.proj.weight"].shape[:2]
        hidden = weights["transformer_blocks.0.ff.conv_inverted.weight"].shape[0] // 2
        captions = weights["caption_projection.linear_1.weight"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"{path} is not a complete SANA transformer: it lacks {error}") from error
    if width not in CROSS_HEADS:
        raise CheckpointError(
            f"{path}: width must be {' or '.join(map(str, CROSS_HEADS))} as in the released models, got {width}; for "
            "another width put the model's transformer/config.json beside the file"
        )
    cross_heads = CROSS_HEADS[width]
    sample_size = latent_side or 32
    return SanaConfig(
        in_channels=channels,
        num_attention_heads=width // 32,
        num_layers=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("transformer_blocks.")),
        num_cross_attention_heads=cross_heads,
        cross_attention_head_dim=width // cross_heads,
        caption_channels=captions,
        mlp_ratio=hidden / width,
        sample_size=sample_size,
        interpolation_scale=INTERPOLATION_SCALES.get(sample_size),
        guidance_embeds="time_embed.guidance_embedder.linear_1.weight" in weights,
        qk_norm="rms_norm_across_heads" if QK_NORM_KEY in weights else None,
        clamp_attention=clamps_attention(weights, latent_side),
    )


def clamps_attention(weights: Mapping[str, torch.Tensor], latent_side: int | None) -> bool:
    """Whether self-attention output has to be clamped: NVlabs' code always does, but models trained in bf16 never reach
    the bound."""
    bf16 = weights["patch_embed.proj.weight"].dtype == torch.bfloat16
    return not (bf16 or QK_NORM_KEY in weights or latent_side in INTERPOLATION_SCALES)
