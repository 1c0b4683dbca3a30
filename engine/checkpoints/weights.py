"""Weights from disk into a module built on the meta device: every key accounted for, no second copy in memory."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError

VARIANTS = {
    torch.float32: ("", "bf16", "fp16"),
    torch.bfloat16: ("bf16", "", "fp16"),
    torch.float16: ("fp16", "", "bf16"),
}
"""File variants in order of preference for each dtype; "" is the file without a variant in its name."""
STEMS = ("diffusion_pytorch_model", "model")
REMAP_BYTES = 2**24
"""Bytes read through one mapping of a file before it is replaced: the most that a conversion holds twice."""


class WeightFiles(Mapping[str, torch.Tensor]):
    """The tensors of one component, mapped from its safetensors files when asked for.

    Args:
        files: {key in the file: file}.
        prefix: only keys that begin with it are seen, without it.
    """

    def __init__(self, files: dict[str, Path], prefix: str = "") -> None:
        self._files = {key.removeprefix(prefix): path for key, path in files.items() if key.startswith(prefix)}
        self._prefix = prefix
        self._open: tuple[Path, Any] | None = None
        self._mapped_bytes = 0

    def __getitem__(self, key: str) -> torch.Tensor:
        path = self._files[key]
        try:
            # A mapping lives as long as its last tensor: a new one now and then lets go of what was converted.
            if self._open is None or self._open[0] != path or self._mapped_bytes > REMAP_BYTES:
                self._open = (path, safe_open(path, framework="pt", device="cpu"))
                self._mapped_bytes = 0
            tensor: torch.Tensor = self._open[1].get_tensor(self._prefix + key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
        self._mapped_bytes += tensor.nbytes
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def find_weights(folder: Path, dtype: torch.dtype) -> dict[str, Path]:
    """{key: file} of the variant that suits `dtype` best. Raises CheckpointError when there is none."""
    for variant in VARIANTS[dtype]:
        files = variant_files(folder, variant)
        if files:
            return files
    raise CheckpointError(f"{folder} holds no safetensors weights ({' or '.join(STEMS)}[.fp16|.bf16].safetensors)")


def variant_files(folder: Path, variant: str) -> dict[str, Path]:
    """Files of one variant, single or sharded: {key: file}, empty if the folder has no such variant."""
    infix = f".{variant}" if variant else ""
    for stem in STEMS:
        index = folder / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            try:
                return {key: folder / name for key, name in json.loads(index.read_text())["weight_map"].items()}
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise CheckpointError(f"{index} is not a weight index: {error}") from error
        single = folder / f"{stem}{infix}.safetensors"
        if single.is_file():
            try:
                with safe_open(single, framework="pt", device="cpu") as file:
                    return dict.fromkeys(file.keys(), single)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{single} is not a whole safetensors file: {error}") from error
    return {}


def stored_dtypes(folder: Path) -> set[torch.dtype]:
    """The dtypes a component is offered in: of each variant there, that of its first tensor."""
    offered = [variant_files(folder, variant) for variant in VARIANTS[torch.float32]]
    return {WeightFiles(files)[next(iter(files))].dtype for files in offered if files}


def load_weights(
    module: nn.Module, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, device: torch.device, source: Path
) -> None:
    """Fills every parameter of `module` by assignment, in `dtype` on `device`.

    On the CPU a tensor that already has the dtype stays a view of the mapped file. Raises CheckpointError naming a
    key that is missing, not consumed or of another shape.
    """
    wanted = module.state_dict()
    missing, unexpected = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    if missing or unexpected:
        parts = [
            f"{kind} {name_some(keys)}" for kind, keys in (("lacks", missing), ("has unknown", unexpected)) if keys
        ]
        raise CheckpointError(f"{source} does not fit its config.json: it {' and '.join(parts)}")
    loaded = {}
    for key, parameter in wanted.items():
        tensor = weights[key]
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{source} does not fit its config.json: {key} is {list(tensor.shape)} where {list(parameter.shape)} "
                "is expected"
            )
        loaded[key] = tensor.to(device=device, dtype=dtype)
    module.load_state_dict(loaded, assign=True)
    module.requires_grad_(False).eval()


def name_some(keys: set[str]) -> str:
    """The first keys and how many more."""
    first = sorted(keys)[:3]
    rest = len(keys) - len(first)
    return ", ".join(first) + (f" and {rest} more" if rest else "")
