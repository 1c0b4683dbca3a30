"""What the engine is started with. Defaults live here alone; the command line reads them back."""

from dataclasses import dataclass

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "fp8")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class EngineConfig:
    """Settings of the engine, the same for each of its processes but for the device.

    Args:
        model: `demo`, a folder in diffusers layout, an NVlabs `.pth`, or a hub id.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`; with commas between several, an engine process for each.
        dtype: of the transformer, one of DTYPES; the text encoder and decoder follow it where they can.
        quantization: of the transformer's large matrix products, one of QUANTIZATIONS.
        cuda_graphs: capture the denoise step at start-up, which takes a while, and replay it.
        max_batch_tokens: image tokens in one forward of the transformer; one image always fits.
        max_step_seconds: how long a step of several images may take by the cost model.
        exact: one request per forward: its image is the same to the last bit, whoever else is served.
        max_queue_seconds: predicted seconds of accepted work beyond which new requests are refused.
        hang_seconds: silence of a working engine process after which it is replaced, beside ten times what its
            longest step should take.
        prompt_cache_bytes: bound of the prompt cache.
        log_level: least grave line to show, one of LOG_LEVELS.
        log_format: one of LOG_FORMATS.
    """

    model: str = "demo"
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    cuda_graphs: bool = True
    max_batch_tokens: int = 16384
    max_step_seconds: float = 0.2
    exact: bool = False
    max_queue_seconds: float = 60.0
    hang_seconds: float = 30.0
    prompt_cache_bytes: int = 1 << 30
    log_level: str = "info"
    log_format: str = "text"

    @property
    def devices(self) -> tuple[str, ...]:
        """One per engine process."""
        return tuple(name.strip() for name in self.device.split(","))
