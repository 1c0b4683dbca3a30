"""What the server is started with. Defaults live here alone; the command line reads them back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine import EngineConfig

RESPONSE_FORMATS = ("b64_json", "url")


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one HTTP process and the engine behind it.

    Args:
        engine: settings of the engine process; its log is also this process's.
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        public_url: what URLs of images begin with; None: the host the client asked.
        model_aliases: further names under which the model answers, to its id.
        strict_params: refuse fields of a body that nothing here knows, instead of naming them in a header.
        response_format: one of RESPONSE_FORMATS, where the client leaves it open.
        files: folder, or s3://BUCKET/PREFIX, of images fetched by URL; None is a temporary folder.
        files_max_bytes: of all images in that folder.
        files_max_age: seconds an image can be fetched.
        api_keys: keys of clients; none, and no file: everybody may ask.
        api_key_file: one key per line, read again when it changes.
        rate_limit: requests per minute and key; 0: any number.
        max_concurrent: requests at once per key; 0: any number.
        cors_origins: web pages whose scripts may ask; "*" is any.
        max_body_bytes: larger request bodies are refused with 413.
        otlp_endpoint: URL of an OpenTelemetry collector; None: no traces.
        grace_seconds: how long a stopping server lets accepted requests finish; Kubernetes kills 30 s after SIGTERM.
    """

    engine: EngineConfig
    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None
    model_aliases: Mapping[str, str] = field(default_factory=dict)
    strict_params: bool = False
    response_format: str = "b64_json"
    files: str | None = None
    files_max_bytes: int = 1 << 30
    files_max_age: float = 3600.0
    api_keys: Sequence[str] = field(default=(), repr=False)
    api_key_file: Path | None = None
    rate_limit: int = 0
    max_concurrent: int = 0
    cors_origins: Sequence[str] = ()
    max_body_bytes: int = 1 << 20
    otlp_endpoint: str | None = None
    grace_seconds: float = 25.0
