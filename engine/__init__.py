"""The engine as the rest of the program sees it: free of torch, which the engine's own process imports."""

from .client import EngineClient
from .config import DTYPES, LOG_FORMATS, LOG_LEVELS, QUANTIZATIONS, EngineConfig
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
from .logs import configure_logs
from .params import check_params
from .stats import EngineStats, Forwards, StepReport
from .types import (
    MAX_IMAGES,
    MAX_PARTIAL_IMAGES,
    MAX_PROMPT_CHARS,
    MAX_STEPS,
    Event,
    Failed,
    Finished,
    GenerationParams,
    ImageFormat,
    ModelInfo,
    Preview,
    Priority,
    Progress,
    Started,
    Timings,
)
from .version import VERSION

__all__ = [
    "DTYPES",
    "LOG_FORMATS",
    "LOG_LEVELS",
    "MAX_IMAGES",
    "MAX_PARTIAL_IMAGES",
    "MAX_PROMPT_CHARS",
    "MAX_STEPS",
    "QUANTIZATIONS",
    "VERSION",
    "CheckpointError",
    "DeadlineExceeded",
    "DeviceError",
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
    "Started",
    "StepReport",
    "Timings",
    "check_params",
    "configure_logs",
]
