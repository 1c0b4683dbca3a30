"""PyTorch's files, as training writes them: unpickled without running code, memory-mapped, EMA weights preferred."""

import argparse
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from .damage import describe_damage

log = logging.getLogger(__name__)

STATE_NAMES = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "module")
"""Names under which a training checkpoint holds weights, in order of preference."""
REMAP_BYTES = 2**26
"""Bytes read through one mapping of a .pth before it is replaced; opening one costs about 30 ms."""

_reconstruct, _scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
NUMPY_GLOBALS: list[Any] = [
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in ("u1", "u4", "u8", "i4", "i8", "f4", "f8", "?")),
    argparse.Namespace,
]
"""What a training checkpoint has besides tensors: random states, losses and settings. None of it can run code."""


class PickledWeights(Mapping[str, torch.Tensor]):
    """Tensors of a PyTorch file by key, memory-mapped. Unpickles data only, so a file cannot run code."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mapped_bytes = 0
        content = self._read()
        self._name = next((name for name in STATE_NAMES if holds_tensors(content.get(name))), None)
        if self._name and len(content) > 1:
            log.info("%s: using %s of %s", path, self._name, ", ".join(map(str, content)))
        self._state = self._choose(content)
        self._keys = [key for key, tensor in self._state.items() if isinstance(tensor, torch.Tensor)]

    def __getitem__(self, key: str) -> torch.Tensor:
        # Pages stay resident as long as their mapping, so a new one now and then releases what has been read.
        if self._mapped_bytes > REMAP_BYTES and zipfile.is_zipfile(self._path):
            self._state = self._choose(self._read())
            self._mapped_bytes = 0
        tensor: torch.Tensor = self._state[key]
        self._mapped_bytes += tensor.nbytes
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def _choose(self, content: dict[str, Any]) -> dict[str, Any]:
        return content[self._name] if self._name else content

    def _read(self) -> dict[str, Any]:
        path = self._path
        try:
            with torch.serialization.safe_globals(NUMPY_GLOBALS), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
                # Files of the format before PyTorch 1.6 cannot be mapped.
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError, AttributeError, KeyError) as error:
            raise CheckpointError(describe_damage(path) or describe_pickle(path, error)) from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} must hold a state dict, got {type(content).__name__}")
        return content


def holds_tensors(content: object) -> bool:
    """Whether an entry of a training checkpoint is a state dict; an EMA that was not trained is empty or None."""
    return isinstance(content, dict) and any(isinstance(value, torch.Tensor) for value in content.values())


def describe_pickle(path: Path, error: Exception) -> str:
    """One plain line for a file that PyTorch refuses; its own texts have several, with escape codes."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class) ([\w.]+)|instantiate ([\w.]+)", text)
    if found:
        name = next(group for group in found.groups() if group)
        return (
            f"{path} holds an object of {name}, which could run code and is not loaded: save the weights alone, "
            "torch.save({'state_dict': model.state_dict()}, path)"
        )
    if "Unsupported operand" in text:
        return f"{path} uses pickle protocol 4 or later, which cannot be read safely: save it with torch.save's default"
    text = text.partition("WeightsUnpickler error: ")[2] or text
    return f"{path} is not a readable .pth: {(text.splitlines() or [type(error).__name__])[0].strip()}"
