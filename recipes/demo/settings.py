"""Architecture of the demo checkpoint as the contents of diffusers' config files, exported unchanged."""

from typing import Any

LATENT_CHANNELS = 32
COMPRESSION = 32
NATIVE_SIZE = 256
GRID = NATIVE_SIZE // COMPRESSION
TEXT_WIDTH = 160
VOCABULARY = 1536
FLOW_SHIFT = 3.0

_STAGES = ("ResBlock",) * 5 + ("EfficientViTBlock",)
_SCALES: tuple[tuple[int, ...], ...] = ((),) * 5 + ((5,),)
_WIDTHS = (16, 16, 32, 64, 128, 128)

VAE: dict[str, Any] = {
    "_class_name": "AutoencoderDC",
    "in_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "attention_head_dim": 32,
    "encoder_block_types": _STAGES,
    "decoder_block_types": _STAGES,
    "encoder_block_out_channels": _WIDTHS,
    "decoder_block_out_channels": _WIDTHS,
    "encoder_layers_per_block": (0, 1, 1, 1, 1, 1),
    "decoder_layers_per_block": (0, 1, 1, 1, 2, 2),
    "encoder_qkv_multiscales": _SCALES,
    "decoder_qkv_multiscales": _SCALES,
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "Conv",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "encoder_out_shortcut": False,  # folded into the convolutions around the latents: see standardize.py
    "decoder_in_shortcut": False,
    "scaling_factor": 1.0,  # the encoder itself standardizes
}

TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 480,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}

TRANSFORMER: dict[str, Any] = {
    "_class_name": "SanaTransformer2DModel",
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "num_layers": 7,
    "num_cross_attention_heads": 6,
    "cross_attention_head_dim": 32,
    "cross_attention_dim": 192,
    "caption_channels": TEXT_WIDTH,
    "mlp_ratio": 2.5,
    "attention_bias": False,
    "sample_size": GRID,
    "patch_size": 1,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    # Position embedding, as in the 2K and 4K checkpoints. Without one the network learns positions from the padding
    # of its 3x3 convolutions alone, one token per layer from the border: too slow for a CPU's training budget.
    "interpolation_scale": 1.0,
    "qk_norm": "rms_norm_across_heads",
}

SCHEDULER: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": FLOW_SHIFT,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
