"""Shapes of the released models, as their config.json files have them, and the prompt of the benchmarks."""

from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "0.6B": {
        "num_attention_heads": 36,
        "num_layers": 28,
        "num_cross_attention_heads": 16,
        "cross_attention_head_dim": 72,
        "cross_attention_dim": 1152,
        "sample_size": 16,
    },
    "1.6B": {"sample_size": 16},
}
VIT_STAGES = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
DC_AE_1_1: dict[str, Any] = {
    "encoder_block_types": VIT_STAGES,
    "decoder_block_types": VIT_STAGES,
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
}
PROMPT = "a red circle left of a blue square and a small green triangle under it, soft light, detailed photograph"
