"""Settings of the server. Their defaults are written only here; the flags' help reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from engine import EngineConfig

RESPONSE_FORMATS = ("b64_json", "url")


class ModelAlias(NamedTuple):
    """A further name of the model: the model's id ("" for whichever is served), and its own default format."""

    model: str
    response_format: str | None = None


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one HTTP process and the engine behind it.

    Args:
        engine: settings of the engine process; both processes log by its log_level and log_format.
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        public_url: start of the URLs of images, which may have a path; None: the host of the request.
        trusted_proxies: addresses and networks whose X-Forwarded headers count; "*" trusts all; empty: this machine,
            or what uvicorn's variable FORWARDED_ALLOW_IPS names.
        model_aliases: further names of the model; "*" stands for any name.
        strict_params: refuse unknown fields of a body with 400 instead of naming them in a header.
        response_format: one of RESPONSE_FORMATS, used when the request does not choose one.
        files: folder, or s3://BUCKET/PREFIX, of images fetched by URL; None: a temporary folder.
        files_max_bytes: maximum total size of the images in that folder.
        files_max_age: seconds an image can be fetched.
        api_keys: accepted keys; without keys and file every request is accepted.
        api_key_file: file of accepted keys, one per line, read again when it changes.
        rate_limit: requests per minute and key; 0: unlimited.
        max_concurrent: concurrent requests per key; 0: unlimited.
        cors_origins: web pages whose scripts may send requests; "*" allows all.
        max_body_bytes: maximum size of a request body; larger ones are refused with 413.
        data: folder of the database of batches; None: see database.
        database: postgresql://... URL of a database that servers share for batches; with neither there are no batches.
        batch_max_age: seconds that uploaded files, batches and their output are kept.
        batch_max_bytes: maximum bytes of all of them; beyond it the key that holds most loses its oldest files.
        webhook_url: address that is told of the end of each batch; None: nobody.
        webhook_secret: whsec_ and a key in base64, which signs these messages.
        otlp_endpoint: URL of an OpenTelemetry collector; None: no traces.
        grace_seconds: time to finish accepted requests when stopped; Kubernetes kills 30 s after SIGTERM.
        drain_seconds: minimum time in which a stopping server accepts connections, and answers 503.
        keep_alive_seconds: time a connection stays open between requests; a proxy's must be shorter, or it may send a
            request just when the connection closes. nginx, Caddy and cloud balancers use 60 s or more.
    """

    engine: EngineConfig
    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None
    trusted_proxies: Sequence[str] = ()
    model_aliases: Mapping[str, ModelAlias] = field(default_factory=dict)
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
    data: Path | None = None
    database: str | None = field(default=None, repr=False)
    batch_max_age: float = 30 * 86400.0
    batch_max_bytes: int = 100 << 30
    webhook_url: str | None = None
    webhook_secret: str = field(default="", repr=False)
    otlp_endpoint: str | None = None
    grace_seconds: float = 25.0
    drain_seconds: float = 0.0
    keep_alive_seconds: int = 75
