"""diffusers' transformer and autoencoder on the weights of a runner, as the baseline of a benchmark."""

from collections.abc import Callable
from dataclasses import asdict

import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from torch import nn
from transformers import Gemma2Config, Gemma2Model

from engine.worker.runner import ModelRunner

from .random_models import Shape

TEXT_TOKENS = 300
"""diffusers pads every prompt to this length, in both branches."""


def make_encode(runner: ModelRunner, batch: int) -> Callable[[], object]:
    """Encodes padded prompts after the whole instruction, and padded empty negative prompts, for every image."""
    encoder, instruction = runner.models.text_encoder, len(runner.prompts.prefix.ids)
    with torch.device("meta"):
        model = Gemma2Model(Gemma2Config(**asdict(encoder.config)))
    model.set_attn_implementation("eager")
    model.load_state_dict(encoder.state_dict(), assign=True)
    with torch.device(runner.device):  # what no state holds
        model.rotary_emb = type(model.rotary_emb)(model.config)
        model.embed_tokens.embed_scale = nn.Buffer(torch.tensor(model.embed_tokens.scalar_embed_scale))
    texts = [
        torch.randint(model.config.vocab_size, (batch, length), device=runner.device)
        for length in (instruction + TEXT_TOKENS - 2, TEXT_TOKENS)
    ]
    masks = [torch.ones_like(text) for text in texts]
    return lambda: [model(text, attention_mask=mask) for text, mask in zip(texts, masks, strict=True)]


def make_step(runner: ModelRunner, shape: Shape, side: int, batch: int, compiled: bool) -> Callable[[], torch.Tensor]:
    """One forward under guidance for `batch` images of side x side latents."""
    device, dtype = runner.device, runner.models.dtype
    with torch.device("meta"):
        model = SanaTransformer2DModel(**shape.transformer).eval()
    weights = runner.models.transformer.state_dict()
    model.load_state_dict(
        {name: weights[name] for name in model.state_dict()}, assign=True
    )  # ours may hold packed ones too
    if compiled:
        model.compile()
    latents = torch.randn(2 * batch, model.config.in_channels, side, side, device=device, dtype=dtype)
    text = torch.randn(2 * batch, TEXT_TOKENS, model.config.caption_channels, device=device, dtype=dtype)
    times = torch.full((2 * batch,), 500.0, device=device)
    mask = torch.ones(2 * batch, TEXT_TOKENS, device=device, dtype=torch.int64)
    return lambda: model(latents, text, times, encoder_attention_mask=mask, return_dict=False)[0]


def make_decode(runner: ModelRunner, shape: Shape, side: int, compiled: bool) -> Callable[[], torch.Tensor]:
    """Decodes one image of side x side latents."""
    with torch.device("meta"):
        decoder = AutoencoderDC(**shape.vae).eval().decoder
    decoder.load_state_dict(runner.models.decoder.state_dict(), assign=True)
    if compiled:
        decoder.compile()
    weight = next(decoder.parameters())
    latents = torch.randn(1, runner.config.in_channels, side, side, device=weight.device, dtype=weight.dtype)
    return lambda: decoder(latents)
