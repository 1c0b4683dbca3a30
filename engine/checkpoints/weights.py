"""Loads weights from disk into a module built on the meta device: no key ignored, at most one tensor held twice."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError
from .damage import describe_damage

VARIANTS = {
    torch.float32: ("", "bf16", "fp16"),
    torch.bfloat16: ("bf16", "", "fp16"),
    torch.float16: ("fp16", "", "bf16"),
}
"""File variants in order of preference for each dtype; "" is the file without a variant in its name."""
STEMS = ("diffusion_pytorch_model", "model")
"""Names of weight files without variant, shard number and suffix."""
REMAP_BYTES = 2**24
"""Bytes read through one mapping of a file before it is replaced. Loading holds at most that much twice."""


class WeightFiles(Mapping[str, torch.Tensor]):
    """Tensors of one part by key, mapped from its safetensors files when they are read.

    Args:
        files: {key in the file: file}.
        prefix: prefix that keys must have; it is removed from them.
    """

    def __init__(self, files: dict[str, Path], prefix: str = "") -> None:
        self._files = {key.removeprefix(prefix): path for key, path in files.items() if key.startswith(prefix)}
        self._prefix = prefix
        self._open: tuple[Path, Any] | None = None
        self._mapped_bytes = 0

    def __getitem__(self, key: str) -> torch.Tensor:
        path = self._files[key]
        try:
            # Pages stay resident until the mapping and all its tensors are gone, so loading needs a new mapping from
            # time to time to release what it has copied.
            if self._open is None or self._open[0] != path or self._mapped_bytes > REMAP_BYTES:
                self._open = (path, safe_open(path, framework="pt", device="cpu"))
                self._mapped_bytes = 0
            tensor: torch.Tensor = self._open[1].get_tensor(self._prefix + key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(describe_damage(path) or f"{path} is not a safetensors file: {error}") from error
        self._mapped_bytes += tensor.nbytes
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class RenamedWeights(Mapping[str, torch.Tensor]):
    """Weights by other keys, read from `weights` one by one when they are used.

    Args:
        sources: {key: (key in `weights`, index, count)}: part `index` of the tensor split into `count` along its rows.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], sources: Mapping[str, tuple[str, int, int]]) -> None:
        self._weights, self._sources = weights, sources

    def __getitem__(self, key: str) -> torch.Tensor:
        source, index, count = self._sources[key]
        tensor = self._weights[source]
        return tensor if count == 1 else tensor.chunk(count)[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def find_weights(folder: Path, dtype: torch.dtype) -> dict[str, Path]:
    """{key: file} of the preferred variant for `dtype`. Raises CheckpointError if the folder has none at all."""
    for variant in VARIANTS[dtype]:
        files = variant_files(folder, variant)
        if files:
            return files
    raise CheckpointError(f"{folder} has no weights: {' or '.join(STEMS)}[.fp16|.bf16].safetensors is missing")


def variant_files(folder: Path, variant: str) -> dict[str, Path]:
    """{key: file} of one variant, in one file or in shards; empty if the folder does not have it."""
    infix = f".{variant}" if variant else ""
    for stem in STEMS:
        index = folder / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            try:
                return {key: folder / name for key, name in json.loads(index.read_text())["weight_map"].items()}
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise CheckpointError(describe_damage(index) or f"{index} is not a weight index: {error}") from error
        single = folder / f"{stem}{infix}.safetensors"
        if single.is_file():
            try:
                with safe_open(single, framework="pt", device="cpu") as file:
                    return dict.fromkeys(file.keys(), single)
            except (SafetensorError, OSError) as error:
                problem = describe_damage(single) or f"{single} is not a safetensors file: {error}"
                raise CheckpointError(problem) from error
    return {}


def stored_dtypes(folder: Path) -> set[torch.dtype]:
    """Dtypes of the variants that a folder has, each by its first tensor."""
    found = [variant_files(folder, variant) for variant in VARIANTS[torch.float32]]
    return {WeightFiles(files)[next(iter(files))].dtype for files in found if files}


def load_weights(
    module: nn.Module, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, device: torch.device, source: Path
) -> None:
    """Sets every parameter of `module` from `weights`, in `dtype` on `device`.

    Every tensor is a private copy, so that writing to the file later cannot change images. Raises CheckpointError
    naming the keys that are missing or unknown, or one whose shape differs.

    Args:
        source: file or folder to name in an error.
    """
    expected = module.state_dict()
    missing, unexpected = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or unexpected:
        parts = [
            f"{kind} {name_some(keys)}" for kind, keys in (("lacks", missing), ("has unknown", unexpected)) if keys
        ]
        raise CheckpointError(f"{source} does not match its config.json: it {' and '.join(parts)}")
    loaded = {}
    for key, parameter in expected.items():
        tensor = weights[key]
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{source} does not match its config.json: shape of {key} must be {list(parameter.shape)}, got "
                f"{list(tensor.shape)}"
            )
        loaded[key] = tensor.to(device=device, dtype=dtype, copy=True)
    module.load_state_dict(loaded, assign=True)
    module.requires_grad_(False).eval()


def name_some(keys: set[str]) -> str:
    """The first three keys, and the number of the others."""
    first = sorted(keys)[:3]
    rest = len(keys) - len(first)
    return ", ".join(first) + (f" and {rest} more" if rest else "")
