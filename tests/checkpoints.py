"""Random-weight checkpoints of every released family, written by diffusers itself: tiny, but faithful in structure.

Weights are scaled so that activations neither vanish nor saturate: an image uses most of 0 to 255 and depends on
prompt, time and guidance.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)

from .text_models import gemma_encoder, gemma_tokenizer

TRANSFORMER: dict[str, Any] = dict(
    num_attention_heads=4,
    attention_head_dim=16,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=32,
    cross_attention_dim=64,
    caption_channels=48,
    sample_size=4,
)
SHALLOW_RES_DEEP_VIT = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DC_AE: dict[str, Any] = dict(
    attention_head_dim=16,
    encoder_block_types=SHALLOW_RES_DEEP_VIT,
    decoder_block_types=SHALLOW_RES_DEEP_VIT,
    encoder_block_out_channels=(16, 16, 32, 32, 64, 64),
    decoder_block_out_channels=(16, 16, 32, 32, 64, 64),
    encoder_layers_per_block=(1, 1, 1, 1, 1, 1),
    decoder_layers_per_block=(2, 1, 1, 2, 1, 1),
    downsample_block_type="conv",
    upsample_block_type="interpolate",
    scaling_factor=0.41407,
)
# Pixel shuffle throughout, an outermost stage without blocks, acts per stage: options the released families mix.
SHUFFLED: dict[str, Any] = DC_AE | dict(
    encoder_layers_per_block=(0, 1, 1, 1, 1, 1),
    decoder_layers_per_block=(0, 2, 1, 1, 1, 1),
    downsample_block_type="pixel_unshuffle",
    upsample_block_type="pixel_shuffle",
    decoder_act_fns=("relu", "relu", "silu", "silu", "silu", "silu"),
    decoder_qkv_multiscales=((), (), (), (), (5,), (3, 5)),
    encoder_out_shortcut=False,
    decoder_in_shortcut=False,
)
LITE: dict[str, Any] = DC_AE | dict(
    decoder_block_types="ResBlock",
    decoder_layers_per_block=(0, 1, 2, 1, 1, 1),
    upsample_block_type="pixel_shuffle",
    decoder_conv_act_fn="silu",
)


@dataclass(frozen=True)
class Family:
    """A released model family. `flow_shift` is None for Sprint; `trained_dtype` names the variant files."""

    name: str
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=lambda: DC_AE)
    flow_shift: float | None = 3.0
    trained_dtype: torch.dtype = torch.bfloat16

    @property
    def sprint(self) -> bool:
        return self.flow_shift is None

    @property
    def variant(self) -> str:
        return "fp16" if self.trained_dtype == torch.float16 else "bf16"


FAMILIES = {
    family.name: family
    for family in [
        Family("sana-1.0", vae=SHUFFLED),
        Family("sana-1.0-fp16", trained_dtype=torch.float16),
        Family("sana-2k", dict(interpolation_scale=1.0, sample_size=64)),
        Family("sana-4k", dict(interpolation_scale=2.0, sample_size=128), flow_shift=6.0),
        Family("sana-1.5", dict(qk_norm="rms_norm_across_heads"), vae=LITE),
        Family("sana-sprint", dict(qk_norm="rms_norm_across_heads", guidance_embeds=True), flow_shift=None),
    ]
}


def build_pipeline(family: Family, seed: int = 0) -> SanaPipeline | SanaSprintPipeline:
    """The family's pipeline with random weights, in fp32 values that its `trained_dtype` holds exactly."""
    tokenizer = gemma_tokenizer()
    parts: dict[str, Any] = dict(
        tokenizer=tokenizer,
        text_encoder=gemma_encoder(len(tokenizer), seed),
        vae=random_autoencoder(family.vae, seed),
        transformer=random_transformer(family.transformer, seed),
    )
    for part in ("text_encoder", "vae", "transformer"):
        parts[part] = parts[part].to(family.trained_dtype).float()
    if family.sprint:
        return SanaSprintPipeline(scheduler=SCMScheduler(), **parts)
    return SanaPipeline(scheduler=flow_scheduler(family.flow_shift), **parts)


def flow_scheduler(flow_shift: float | None) -> DPMSolverMultistepScheduler:
    """The scheduler in the released scheduler_config.json."""
    return DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        flow_shift=flow_shift,
        prediction_type="flow_prediction",
        solver_order=2,
        use_flow_sigmas=True,
    )


def random_transformer(config: dict[str, Any], seed: int) -> SanaTransformer2DModel:
    model = SanaTransformer2DModel(**(TRANSFORMER | config)).eval()
    randomize(model, seed)
    return model


@torch.no_grad()
def random_autoencoder(config: dict[str, Any], seed: int) -> AutoencoderDC:
    """The last convolution is scaled so that pixels of random latents have mean 0 and deviation 0.45."""
    model = AutoencoderDC(**config).eval()
    randomize(model, seed)
    generator = torch.Generator().manual_seed(seed)
    pixels = model.decode(torch.randn(1, 32, 4, 4, generator=generator) / model.config.scaling_factor).sample
    conv = model.decoder.conv_out.conv if hasattr(model.decoder.conv_out, "conv") else model.decoder.conv_out
    conv.weight.mul_(0.45 / pixels.std())
    conv.bias.zero_()
    return model


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Variance-preserving matrices, norm weights around 1, biases and modulation tables large enough to show errors."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "scale_shift_table" not in name:
            fan_in = weight[0].numel()
            weight.normal_(0.0, fan_in**-0.5, generator=generator)
        elif name.endswith("norm.weight") or ("norm_" in name and name.endswith("weight")):
            weight.uniform_(0.6, 1.4, generator=generator)
        else:
            weight.normal_(0.0, 0.3, generator=generator)


def write_checkpoint(
    pipeline: SanaPipeline | SanaSprintPipeline,
    folder: Path,
    variant: str | None = None,
    max_shard_size: str = "10GB",
) -> Path:
    """`save_pretrained` of the whole pipeline, sharded where `max_shard_size` is small. Returns the folder."""
    pipeline.save_pretrained(folder, safe_serialization=True, variant=variant, max_shard_size=max_shard_size)
    return folder


def write_family(name: str, folder: Path, seed: int = 0) -> Path:
    """A family as it is released: full fp32 files, and the transformer again in its training dtype as a variant."""
    family = FAMILIES[name]
    pipeline = build_pipeline(family, seed)
    write_checkpoint(pipeline, folder)
    pipeline.transformer.to(family.trained_dtype).save_pretrained(folder / "transformer", variant=family.variant)
    return folder
