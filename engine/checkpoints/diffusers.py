"""Checkpoints in diffusers layout: a folder with a subfolder per part, its configuration and its safetensors."""

import logging
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..models.configs import DCAEConfig, SanaConfig
from .checkpoint import PARTS, Checkpoint, SolverConfig, read_json, trained_in_bf16
from .weights import stored_dtypes

log = logging.getLogger(__name__)

PIPELINES = ("SanaPipeline", "SanaPAGPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline")
"""Pipelines whose checkpoints hold the parts of a text-to-image model; they differ in how they call them."""
OTHER_PIPELINES = {
    "ControlNet": "it needs a control image, which this server does not take; serve its base model",
    "Edit": "it edits images: its transformer takes a source image",
    "Video": "it generates video, with another transformer block",
    "WM": "it is a world model that generates video",
    "Streaming": "it generates video, with another transformer block",
    "LTX": "it generates video and is another model family",
    "Wan": "it generates video and is another model family",
    "Inpaint": "it fills masked regions: its transformer takes a mask",
    "ImageToImage": "it changes images: its transformer takes a source image",
}
DPM_SOLVER: dict[str, tuple[Any, ...]] = {
    "algorithm_type": ("dpmsolver++",),
    "solver_order": (2,),
    "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # diffusers replaces the last three by midpoint
    "prediction_type": ("flow_prediction",),
    "use_flow_sigmas": (True,),
    "final_sigmas_type": ("zero",),
    "num_train_timesteps": (1000,),
    "thresholding": (False,),
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
}
"""Values of a DPMSolverMultistepScheduler that give the engine's solver. Flow sampling does not read other settings,
such as beta_schedule, timestep_spacing or rescale_betas_zero_snr."""
EULER: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (1000,),
    "use_dynamic_shifting": (False,),
    "shift_terminal": (None, 0, False),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "invert_sigmas": (False,),
    "stochastic_sampling": (False,),
}
"""Values of a FlowMatchEulerDiscreteScheduler that the engine computes."""
SCM: dict[str, tuple[Any, ...]] = {"prediction_type": ("trigflow",)}


def open_folder(folder: Path, model: str) -> Checkpoint:
    """Reads the configurations of a checkpoint in diffusers layout.

    Args:
        folder: the local folder, with all parts.
        model: id of the model in the API.
    """
    parts = {part: folder / part for part in PARTS}
    stored = stored_dtypes(parts["transformer"])
    fp16 = torch.float16 in stored
    # The releases trained in fp16 are the ones that come with an fp16 variant, and those need the attention clamp.
    config, decoder, solver = read_configs(folder, clamp_attention=fp16)
    bf16 = torch.bfloat16 in stored or trained_in_bf16(config)
    return Checkpoint(
        id=model,
        parts=parts,
        transformer=config,
        decoder=decoder,
        solver=solver,
        trained_dtype=torch.float16 if fp16 else torch.bfloat16 if bf16 else None,
    )


def read_configs(folder: Path, clamp_attention: bool = False) -> tuple[SanaConfig, DCAEConfig, SolverConfig]:
    """The configurations in a folder, which need no weights. Raises CheckpointError for another kind of model."""
    check_pipeline(folder)
    config = read_transformer(folder / "transformer" / "config.json", clamp_attention)
    vae = read_json(folder / "vae" / "config.json")
    check_class(folder / "vae" / "config.json", vae, "AutoencoderDC")
    decoder = check_decoder(DCAEConfig.from_dict(vae), config)
    return config, decoder, read_solver(folder / "scheduler" / "scheduler_config.json")


def check_pipeline(folder: Path) -> None:
    """Raises CheckpointError if model_index.json is of another pipeline. A folder without one may still be whole."""
    path = folder / "model_index.json"
    if not path.is_file():
        return
    name = read_json(path).get("_class_name", "SanaPipeline")
    # A list names the module of a pipeline with code of its own.
    name = str(name[-1] if isinstance(name, list) and name else name)
    if name not in PIPELINES:
        reason = next(
            (reason for part, reason in OTHER_PIPELINES.items() if part in name), "it is another kind of model"
        )
        raise CheckpointError(
            f"{path}: {name} is not supported: {reason}. This server runs SanaPipeline and SanaSprintPipeline"
        )


def check_class(path: Path, config: dict[str, Any], expected: str) -> None:
    """Raises CheckpointError if a part's configuration is of another class."""
    if config.get("_class_name", expected) != expected:
        raise CheckpointError(f"{path}: _class_name must be {expected}, got {config['_class_name']}")


def read_transformer(path: Path, clamp_attention: bool) -> SanaConfig:
    """The configuration in a transformer's config.json."""
    config = read_json(path)
    check_class(path, config, "SanaTransformer2DModel")
    unknown = SanaConfig.unknown_keys(config)
    if unknown:
        log.warning("%s: ignoring unknown settings: %s", path, ", ".join(unknown))
    return SanaConfig.from_dict(config, clamp_attention=clamp_attention)


def check_decoder(decoder: DCAEConfig, config: SanaConfig) -> DCAEConfig:
    """`decoder`, if it decodes the latents of the transformer. Raises CheckpointError."""
    if decoder.latent_channels != config.in_channels:
        raise CheckpointError(
            f"vae/config.json: latent_channels must be {config.in_channels} as the transformer's in_channels, got "
            f"{decoder.latent_channels}"
        )
    return decoder


def read_solver(path: Path) -> SolverConfig:
    """The solver in a scheduler_config.json. Raises CheckpointError for one that this engine does not have."""
    config = read_json(path)
    kind = scheduler_class(path, config)
    if kind == "SCMScheduler":
        check_values(path, config, SCM, {})
        return SolverConfig(scm=True, sigma_data=config.get("sigma_data", 0.5))
    if kind == "DPMSolverMultistepScheduler":
        check_values(path, config, DPM_SOLVER, {"prediction_type": "epsilon", "use_flow_sigmas": False})
        return SolverConfig(scm=False, flow_shift=config.get("flow_shift", 1.0))
    if kind == "FlowMatchEulerDiscreteScheduler":
        check_values(path, config, EULER, {})
        return SolverConfig(scm=False, flow_shift=config.get("shift", 1.0), euler=True)
    raise CheckpointError(
        f"{path}: the scheduler must be DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler or SCMScheduler, "
        f"got {kind}"
    )


def scheduler_class(path: Path, config: dict[str, Any]) -> object:
    """The scheduler's class as diffusers chooses it: from model_index.json, which need not be the one that saved."""
    index = path.parent.parent / "model_index.json"
    entry = read_json(index).get("scheduler") if index.is_file() else None
    return entry[1] if isinstance(entry, list) and len(entry) == 2 and entry[1] else config.get("_class_name")


def check_values(
    path: Path, config: dict[str, Any], allowed: dict[str, tuple[Any, ...]], defaults: dict[str, Any]
) -> None:
    """Raises CheckpointError for a setting with which diffusers would sample otherwise than the engine.

    Args:
        defaults: values that diffusers uses for absent settings, where they are not the first allowed ones.
    """
    for name, values in allowed.items():
        value = config.get(name, defaults.get(name, values[0]))
        if value not in values:
            absent = "" if name in config else ", which is the default"
            raise CheckpointError(f"{path}: {name} must be {values[0]!r}, got {value!r}{absent}")
