"""What the server is started with. Defaults live here alone; the command line reads them back."""

from dataclasses import dataclass

from engine import EngineConfig

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one HTTP process and the engine behind it.

    Args:
        engine: settings of the engine process.
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        log_level: one of LOG_LEVELS.
        max_body_bytes: larger request bodies are refused with 413.
        grace_seconds: how long a stopping server lets accepted requests finish; Kubernetes kills 30 s after SIGTERM.
    """

    engine: EngineConfig
    host: str = "127.0.0.1"
    port: int = 8000
    log_level: str = "info"
    max_body_bytes: int = 1 << 20
    grace_seconds: float = 25.0
