"""What is known of a model before its weights are read, whatever the layout of its files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..models.configs import DCAEConfig, SanaConfig
from .damage import describe_damage

SHARED_PARTS = ("text_encoder", "tokenizer", "vae")
PARTS = ("transformer", "scheduler", *SHARED_PARTS)


@dataclass(frozen=True)
class SolverConfig:
    """Settings of the solver: Flow-DPM-Solver++, Sprint's (`scm`) with its sigma_data, or Euler's on the flow."""

    scm: bool
    flow_shift: float = 3.0
    sigma_data: float = 0.5
    euler: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Configurations of a model and where its parts are.

    Args:
        id: name of the model in the API.
        parts: folder of each part; that of the transformer may be a single file instead.
        transformer, decoder, solver: configurations of the networks and of the solver.
        trained_dtype: float16 or bfloat16, or None if the files do not show what the transformer was trained in.
    """

    id: str
    parts: Mapping[str, Path]
    transformer: SanaConfig
    decoder: DCAEConfig
    solver: SolverConfig
    trained_dtype: torch.dtype | None


def trained_in_bf16(config: SanaConfig) -> bool:
    """Whether the configuration is of a family trained in bf16: position embedding, q/k norms or embedded guidance."""
    return config.interpolation_scale is not None or config.qk_norm is not None or config.guidance_embeds


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError naming the file."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(describe_damage(path) or f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
