"""Checkpoints of any size with random weights, streamed to disk: a few seconds per gigabyte and little memory."""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from engine.models.configs import DCAEConfig, SanaConfig
from engine.models.dc_ae import DCAEDecoder, DCAEEncoder
from engine.models.gemma2 import Gemma2, Gemma2Config
from engine.models.sana import SanaTransformer

BLOCK_ELEMENTS = 2**22
"""Size of the block of random numbers that every tensor repeats."""
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "final_sigmas_type": "zero",
    "flow_shift": 3.0,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "solver_type": "midpoint",
    "use_flow_sigmas": True,
}
PARTS = {
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "GemmaTokenizer"],
    "transformer": ["diffusers", "SanaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}


def write_random_checkpoint(
    folder: Path,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    text_encoder: Gemma2Config,
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Writes a bf16 checkpoint in diffusers layout that both engines load.

    Returns:
        Bytes of the weights that text-to-image needs: all except the autoencoder's encoder.
    """
    vae_config = DCAEConfig.from_dict(dict(vae))
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "transformer": SanaTransformer(SanaConfig.from_dict(dict(transformer))),
            "text_encoder": Gemma2(text_encoder),
            "vae": nn.ModuleDict({"encoder": DCAEEncoder(vae_config), "decoder": DCAEDecoder(vae_config)}),
        }
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_json(folder / "model_index.json", {"_class_name": "SanaPipeline", **PARTS})
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "transformer" / "config.json", {"_class_name": PARTS["transformer"][1], **transformer})
    write_json(folder / "vae" / "config.json", {"_class_name": PARTS["vae"][1], **vae})
    names = {"architectures": ["Gemma2Model"], "model_type": "gemma2", "dtype": "bfloat16"}
    write_json(folder / "text_encoder" / "config.json", names | asdict(text_encoder))
    tokenizer.save_pretrained(folder / "tokenizer")
    needed = 0
    for part, network in networks.items():
        state = network.state_dict()
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        write_random_safetensors(folder / part / f"{name}.safetensors", {key: t.shape for key, t in state.items()})
        needed += sum(2 * tensor.numel() for key, tensor in state.items() if not key.startswith("encoder."))
    return needed


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))


def write_random_safetensors(path: Path, shapes: Mapping[str, torch.Size]) -> None:
    """Writes bf16 tensors in the safetensors format: length of the header, header, data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * shape.numel()
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    block = torch.randn(BLOCK_ELEMENTS, generator=torch.Generator().manual_seed(0))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for shape in shapes.values():
            for chunk in random_bytes(block, shape):
                file.write(chunk)


def random_bytes(block: torch.Tensor, shape: torch.Size) -> Iterator[memoryview]:
    """Yields the bytes of one bf16 tensor. Matrices preserve variance and vectors are near 1: nothing overflows."""
    values = block[: shape.numel()]
    values = 1 + 0.1 * values if len(shape) == 1 else values * shape[1:].numel() ** -0.5
    data = values.bfloat16().view(torch.uint8).numpy().data
    for start in range(0, 2 * shape.numel(), len(data)):
        yield data[: 2 * shape.numel() - start]
