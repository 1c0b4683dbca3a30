"""Checkpoints in diffusers layout: a folder with a subfolder per part, its configuration and its safetensors."""

from pathlib import Path

import torch

from ..errors import CheckpointError
from ..models.configs import DCAEConfig, SanaConfig
from .checkpoint import Checkpoint, SolverConfig, read_json, trained_in_bf16
from .hub import PARTS
from .weights import stored_dtypes

DPM_SOLVER = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "final_sigmas_type": "zero",
    "num_train_timesteps": 1000,
}
"""Settings of every released flow checkpoint's scheduler; the engine's solver computes no others."""


def open_folder(folder: Path, model: str) -> Checkpoint:
    """Reads the configurations of a checkpoint in diffusers layout.

    Args:
        folder: the local folder, with all parts.
        model: what the user gave to name the model; its id in the API unless it is a path.
    """
    parts = {part: folder / part for part in PARTS}
    stored = stored_dtypes(parts["transformer"])
    fp16 = torch.float16 in stored
    # The releases trained in fp16 are the ones that come with an fp16 variant, and those need the attention clamp.
    config = SanaConfig.from_dict(read_json(parts["transformer"] / "config.json"), clamp_attention=fp16)
    bf16 = torch.bfloat16 in stored or trained_in_bf16(config)
    return Checkpoint(
        id=model if model == "demo" or not Path(model).expanduser().is_dir() else folder.resolve().name,
        parts=parts,
        transformer=config,
        decoder=DCAEConfig.from_dict(read_json(parts["vae"] / "config.json")),
        solver=read_solver(parts["scheduler"] / "scheduler_config.json"),
        trained_dtype=torch.float16 if fp16 else torch.bfloat16 if bf16 else None,
    )


def read_solver(path: Path) -> SolverConfig:
    """The solver in a scheduler_config.json. Raises CheckpointError for one that this engine does not have."""
    config = read_json(path)
    kind = config.get("_class_name")
    if kind == "SCMScheduler":
        return SolverConfig(scm=True, sigma_data=config.get("sigma_data", 0.5))
    if kind != "DPMSolverMultistepScheduler":
        raise CheckpointError(f"{path}: _class_name must be DPMSolverMultistepScheduler or SCMScheduler, got {kind}")
    for name, expected in DPM_SOLVER.items():
        if config.get(name, expected) != expected:
            raise CheckpointError(f"{path}: {name} must be {expected!r}, got {config[name]!r}")
    return SolverConfig(scm=False, flow_shift=config.get("flow_shift", 1.0))
