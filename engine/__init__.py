"""Public interface of the engine. Free of torch, which only the engine processes import."""

from .client import EngineClient
from .config import DTYPES, LOG_FORMATS, LOG_LEVELS, PNG_METADATA, QUANTIZATIONS, EngineConfig
from .costs import is_guided, latent_pixels
from .errors import (
    CheckpointError,
    DeadlineExceeded,
    DeviceError,
    EngineUnavailable,
    GenerationFailed,
    InvalidParams,
    QueueFull,
    RequestCancelled,
    SanaError,
)
from .host import STOP_SIGNALS
from .interface import Engine
from .logs import configure_logs
from .params import (
    LIMITS,
    MAX_IMAGES,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    MAX_STEPS,
    MAX_TIMEOUT_SECONDS,
    MIN_SIDE,
    check_limits,
    check_params,
    check_size,
)
from .stats import EngineStats, Forwards, StepReport
from .types import (
    STAGES,
    Event,
    Failed,
    Finished,
    GenerationParams,
    ImageFormat,
    ModelInfo,
    Preview,
    Priority,
    Progress,
    SourceImage,
    Started,
    Timings,
)
from .version import VERSION

__all__ = [
    "DTYPES",
    "LIMITS",
    "LOG_FORMATS",
    "LOG_LEVELS",
    "MAX_IMAGES",
    "MAX_PROMPT_CHARS",
    "MAX_SEED",
    "MAX_STEPS",
    "MAX_TIMEOUT_SECONDS",
    "MIN_SIDE",
    "PNG_METADATA",
    "QUANTIZATIONS",
    "STAGES",
    "STOP_SIGNALS",
    "VERSION",
    "CheckpointError",
    "DeadlineExceeded",
    "DeviceError",
    "Engine",
    "EngineClient",
    "EngineConfig",
    "EngineStats",
    "EngineUnavailable",
    "Event",
    "Failed",
    "Finished",
    "Forwards",
    "GenerationFailed",
    "GenerationParams",
    "ImageFormat",
    "InvalidParams",
    "ModelInfo",
    "Preview",
    "Priority",
    "Progress",
    "QueueFull",
    "RequestCancelled",
    "SanaError",
    "SourceImage",
    "Started",
    "StepReport",
    "Timings",
    "check_limits",
    "check_params",
    "check_size",
    "configure_logs",
    "is_guided",
    "latent_pixels",
]
