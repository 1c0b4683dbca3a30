"""Settings in transformer/config.json and vae/config.json that change what the networks compute."""

from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

OTHER_SETTINGS = (
    *("out_channels", "cross_attention_dim", "patch_size", "quantization_config"),  # checked
    *("expand_ratio", "use_pe", "ff_bias", "ff_norm"),  # of a revision of 2024, honoured or checked
    *("dropout", "caption_norm_scale_factor"),  # of training: the factor is the initial value of a stored weight
)
"""Settings of a transformer that are not fields of SanaConfig."""


def check_numbers(file: str, fields: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raises CheckpointError for a setting of `file` that is not a number; None is one where it is the default."""
    for name, value in fields.items():
        if name not in defaults or (value is None and defaults[name] is None):
            continue
        whole = type(defaults[name]) is int
        if not isinstance(value, int | float) or (whole and (value < 1 or value != int(value))):
            kind = "a whole number from 1 up" if whole else "a number"
            raise CheckpointError(f"{file}: {name} must be {kind}, got {value!r}")


@dataclass(frozen=True)
class SanaConfig:
    """Settings in transformer/config.json of a diffusers checkpoint that change what is computed."""

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
    """Whether the checkpoint was trained in fp16 with self-attention output clamped to +-65504. The clamp is kept in
    every dtype. It is not in config.json."""

    @classmethod
    def from_dict(cls, config: dict[str, Any], clamp_attention: bool = False) -> "SanaConfig":
        """Absent keys take the defaults. Raises CheckpointError for a transformer this engine does not support."""
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        if "expand_ratio" in config:
            fields.setdefault("mlp_ratio", config["expand_ratio"])
        if config.get("use_pe") and fields.get("interpolation_scale") is None:
            # As PixArt's transformer, from which the first revision was derived: 1 up to 2K, 2 at 4K.
            fields["interpolation_scale"] = max(fields.get("sample_size", cls.sample_size) // 64, 1)
        elif "use_pe" in config and not config["use_pe"]:
            fields["interpolation_scale"] = None
        defaults = {name: getattr(cls, name) for name in fields if name != "qk_norm"}
        check_numbers("transformer/config.json", fields, defaults)
        known = cls(**(fields | {"clamp_attention": clamp_attention}))
        wanted = {
            "patch_size": (1,),
            "out_channels": (known.in_channels, None),
            "cross_attention_dim": (known.width,),
            "qk_norm": ("rms_norm_across_heads", None),
            "ff_bias": ([True, True, False],),
            "ff_norm": ([None, None, None], None),
            "quantization_config": (None,),
        }
        for name, allowed in wanted.items():
            if config.get(name, allowed[0]) not in allowed:
                raise CheckpointError(
                    f"transformer/config.json: {name} must be {' or '.join(map(repr, allowed))} as in the released "
                    f"models, got {config[name]!r}"
                )
        return known

    @classmethod
    def unknown_keys(cls, config: dict[str, Any]) -> list[str]:
        """Settings that this engine does not know, and diffusers ignores; those that are off are left out."""
        known = {*cls.__dataclass_fields__, *OTHER_SETTINGS}
        return [name for name, value in config.items() if name not in known and name[0] != "_" and value]

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def cross_width(self) -> int:
        return self.num_cross_attention_heads * self.cross_attention_head_dim


@dataclass(frozen=True)
class HalfConfig:
    """One half of the autoencoder, stage by stage."""

    block_types: tuple[str, ...]
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    scales: tuple[tuple[int, ...], ...]
    acts: tuple[str, ...]
    resample: str
    shortcut: bool
    final_act: str


@dataclass(frozen=True)
class DCAEConfig:
    """vae/config.json of a diffusers checkpoint."""

    in_channels: int
    latent_channels: int
    attention_head_dim: int
    scaling_factor: float
    encoder: HalfConfig
    decoder: HalfConfig

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "DCAEConfig":
        """Absent keys take diffusers' defaults. Raises CheckpointError for a decoder this engine does not support."""
        widths = (128, 256, 512, 512, 1024, 1024)
        scales = ((), (), (), (5,), (5,), (5,))

        def per_stage(name: str, default: Any, stages: int) -> tuple[Any, ...]:
            value = config.get(name, default)
            return (value,) * stages if isinstance(value, str) else tuple(value)

        def half(side: str, layers: tuple[int, ...], resample: str, shortcut: str, final_act: str) -> HalfConfig:
            stages = per_stage(f"{side}_block_out_channels", widths, 6)
            return HalfConfig(
                block_types=per_stage(f"{side}_block_types", "ResBlock", len(stages)),
                widths=stages,
                layers=tuple(config.get(f"{side}_layers_per_block", layers)),
                scales=tuple(tuple(s) for s in config.get(f"{side}_qkv_multiscales", scales)),
                acts=per_stage(f"{side}_act_fns", "silu", len(stages)),
                resample=resample,
                shortcut=bool(config.get(shortcut, True)),
                final_act=final_act,
            )

        norms = set(per_stage("decoder_norm_types", "rms_norm", 1))
        if norms != {"rms_norm"}:
            raise CheckpointError(f"vae/config.json: decoder_norm_types must be rms_norm, got {sorted(norms)}")
        down = config.get("downsample_block_type", "pixel_unshuffle")
        up = config.get("upsample_block_type", "pixel_shuffle")
        return cls(
            in_channels=config.get("in_channels", 3),
            latent_channels=config.get("latent_channels", 32),
            attention_head_dim=config.get("attention_head_dim", 32),
            scaling_factor=config.get("scaling_factor", 1.0),
            encoder=half("encoder", (2, 2, 2, 3, 3, 3), down, "encoder_out_shortcut", ""),
            decoder=half(
                "decoder", (3,) * 6, up, "decoder_in_shortcut", str(config.get("decoder_conv_act_fn", "relu"))
            ),
        )

    @property
    def compression(self) -> int:
        """Pixels per latent pixel along one side."""
        return 2 ** (len(self.decoder.widths) - 1)
