"""NVlabs' own checkpoints (.pth), which hold the transformer alone: keys converted to those of the diffusers layout."""

import pickle
from dataclasses import replace
from math import isqrt
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..models.configs import DCAEConfig, SanaConfig
from .checkpoint import Checkpoint, SolverConfig, read_json, trained_in_bf16
from .diffusers import read_solver
from .hub import PARTS, SHARED_PARTS, SHARED_PARTS_MODEL, download, find_part_beside

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


def read_pth(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a .pth, memory-mapped. Unpickles tensors only, so a file cannot run code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable .pth: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a state dict, got {type(content).__name__}")
    state: dict[str, torch.Tensor] = content.get("state_dict", content)
    return state


def open_pth(path: Path, variants: tuple[str, ...]) -> Checkpoint:
    """Reads the configurations of an NVlabs checkpoint. Parts that are not beside the file come from the hub.

    Args:
        variants: weight variants in order of preference, as of `hub.download`.
    """
    found = {part: find_part_beside(path, part) for part in PARTS}
    if not all(found[part] for part in SHARED_PARTS):
        shared = download(SHARED_PARTS_MODEL, SHARED_PARTS, variants)
        found |= {part: shared / part for part in SHARED_PARTS if not found[part]}
    parts = {part: folder for part, folder in found.items() if folder} | {"transformer": path}
    state = read_pth(path)
    clamp = clamps_attention(state)
    if found["transformer"] and (found["transformer"] / "config.json").is_file():
        config = SanaConfig.from_dict(read_json(found["transformer"] / "config.json"), clamp)
    else:
        config = replace(infer_config(state, path), clamp_attention=clamp)
    if found["scheduler"]:
        solver = read_solver(found["scheduler"] / "scheduler_config.json")
    else:
        solver = SolverConfig(scm=config.guidance_embeds, flow_shift=6.0 if config.sample_size == 128 else 3.0)
    stored = state["x_embedder.proj.weight"].dtype
    # A file in fp32 does not show what it was trained in; bf16, with the clamp, is right for either.
    bf16 = stored == torch.bfloat16 or trained_in_bf16(config)
    return Checkpoint(
        id=path.stem,
        parts=parts,
        transformer=config,
        decoder=DCAEConfig.from_dict(read_json(parts["vae"] / "config.json")),
        solver=solver,
        trained_dtype=torch.float16 if stored == torch.float16 else torch.bfloat16 if bf16 else None,
    )


def convert_keys(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """NVlabs keys to diffusers keys. Fused projections become views; unknown keys stay, and loading refuses them."""
    guidance = "cfg_embedder.mlp.0.weight" in state
    time = "time_embed.timestep_embedder" if guidance else "time_embed.emb.timestep_embedder"
    top = TOP_MODULES | {"t_embedder.mlp.0": f"{time}.linear_1", "t_embedder.mlp.2": f"{time}.linear_2"}
    converted: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if key in UNUSED_KEYS:
            continue
        if key.startswith("blocks."):
            _, index, rest = key.split(".", 2)
            module, _, leaf = rest.rpartition(".")
            block = f"transformer_blocks.{index}"
            if module in FUSED_MODULES:
                names = FUSED_MODULES[module]
                parts = tensor.chunk(len(names))
                converted |= {f"{block}.{n}.{leaf}": part for n, part in zip(names, parts, strict=True)}
            else:
                name = BLOCK_MODULES.get(module, module)
                converted[f"{block}.{name}.{leaf}" if name else f"{block}.{leaf}"] = tensor
        else:
            module, _, leaf = key.rpartition(".")
            if key == "final_layer.scale_shift_table":
                converted["scale_shift_table"] = tensor
            else:
                converted[f"{top.get(module, module)}.{leaf}"] = tensor
    return converted


def infer_config(state: dict[str, torch.Tensor], path: Path) -> SanaConfig:
    """Configuration of a released NVlabs checkpoint from its tensor shapes. Raises CheckpointError for any other."""
    try:
        width, channels = state["x_embedder.proj.weight"].shape[:2]
        hidden = state["blocks.0.mlp.inverted_conv.conv.weight"].shape[0] // 2
        captions = state["y_embedder.y_proj.fc1.weight"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"{path} is not a SANA transformer: it lacks {error}") from error
    if width not in CROSS_HEADS:
        raise CheckpointError(
            f"{path}: width must be {' or '.join(map(str, CROSS_HEADS))} as in the released models, got {width}; for "
            "another width put the model's transformer/config.json beside the file"
        )
    cross_heads = CROSS_HEADS[width]
    sample_size = latent_side(state)
    qk_norm = "blocks.0.attn.q_norm.weight" in state
    return SanaConfig(
        in_channels=channels,
        num_attention_heads=width // 32,
        num_layers=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        num_cross_attention_heads=cross_heads,
        cross_attention_head_dim=width // cross_heads,
        caption_channels=captions,
        mlp_ratio=hidden / width,
        sample_size=sample_size,
        interpolation_scale=INTERPOLATION_SCALES.get(sample_size),
        guidance_embeds="cfg_embedder.mlp.0.weight" in state,
        qk_norm="rms_norm_across_heads" if qk_norm else None,
        clamp_attention=clamps_attention(state),
    )


def latent_side(state: dict[str, torch.Tensor]) -> int:
    """Side of the training latents, from the position embedding in the file, which only the 2K and 4K models use."""
    return isqrt(state["pos_embed"].shape[1]) if "pos_embed" in state else 32


def clamps_attention(state: dict[str, torch.Tensor]) -> bool:
    """Whether self-attention output has to be clamped: NVlabs' code always does, but models trained in bf16 never reach
    the bound."""
    bf16 = state["x_embedder.proj.weight"].dtype == torch.bfloat16
    return not (bf16 or "blocks.0.attn.q_norm.weight" in state or latent_side(state) in INTERPOLATION_SCALES)
