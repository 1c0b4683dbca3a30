"""What of a transformer's config.json decides its arithmetic."""

from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError


@dataclass(frozen=True)
class SanaConfig:
    """transformer/config.json of a diffusers checkpoint, as far as it decides the arithmetic."""

    in_channels: int = 32
    num_attention_heads: int = 70
    attention_head_dim: int = 32
    num_layers: int = 20
    num_cross_attention_heads: int = 20
    cross_attention_head_dim: int = 112
    caption_channels: int = 2304
    mlp_ratio: float = 2.5
    attention_bias: bool = False
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-6
    sample_size: int = 32
    interpolation_scale: float | None = None
    guidance_embeds: bool = False
    guidance_embeds_scale: float = 0.1
    qk_norm: str | None = None
    timestep_scale: float = 1.0
    clamp_attention: bool = False
    """Trained in fp16 with self-attention output clamped to +-65504; kept in every dtype. Not in config.json."""

    @classmethod
    def from_dict(cls, config: dict[str, Any], clamp_attention: bool = False) -> "SanaConfig":
        """Raises CheckpointError for a transformer this engine would compute wrongly."""
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        known = cls(**(fields | {"clamp_attention": clamp_attention}))
        wanted = {
            "patch_size": (1,),
            "out_channels": (known.in_channels, None),
            "cross_attention_dim": (known.width,),
            "qk_norm": ("rms_norm_across_heads", None),
        }
        for name, allowed in wanted.items():
            if config.get(name, allowed[0]) not in allowed:
                raise CheckpointError(
                    f"transformer/config.json: {name} = {config[name]!r} is not a released SANA; this server reads "
                    f"{' or '.join(map(repr, allowed))}"
                )
        return known

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def cross_width(self) -> int:
        return self.num_cross_attention_heads * self.cross_attention_head_dim
