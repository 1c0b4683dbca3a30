"""The flags of `sana serve`, one per field of ServerConfig, with its default."""

import argparse
from pathlib import Path
from typing import Any

from engine import LOG_FORMATS, LOG_LEVELS, EngineConfig

from .settings import KEYS_VARIABLE, RESPONSE_FORMATS, ServerConfig


def add_serve_flags(command: argparse.ArgumentParser) -> None:
    default = ServerConfig(EngineConfig())

    def add(flag: str, help: str, **options: Any) -> None:
        name = flag.removeprefix("--").replace("-", "_")
        command.add_argument(flag, default=getattr(default, name), help=help, **options)

    add("--host", "address to listen on (%(default)s)")
    add("--port", "TCP port; 0 takes a free one (%(default)s)", type=int)
    add("--public-url", "what URLs of images begin with (the host the client asked)", metavar="URL")
    alias_help = "also answer to NAME, like dall-e-3=demo; may be repeated"
    command.add_argument("--model-alias", dest="model_aliases", action=Alias, default={}, help=alias_help)
    add("--strict-params", "refuse unknown fields instead of ignoring them", action="store_true")
    add("--response-format", "where the client leaves it open (%(default)s)", choices=RESPONSE_FORMATS)
    add("--files", "folder, or s3://BUCKET/PREFIX, for images fetched by URL (a temporary folder)", metavar="PLACE")
    add("--files-max-bytes", "of all images in that folder (%(default)s)", type=int, metavar="BYTES")
    add("--files-max-age", "how long an image can be fetched (%(default)s)", type=float, metavar="SECONDS")
    key_help = f"accept this key, and no request without one; may be repeated; also ${KEYS_VARIABLE}"
    command.add_argument("--api-key", dest="api_keys", action="append", default=[], metavar="KEY", help=key_help)
    add("--api-key-file", "one key per line; read again when it changes", type=Path, metavar="FILE")
    add("--rate-limit", "requests per minute and key; 0: any number (%(default)s)", type=int, metavar="N")
    add("--max-concurrent", "requests at once per key; 0: any number (%(default)s)", type=int, metavar="N")
    cors_help = "let scripts of this web page ask, like https://example.org; may be repeated (none)"
    command.add_argument(
        "--cors-origin", dest="cors_origins", action="append", default=[], metavar="ORIGIN", help=cors_help
    )
    add("--max-body-bytes", "largest request body (%(default)s)", type=int, metavar="BYTES")
    devices_help = "like --device; with commas between several, an engine process each (%(default)s)"
    command.add_argument("--devices", dest="device", default=EngineConfig.device, help=devices_help)
    exact_help = "one image per forward: its bytes do not depend on who else is served, at the price of sharing"
    command.add_argument("--exact", action="store_true", default=EngineConfig.exact, help=exact_help)
    graphs_help = "capture the denoise step at start-up, and replay it (yes, where there is a GPU)"
    command.add_argument(
        "--cuda-graphs", action=argparse.BooleanOptionalAction, default=EngineConfig.cuda_graphs, help=graphs_help
    )
    queue_help = "predicted seconds of accepted work beyond which requests are refused (%(default)s)"
    command.add_argument("--max-queue-seconds", type=float, default=EngineConfig.max_queue_seconds, help=queue_help)
    level_help = "least grave line to show (%(default)s)"
    command.add_argument("--log-level", default=EngineConfig.log_level, choices=LOG_LEVELS, help=level_help)
    format_help = "of the log, on standard error (%(default)s)"
    command.add_argument("--log-format", default=EngineConfig.log_format, choices=LOG_FORMATS, help=format_help)
    add("--otlp-endpoint", "send traces there, like http://127.0.0.1:4318 (nowhere)", metavar="URL")
    add("--grace-seconds", "time for running requests when stopped (%(default)s)", type=float, metavar="SECONDS")


class Alias(argparse.Action):
    """NAME=ID into a dict."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name, _, model = values.partition("=")
        if not name or not model:
            parser.error(f"{option} is {values!r}; it must be NAME=ID, like dall-e-3=demo")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: model})
