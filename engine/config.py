"""Settings of the engine. Defaults live here alone; the command line reads them back."""

from dataclasses import dataclass

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "fp8")
PNG_METADATA = ("sana", "a1111", "none")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class EngineConfig:
    """Settings of the engine, the same for each of its processes but for the device.

    Args:
        model: `demo`, a folder in diffusers layout, a `.pth` or `.safetensors` file, or a hub id.
        device: `auto`, `cpu`, `mps`, `cuda` or `cuda:<index>`; several separated by commas: one engine process each.
        dtype: dtype of the transformer, one of DTYPES; the text encoder and decoder use it where they can.
        quantization: quantization of the transformer's large matrix products, one of QUANTIZATIONS.
        cuda_graphs: capture the denoise step at start-up, which takes a while, and replay it.
        max_batch_tokens: maximum image tokens in one forward of the transformer; one image always fits.
        max_step_seconds: maximum predicted seconds of a step of several images.
        exact: run each image in a forward of its own, so that other requests cannot change a single bit of it.
        max_queue_seconds: predicted seconds of accepted work above which new requests are refused.
        hang_seconds: seconds without a report after which a busy engine process is replaced, in addition to ten times
            the predicted seconds of its longest step.
        start_seconds: seconds within which an engine process must be ready, or it is killed.
        png_metadata: text chunks of PNG files, one of PNG_METADATA: `sana` is one chunk of that name, `a1111` adds
            `parameters` as AUTOMATIC1111's web UI writes it.
        prompt_cache_bytes: maximum size of the prompt cache.
        log_level: minimum log level, one of LOG_LEVELS.
        log_format: format of log lines, one of LOG_FORMATS.
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
    start_seconds: float = 1800.0
    png_metadata: str = "sana"
    prompt_cache_bytes: int = 1 << 30
    log_level: str = "info"
    log_format: str = "text"

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices, one per engine process."""
        return tuple(name.strip() for name in self.device.split(","))
