"""Opens a checkpoint of any layout and loads its networks to a device, each part in the dtype it can run in."""

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ..errors import DeviceError
from ..models.dc_ae import DCAEDecoder, DCAEEncoder
from ..models.gemma2 import Gemma2, Gemma2Config
from ..models.reorder import reorder_autoencoder, reorder_for_cpu, reorders_autoencoder
from ..models.sana import SanaTransformer
from .checkpoint import Checkpoint, read_json
from .diffusers import open_folder
from .locate import locate_model
from .quantize import check_quantization, quantize_transformer
from .single_file import open_single_file, read_single_file
from .tokenizer import load_tokenizer
from .weights import VARIANTS, WeightFiles, find_weights, load_weights

MIN_CAPABILITY = (8, 0)
"""Oldest CUDA devices that the kernels are compiled for: older ones have no bfloat16."""


@dataclass(frozen=True)
class Models:
    """The networks, resident on the device, and the tokenizer.

    Args:
        dtype: dtype of the transformer.
    """

    transformer: SanaTransformer
    decoder: DCAEDecoder
    text_encoder: Gemma2
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype


def open_checkpoint(model: str, dtype: torch.dtype | None) -> Checkpoint:
    """Finds a model, or downloads it, and reads its configurations. Raises CheckpointError.

    Args:
        model: `demo`, a folder in diffusers layout, a single file, or a hub id.
        dtype: dtype the transformer will run in, or None to let the checkpoint choose among its weight files.
    """
    variants = VARIANTS[dtype] if dtype else ("bf16", "fp16", "")
    path, name = locate_model(model, variants)
    return open_folder(path, name) if path.is_dir() else open_single_file(path, name, variants)


def choose_device(name: str) -> torch.device:
    """The device named `auto`, `cpu`, `mps`, `cuda` or `cuda:<index>`.

    Raises DeviceError if it does not exist or is too old.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError(f"device mps does not exist: torch {torch.__version__} finds no Apple GPU; use cpu")
        return torch.device("mps")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        raise DeviceError(f"device must be auto, cpu, mps, cuda or cuda:<index>, got {name!r}")
    if int(index or 0) >= count:
        raise DeviceError(
            f"device {name} does not exist: torch {torch.__version__} finds {count} CUDA devices; use cpu"
        )
    device = torch.device("cuda", int(index or 0))
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        has, needs = ("{}.{}".format(*version) for version in (capability, MIN_CAPABILITY))
        raise DeviceError(
            f"{device} ({torch.cuda.get_device_name(device)}) has compute capability {has}, but {needs} or above "
            "(Ampere or newer) is needed; choose another GPU or the CPU: --devices cpu"
        )
    return device


def require_compiler(device: torch.device) -> None:
    """Raises DeviceError without Triton or a C compiler: Triton builds a launcher for each kernel at run time."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise DeviceError(f"Triton is not installed, and {device} needs it: pip install triton, or use --devices cpu")
    if device.type == "cuda" and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise DeviceError(
            f"no C compiler found; Triton needs one to build kernels for {device}: on Debian and Ubuntu run "
            "apt install gcc libc6-dev, or set the environment variable CC to another compiler"
        )


@torch.inference_mode()
def load_models(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, quantization: str = "none") -> Models:
    """Loads every part to `device`.

    Raises CheckpointError naming the file and the key at fault, or DeviceError if the device cannot run the
    quantization.
    """
    check_quantization(quantization, device)
    side_dtype = side_dtype_of(dtype)
    source = checkpoint.parts["transformer"]
    with torch.device("meta"):
        transformer = SanaTransformer(checkpoint.transformer)
        decoder = DCAEDecoder(checkpoint.decoder)
    load_weights(transformer, transformer_weights(source, dtype), dtype, device, source)
    if device.type != "mps":
        transformer.pack()
    if quantization == "fp8":
        quantize_transformer(transformer)
    vae = checkpoint.parts["vae"]
    # The keys of the autoencoder's encoder are read by `load_encoder`, when the first image is to be repainted.
    load_weights(decoder, WeightFiles(find_weights(vae, side_dtype), "decoder."), side_dtype, device, vae)
    if device.type == "cuda":
        # The layout of the activations; with any other, cuDNN would convert the weights in every call.
        decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decoder.freeze()
    if device.type == "cpu":
        reorder_for_cpu(transformer, decoder)
    return Models(
        transformer=transformer,
        decoder=decoder,
        text_encoder=load_text_encoder(checkpoint.parts["text_encoder"], side_dtype, device),
        tokenizer=load_tokenizer(checkpoint.parts["tokenizer"]),
        device=device,
        dtype=dtype,
    )


def side_dtype_of(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the text encoder and the autoencoder beside a transformer in `dtype`.

    In float16 Gemma overflows and the decoder can return black images; bfloat16 is right for both.
    """
    return torch.float32 if dtype == torch.float32 else torch.bfloat16


def encoder_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> WeightFiles:
    """Tensors of the autoencoder's encoder; empty if the checkpoint has none."""
    return WeightFiles(find_weights(checkpoint.parts["vae"], side_dtype_of(dtype)), "encoder.")


def encoder_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Bytes that the autoencoder's encoder takes once it is loaded; 0 if the checkpoint has none.

    Args:
        dtype: dtype of the transformer.
    """
    if not encoder_weights(checkpoint, dtype):
        return 0
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in DCAEEncoder(checkpoint.decoder).parameters())
    return parameters * side_dtype_of(dtype).itemsize


@torch.inference_mode()
def load_encoder(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> DCAEEncoder:
    """Loads the autoencoder's encoder to `device`. Raises CheckpointError.

    Args:
        dtype: dtype of the transformer.
    """
    with torch.device("meta"):
        encoder = DCAEEncoder(checkpoint.decoder)
    side_dtype = side_dtype_of(dtype)
    load_weights(encoder, encoder_weights(checkpoint, dtype), side_dtype, device, checkpoint.parts["vae"])
    if device.type == "cuda":
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the decoder
    if device.type == "cpu" and reorders_autoencoder(side_dtype):
        reorder_autoencoder(encoder)
    return encoder


def transformer_weights(source: Path, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    """Tensors of a transformer by diffusers key, from its folder or from a single file."""
    if source.is_file():
        return read_single_file(source).weights
    return WeightFiles(find_weights(source, dtype))


def load_text_encoder(folder: Path, dtype: torch.dtype, device: torch.device) -> Gemma2:
    """Gemma-2, saved with or without its language-model head."""
    with torch.device("meta"):
        model = Gemma2(Gemma2Config.from_dict(read_json(folder / "config.json")))
    files = find_weights(folder, dtype)
    prefix = "model." if any(key.startswith("model.") for key in files) else ""  # as saved with the head
    load_weights(model, WeightFiles(files, prefix), dtype, device, folder)
    return model
