"""What the engine is started with. Defaults live here alone; the command line reads them back."""

from dataclasses import dataclass

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "fp8")


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one engine process.

    Args:
        model: `demo`, a folder in diffusers layout, an NVlabs `.pth`, or a hub id.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        dtype: of the transformer, one of DTYPES; the text encoder and decoder follow it where they can.
        quantization: of the transformer's large matrix products, one of QUANTIZATIONS.
        max_batch_tokens: image tokens in one forward of the transformer; one image always fits.
        max_queue: images waiting before new requests are refused.
        prompt_cache_bytes: bound of the prompt cache.
        log_level: of the engine process: debug, info, warning, error or critical.
    """

    model: str = "demo"
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    max_batch_tokens: int = 16384
    max_queue: int = 256
    prompt_cache_bytes: int = 1 << 30
    log_level: str = "info"
