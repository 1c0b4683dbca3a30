"""A checkpoint on disk, whatever its layout: its configurations read and judged, its parts found. Nothing is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..models.configs import DCAEConfig, SanaConfig
from . import hub, nvlabs
from .weights import VARIANTS, WeightFiles, find_weights, stored_dtypes

DPM_SOLVER = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "final_sigmas_type": "zero",
    "num_train_timesteps": 1000,
}
"""What every released flow checkpoint says of its scheduler; anything else would be sampled wrongly."""


@dataclass(frozen=True)
class SolverConfig:
    """Flow-DPM-Solver++ with its shift, or (`scm`) Sprint's solver with its sigma_data."""

    scm: bool
    flow_shift: float = 3.0
    sigma_data: float = 0.5


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a model before its weights are read.

    Args:
        id: name in the API.
        parts: folder of each part; the transformer's may be an NVlabs .pth.
        trained_dtype: float16 or bfloat16 where the checkpoint shows it.
    """

    id: str
    parts: Mapping[str, Path]
    transformer: SanaConfig
    decoder: DCAEConfig
    solver: SolverConfig
    trained_dtype: torch.dtype | None

    def transformer_weights(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        source = self.parts["transformer"]
        if source.suffix == ".pth":
            return nvlabs.convert_keys(nvlabs.read_pth(source))
        return WeightFiles(find_weights(source, dtype))


def open_checkpoint(model: str, dtype: torch.dtype | None) -> Checkpoint:
    """Finds (or downloads) a model and reads its configurations.

    Args:
        model: `demo`, a folder in diffusers layout, an NVlabs .pth, or a hub id.
        dtype: what the transformer will run in; None leaves the choice of weight files to the checkpoint.
    """
    variants = VARIANTS[dtype] if dtype else ("bf16", "fp16", "")
    path = hub.resolve_model(model, variants)
    return open_pth(path, variants) if path.suffix == ".pth" else open_folder(path, model)


def open_folder(folder: Path, model: str) -> Checkpoint:
    parts = {part: folder / part for part in hub.PARTS}
    dtypes = stored_dtypes(parts["transformer"])
    fp16 = torch.float16 in dtypes
    config = SanaConfig.from_dict(read_json(parts["transformer"] / "config.json"), clamp_attention=fp16)
    return Checkpoint(
        id=model if model == "demo" or not Path(model).expanduser().is_dir() else folder.resolve().name,
        parts=parts,
        transformer=config,
        decoder=DCAEConfig.from_dict(read_json(parts["vae"] / "config.json")),
        solver=read_solver(parts["scheduler"] / "scheduler_config.json"),
        trained_dtype=torch.float16 if fp16 else trained_bf16(config, torch.bfloat16 in dtypes),
    )


def open_pth(path: Path, variants: tuple[str, ...]) -> Checkpoint:
    """An NVlabs file holds the transformer alone; the other parts lie beside it or come from the hub."""
    found = {part: hub.companion(path, part) for part in hub.PARTS}
    if not all(found[part] for part in hub.SHARED_PARTS):
        shared = hub.download(hub.COMPANIONS, hub.SHARED_PARTS, variants)
        found |= {part: shared / part for part in hub.SHARED_PARTS if not found[part]}
    parts = {part: folder for part, folder in found.items() if folder} | {"transformer": path}
    state = nvlabs.read_pth(path)
    clamp = nvlabs.clamps_attention(state)
    if found["transformer"] and (found["transformer"] / "config.json").is_file():
        config = SanaConfig.from_dict(read_json(found["transformer"] / "config.json"), clamp)
    else:
        config = replace(nvlabs.infer_config(state, path), clamp_attention=clamp)
    if found["scheduler"]:
        solver = read_solver(found["scheduler"] / "scheduler_config.json")
    else:
        solver = SolverConfig(scm=config.guidance_embeds, flow_shift=6.0 if config.sample_size == 128 else 3.0)
    stored = state["x_embedder.proj.weight"].dtype
    return Checkpoint(
        id=path.stem,
        parts=parts,
        transformer=config,
        decoder=DCAEConfig.from_dict(read_json(parts["vae"] / "config.json")),
        solver=solver,
        # A file in fp32 does not say what it was trained in; bf16, with the clamp, is right for either.
        trained_dtype=stored if stored == torch.float16 else trained_bf16(config, stored == torch.bfloat16),
    )


def trained_bf16(config: SanaConfig, stored: bool) -> torch.dtype | None:
    """Every family with a position embedding, q/k norms or embedded guidance was trained in bf16."""
    known = config.interpolation_scale is not None or config.qk_norm is not None or config.guidance_embeds
    return torch.bfloat16 if stored or known else None


def read_solver(path: Path) -> SolverConfig:
    config = read_json(path)
    kind = config.get("_class_name")
    if kind == "SCMScheduler":
        return SolverConfig(scm=True, sigma_data=config.get("sigma_data", 0.5))
    if kind != "DPMSolverMultistepScheduler":
        raise CheckpointError(f"{path}: {kind} is neither DPMSolverMultistepScheduler nor SCMScheduler")
    for name, wanted in DPM_SOLVER.items():
        if config.get(name, wanted) != wanted:
            raise CheckpointError(f"{path}: {name} is {config[name]!r}; SANA is sampled with {wanted!r}")
    return SolverConfig(scm=False, flow_shift=config.get("flow_shift", 1.0))


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content
