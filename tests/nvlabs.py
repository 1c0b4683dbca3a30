"""Converts a diffusers transformer to the layout of NVlabs' .pth files, with the unused keys of that layout."""

from pathlib import Path

import torch

TOP = {
    "patch_embed.proj": "x_embedder.proj",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "caption_norm": "attention_y_norm",
    "time_embed.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_embed.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_embed.guidance_embedder.linear_1": "cfg_embedder.mlp.0",
    "time_embed.guidance_embedder.linear_2": "cfg_embedder.mlp.2",
    "time_embed.linear": "t_block.1",
    "proj_out": "final_layer.linear",
}
BLOCK = {
    "attn1.to_out.0": "attn.proj",
    "attn1.norm_q": "attn.q_norm",
    "attn1.norm_k": "attn.k_norm",
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_out.0": "cross_attn.proj",
    "attn2.norm_q": "cross_attn.q_norm",
    "attn2.norm_k": "cross_attn.k_norm",
    "ff.conv_inverted": "mlp.inverted_conv.conv",
    "ff.conv_depth": "mlp.depth_conv.conv",
    "ff.conv_point": "mlp.point_conv.conv",
}
FUSED = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
}


def to_nvlabs(state: dict[str, torch.Tensor], sample_size: int) -> dict[str, torch.Tensor]:
    """diffusers keys to NVlabs keys, plus those that no loader reads."""
    width, captions = state["caption_projection.linear_1.weight"].shape
    device, dtype = state["proj_out.weight"].device, state["proj_out.weight"].dtype
    out = {
        "y_embedder.y_embedding": torch.zeros(300, captions, device=device, dtype=dtype),
        "pos_embed": torch.zeros(1, sample_size**2, width, device=device, dtype=dtype),
        "logvar_linear.weight": torch.zeros(1, 256, device=device, dtype=dtype),
        "logvar_linear.bias": torch.zeros(1, device=device, dtype=dtype),
        "final_layer.scale_shift_table": state["scale_shift_table"],
    }
    fused_members = {member for members in FUSED.values() for member in members}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if not key.startswith("transformer_blocks."):
            if module:
                out[f"{TOP[module]}.{leaf}"] = tensor
            continue
        _, index, *rest = module.split(".")
        member = ".".join(rest)
        if not member:
            out[f"blocks.{index}.{leaf}"] = tensor
        elif member not in fused_members:
            out[f"blocks.{index}.{BLOCK[member]}.{leaf}"] = tensor
    for key in [key for key in state if ".attn1.to_q." in key or ".attn2.to_k." in key]:
        _, index, attention, member, leaf = key.split(".")
        fused = next(name for name, members in FUSED.items() if members[0] == f"{attention}.{member}")
        parts = [state[f"transformer_blocks.{index}.{name}.{leaf}"] for name in FUSED[fused]]
        out[f"blocks.{index}.{fused}.{leaf}"] = torch.cat(parts)
    return out


def write_pth(state: dict[str, torch.Tensor], sample_size: int, path: Path) -> Path:
    torch.save({"state_dict": to_nvlabs(state, sample_size), "epoch": 1}, path)
    return path
