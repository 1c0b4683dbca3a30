"""Models of the real shapes with random weights, made on the device; both engines run the same weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GemmaTokenizer

from engine.checkpoints.checkpoint import Checkpoint, SolverConfig
from engine.checkpoints.loader import Models
from engine.checkpoints.quantize import quantize_transformer
from engine.models.configs import DCAEConfig, SanaConfig
from engine.models.dc_ae import DCAEDecoder
from engine.models.gemma2 import Gemma2, Gemma2Config
from engine.models.sana import SanaTransformer
from engine.worker.prompts import COMPLEX_HUMAN_INSTRUCTION
from engine.worker.runner import ModelRunner
from tests.text_models import gemma_tokenizer

from .released_shapes import DC_AE_1_1, PROMPT, SIZES

TINY_DC_AE = dict(
    attention_head_dim=16,
    encoder_block_out_channels=(16, 16, 32, 32, 64, 64),
    decoder_block_out_channels=(16, 16, 32, 32, 64, 64),
    encoder_layers_per_block=(1,) * 6,
    decoder_layers_per_block=(1,) * 6,
)
TINY = dict(
    num_attention_heads=4,
    attention_head_dim=16,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=32,
    cross_attention_dim=64,
    caption_channels=48,
)
TINY_GEMMA: dict[str, Any] = dict(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=24
)
SPRINT = dict(guidance_embeds=True, qk_norm="rms_norm_across_heads")


@dataclass(frozen=True)
class Shape:
    """Configurations of a random model."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    gemma: Gemma2Config
    sprint: bool


def shape_of(name: str) -> Shape:
    """The shape called 0.6B, 1.6B, sprint-1.6B or tiny."""
    tokens = len(tokenizer())
    if name == "tiny":
        return Shape(TINY, DC_AE_1_1 | TINY_DC_AE, Gemma2Config(vocab_size=tokens, **TINY_GEMMA), sprint=False)
    size = SIZES[name.removeprefix("sprint-")]
    sprint = name.startswith("sprint-")
    return Shape(size | (SPRINT if sprint else {}), DC_AE_1_1, Gemma2Config(vocab_size=256_000), sprint)


def tokenizer() -> GemmaTokenizer:
    """Tokenizer trained on the instruction: about as many tokens as Gemma's own makes of it."""
    return gemma_tokenizer([COMPLEX_HUMAN_INSTRUCTION, PROMPT], vocab_size=2000)


@torch.no_grad()
def randomize(module: nn.Module, seed: int) -> None:
    """Variance-preserving matrices and vectors near 1: activations neither vanish nor overflow."""
    torch.manual_seed(seed)
    for weight in module.parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5)
        else:
            weight.normal_(1, 0.1)
    module.requires_grad_(False).eval()


def make_runner(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str,
    compute: torch.dtype | None = None,
) -> ModelRunner:
    """Our engine with random weights of type `dtype`, computing in `compute` (default: `dtype`)."""
    transformer_config = SanaConfig.from_dict(shape.transformer)
    decoder_config = DCAEConfig.from_dict(shape.vae)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            transformer = SanaTransformer(transformer_config)
            decoder = DCAEDecoder(decoder_config)
            encoder = Gemma2(shape.gemma)
    finally:
        torch.set_default_dtype(default)
    for seed, module in enumerate((transformer, decoder, encoder)):
        randomize(module, seed)
        module.to(compute or dtype)
    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decoder.freeze()
    if device.type == "cuda":
        transformer.pack()
    if quantization == "fp8":
        quantize_transformer(transformer)
    solver = SolverConfig(scm=shape.sprint)
    checkpoint = Checkpoint("random", {}, transformer_config, decoder_config, solver, dtype)
    models = Models(transformer, decoder, encoder, tokenizer().backend_tokenizer, device, compute or dtype)
    return ModelRunner(models, checkpoint, prompt_cache_bytes=0)  # no cache: encode is measured
