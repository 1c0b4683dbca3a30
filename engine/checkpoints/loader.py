"""Puts a checkpoint on a device: which dtype each part runs in, and the networks filled from its files."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, Gemma2Config, Gemma2Model, PreTrainedTokenizerBase

from ..errors import CheckpointError, DeviceError
from ..models.dc_ae import DCAEDecoder
from ..models.sana import SanaTransformer
from .diffusers import Checkpoint, read_json
from .quantize import check_quantization, quantize_transformer
from .weights import WeightFiles, find_weights, load_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Models:
    """Everything that stays resident on the device."""

    transformer: SanaTransformer
    decoder: DCAEDecoder
    text_encoder: Gemma2Model
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:<index>` to a device that exists. Raises DeviceError."""
    count = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or not (index.isdecimal() or name == "cuda"):
        raise DeviceError(f"there is no device {name!r}: give auto, cpu, cuda or cuda:<index>")
    if int(index or 0) >= count:
        raise DeviceError(f"there is no {name} here: torch {torch.__version__} sees {count} CUDA devices")
    return torch.device("cuda", int(index or 0))


def require_compiler(device: torch.device) -> None:
    """Raises DeviceError where Triton would fail at the first kernel: it builds their launchers on the spot."""
    if device.type == "cuda" and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise DeviceError(
            f"no C compiler is installed, with which Triton builds its kernels for {device}: "
            "on Debian and Ubuntu, apt install gcc libc6-dev; or name one in the environment variable CC"
        )


def choose_dtype(name: str, device: torch.device, trained: torch.dtype | None) -> torch.dtype:
    """The transformer's dtype. `auto`: float32 on the CPU, on a GPU what the checkpoint was trained in."""
    dtype = DTYPES.get(name)
    if dtype is None and name != "auto":
        raise DeviceError(f"there is no dtype {name!r}: give auto, {', '.join(DTYPES)}")
    if dtype is None:
        return torch.float32 if device.type == "cpu" else trained or torch.bfloat16
    if dtype == torch.float16 and trained == torch.bfloat16:
        raise CheckpointError(
            "this checkpoint was trained in bfloat16 and overflows in float16: give --dtype bfloat16 or float32"
        )
    return dtype


@torch.inference_mode()
def load_models(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, quantization: str = "none") -> Models:
    """Loads every part. Raises CheckpointError naming the file and key at fault, DeviceError for the quantization."""
    check_quantization(quantization, device)
    # Gemma overflows in float16 and the decoder can go black; both are right in bfloat16.
    side_dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16
    source = checkpoint.parts["transformer"]
    with torch.device("meta"):
        transformer = SanaTransformer(checkpoint.transformer)
        decoder = DCAEDecoder(checkpoint.decoder)
    load_weights(transformer, checkpoint.transformer_weights(dtype), dtype, device, source)
    if device.type == "cuda":
        transformer.pack()
    if quantization == "fp8":
        quantize_transformer(transformer)
    vae = checkpoint.parts["vae"]
    # The autoencoder's other half is for training; its keys are left where they are.
    load_weights(decoder, WeightFiles(find_weights(vae, side_dtype), "decoder."), side_dtype, device, vae)
    if device.type == "cuda":
        # Like the activations: else cuDNN converts the weights at every call.
        decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decoder.freeze()
    return Models(
        transformer=transformer,
        decoder=decoder,
        text_encoder=load_text_encoder(checkpoint.parts["text_encoder"], side_dtype, device),
        tokenizer=load_tokenizer(checkpoint.parts["tokenizer"]),
        device=device,
        dtype=dtype,
    )


def load_text_encoder(folder: Path, dtype: torch.dtype, device: torch.device) -> Gemma2Model:
    """Gemma-2 without its language-model head. Eager attention: the soft-cap of 50 is not in torch's fused one."""
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "gemma2":
        raise CheckpointError(f"{folder}/config.json: model_type {settings.get('model_type')!r} is not gemma2")
    config = Gemma2Config.from_dict(settings, attn_implementation="eager")
    with torch.device("meta"):
        model = Gemma2Model(config)
    for module in model.modules():
        buffers = {name: torch.empty_like(b, device=device) for name, b in module.named_buffers(recurse=False)}
        if buffers:  # computed, not stored: rotary frequencies and the embedding scale
            for name, buffer in buffers.items():
                setattr(module, name, buffer)
            model._init_weights(module)  # type: ignore[no-untyped-call]
    files = find_weights(folder, dtype)
    prefix = "model." if any(key.startswith("model.") for key in files) else ""  # saved with its head or without
    load_weights(model, WeightFiles(files, prefix), dtype, device, folder)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a broken file
        raise CheckpointError(f"{folder} holds no usable tokenizer: {str(error).splitlines()[0]}") from error
