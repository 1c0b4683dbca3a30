"""A transformer in one file: .pth or safetensors, released or from a training run, in NVlabs' or diffusers' layout."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..models.configs import DCAEConfig, SanaConfig
from .checkpoint import PARTS, SHARED_PARTS, Checkpoint, SolverConfig, read_json, trained_in_bf16
from .damage import describe_damage
from .diffusers import check_decoder, read_solver, read_transformer
from .foreign import refuse_foreign
from .nvlabs import INTERPOLATION_SCALES, clamps_attention, convert_keys, infer_config
from .pickled import PickledWeights
from .weights import RenamedWeights, WeightFiles

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
SHARED_PARTS_MODEL = "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
"""Source of the shared parts for a single file that has none beside it: they are the same in all releases."""
FSDP_FILE = Path("model") / "pytorch_model_fsdp.bin"
"""The weights in the folder of an FSDP run."""
WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into keys."""


def open_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Tensors of a file as they are stored, by key."""
    if path.suffix != ".safetensors":
        return PickledWeights(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return WeightFiles(dict.fromkeys(file.keys(), path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(describe_damage(path) or f"{path} is not a safetensors file: {error}") from error


def strip_wrappers(weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The weights without what training and other programs put before or into their keys."""
    names = {WRAPPERS.sub("", key): key for key in weights}
    anchors = [key for key in names if re.search(r"(^|\.)(x_embedder|patch_embed)\.proj\.weight$", key)]
    prefix = re.sub(r"(x_embedder|patch_embed)\.proj\.weight$", "", min(anchors, key=len)) if anchors else ""
    return RenamedWeights(weights, {key.removeprefix(prefix): (name, 0, 1) for key, name in names.items()})


@dataclass(frozen=True)
class SingleFile:
    """A transformer in one file.

    Args:
        weights: tensors by diffusers key.
        latent_side: side of the training latents if the file shows it.
        nvlabs: whether the file has NVlabs' layout.
    """

    weights: Mapping[str, torch.Tensor]
    latent_side: int | None
    nvlabs: bool


def read_single_file(path: Path) -> SingleFile:
    """Opens a file and recognizes its layout. Raises CheckpointError saying what any other file holds."""
    weights = strip_wrappers(open_weights(path))
    nvlabs = "x_embedder.proj.weight" in weights and "y_embedder.y_proj.fc1.weight" in weights
    diffusers = "patch_embed.proj.weight" in weights and "caption_projection.linear_1.weight" in weights
    if not (nvlabs or diffusers) or any("lora_" in key or "controlnet" in key for key in weights):
        raise refuse_foreign(weights, path)
    embed = weights["x_embedder.proj.weight" if nvlabs else "patch_embed.proj.weight"]
    if embed.ndim != 4:
        raise CheckpointError(f"{path} is not a SANA image transformer but looks like a video one: its patches are 3-D")
    side = isqrt(weights["pos_embed"].shape[1]) if "pos_embed" in weights else None
    return SingleFile(convert_keys(weights) if nvlabs else weights, side, nvlabs)


def open_single_file(path: Path, model: str, variants: tuple[str, ...]) -> Checkpoint:
    """Reads the configurations of a transformer in one file. Parts that are not beside it come from the hub.

    Args:
        model: id of the model in the API.
        variants: weight variants in order of preference, as of `hub.download_parts`.
    """
    file = read_single_file(path)
    found = {part: find_part_beside(path, part) for part in PARTS}
    clamp = clamps_attention(file.weights, file.latent_side)
    config_file = next((p for p in config_paths(path, found["transformer"]) if p.is_file()), None)
    if config_file:
        config = read_transformer(config_file, clamp)
    else:
        config = replace(infer_config(file.weights, file.latent_side, path), clamp_attention=clamp)
        require_known_size(file, config, path)
    if found["scheduler"]:
        solver = read_solver(found["scheduler"] / "scheduler_config.json")
    else:
        solver = SolverConfig(scm=config.guidance_embeds, flow_shift=6.0 if config.sample_size == 128 else 3.0)
    # Only now that the file is known to be a SANA transformer: the shared parts are gigabytes.
    if not all(found[part] for part in SHARED_PARTS):
        from .hub import download_parts  # here, because the hub's client takes 0.2 s to import

        shared = download_parts(SHARED_PARTS_MODEL, SHARED_PARTS, variants)
        found |= {part: shared / part for part in SHARED_PARTS if not found[part]}
    parts = {part: folder for part, folder in found.items() if folder} | {"transformer": path}
    stored = file.weights["patch_embed.proj.weight"].dtype
    # A file in fp32 does not show what it was trained in; bf16, with the clamp, is right for either.
    bf16 = stored == torch.bfloat16 or trained_in_bf16(config)
    return Checkpoint(
        id=model,
        parts=parts,
        transformer=config,
        decoder=check_decoder(DCAEConfig.from_dict(read_json(parts["vae"] / "config.json")), config),
        solver=solver,
        trained_dtype=torch.float16 if stored == torch.float16 else torch.bfloat16 if bf16 else None,
    )


def config_paths(path: Path, transformer: Path | None) -> list[Path]:
    """Where the config.json of a single file may be: in a transformer folder beside it, or next to its weights."""
    beside = [path.parent / "config.json"] if path.parent.name == "transformer" else []
    return beside + ([transformer / "config.json"] if transformer else [])


def find_part_beside(file: Path, part: str) -> Path | None:
    """Folder of a part that a single file does not hold, if there is one beside the file or one folder up."""
    beside = file.absolute().parent
    if file.name == FSDP_FILE.name:
        beside = beside.parent
    folders = (beside / part, beside.parent / part)
    return next((folder for folder in folders if any(folder.glob("*.json"))), None)


def require_known_size(file: SingleFile, config: SanaConfig, path: Path) -> None:
    """Raises CheckpointError where only config.json tells the 2K and 4K models, which add positions, from others."""
    ambiguous = config.width == 2240 and config.qk_norm is None and not config.guidance_embeds
    if not file.nvlabs and ambiguous:
        sizes = " and ".join(f"{32 * side} px" for side in INTERPOLATION_SCALES)
        raise CheckpointError(
            f"{path} has no config.json beside it, and its tensors do not show whether it is a model for {sizes}: put "
            "the model's transformer/config.json beside the file"
        )
