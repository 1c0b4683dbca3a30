"""Export of the trained networks as a bf16 checkpoint in diffusers layout, which the server loads like any other."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .autoencoder import Autoencoder
from .diffusion import Generator
from .settings import SCHEDULER, TEXT_ENCODER, TRANSFORMER, VAE
from .text import TextEncoder, carried_embeddings

MODEL_INDEX = {
    "_class_name": "SanaPipeline",
    "_diffusers_version": "0.42.0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "GemmaTokenizerFast"],
    "transformer": ["diffusers", "SanaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}
TOKENIZER = {
    "tokenizer_class": "GemmaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "padding_side": "right",
    "model_max_length": 8192,
}


def export(autoencoder: Autoencoder, generator: Generator, folder: Path) -> None:
    """Writes every file of the checkpoint."""
    write_json(folder / "model_index.json", MODEL_INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "vae" / "config.json", VAE)
    write_json(folder / "transformer" / "config.json", TRANSFORMER)
    encoder_config = {"architectures": ["Gemma2Model"], "model_type": "gemma2", "dtype": "bfloat16"}
    write_json(folder / "text_encoder" / "config.json", encoder_config | TEXT_ENCODER)
    write_json(folder / "tokenizer" / "tokenizer_config.json", TOKENIZER)
    generator.text_encoder.tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    write_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", autoencoder)
    write_weights(folder / "transformer" / "diffusion_pytorch_model.safetensors", generator.transformer)
    write_weights(folder / "text_encoder" / "model.safetensors", generator.text_encoder.model)


def restore_autoencoder(autoencoder: Autoencoder, folder: Path) -> None:
    """Loads the weights of an exported checkpoint, to continue training."""
    autoencoder.load_state_dict(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"))


def restore_transformer(generator: Generator, folder: Path) -> None:
    generator.transformer.load_state_dict(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))


def restore_text_encoder(encoder: TextEncoder, folder: Path) -> None:
    """Loads the weights of an exported checkpoint, whose tokenizer may know fewer words."""
    state = load_file(folder / "text_encoder" / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    carried = carried_embeddings(tokenizer, state["embed_tokens.weight"], encoder.tokenizer)
    unused = TEXT_ENCODER["vocab_size"] - len(carried)
    state["embed_tokens.weight"] = torch.nn.functional.pad(carried, (0, 0, 0, unused))
    encoder.model.load_state_dict(state)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_weights(path: Path, module: torch.nn.Module) -> None:
    tensors = {name: tensor.detach().bfloat16().contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library makes it readable by its owner only
