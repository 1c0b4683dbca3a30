"""The flags that are settings: of the engine, for every command that starts one, and of `sana serve`."""

import argparse
import math
from pathlib import Path
from typing import Any

from engine import DTYPES, LOG_FORMATS, LOG_LEVELS, PNG_METADATA, QUANTIZATIONS, EngineConfig

from .environment import Repeated, VariableParser
from .settings import RESPONSE_FORMATS, ModelAlias, ServerConfig


def add_model_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default=argparse.SUPPRESS,
        help="demo, a folder in diffusers layout, a .pth or .safetensors file, or ORG/NAME[@REVISION] on the hub "
        f"(default: {EngineConfig.model})",
    )
    command.add_argument(
        "--dtype",
        choices=DTYPES,
        default=argparse.SUPPRESS,
        help=f"data type of the transformer (default: {EngineConfig.dtype})",
    )


def add_quantization_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        default=argparse.SUPPRESS,
        help=f"format of the transformer's large matrix products (default: {EngineConfig.quantization})",
    )


def add_device_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        default=argparse.SUPPRESS,
        help=f"auto, cpu, mps, cuda or cuda:INDEX (default: {EngineConfig.device})",
    )


def serve_flags() -> VariableParser:
    """The flags of `sana serve`, each also an environment variable."""
    flags = VariableParser()
    add_model_flags(flags)
    add_quantization_flag(flags)

    def add(flag: str, help: str, default: object, **options: Any) -> None:
        flags.add_argument(flag, help=f"{help} (default: {default})", **options)

    server, engine = ServerConfig, EngineConfig
    add("--host", "address to listen on", server.host)
    add("--port", "TCP port; 0 takes a free one", server.port, type=integer)
    url_help = "start of the URLs of images, like https://example.org/sana"
    add("--public-url", url_help, "the host of the request", metavar="URL")
    proxy_help = "address or network of a proxy whose X-Forwarded headers count; * trusts all; may be repeated"
    proxies = {"dest": "trusted_proxies", "action": Repeated, "metavar": "ADDRESS"}
    add("--trusted-proxy", proxy_help, "this machine", **proxies)
    alias_help = "let clients also request model ID by NAME, like dall-e-3=demo, or dall-e-3=demo:url to send it URLs "
    alias_help += "by default; * stands for any name; may be repeated"
    add("--model-alias", alias_help, "none", dest="model_aliases", action=Alias, metavar="NAME=ID")
    add(
        "--strict-params", "refuse unknown fields instead of ignoring them", "no", action=argparse.BooleanOptionalAction
    )
    format_help = "form of images when the request does not choose one"
    add("--response-format", format_help, server.response_format, choices=RESPONSE_FORMATS)
    png_help = "text chunks of PNG files: sana, a1111 (also `parameters` as in AUTOMATIC1111's web UI) or none"
    add("--png-metadata", png_help, engine.png_metadata, choices=PNG_METADATA)
    files_help = "folder, or s3://BUCKET/PREFIX, for images fetched by URL"
    add("--files", files_help, "a temporary folder", metavar="PLACE")
    bytes_help = "maximum total size of the images in that folder"
    add("--files-max-bytes", bytes_help, server.files_max_bytes, type=integer, metavar="BYTES")
    add("--files-max-age", "time an image can be fetched for", server.files_max_age, type=number, metavar="SECONDS")
    key_help = "accept this key and refuse requests without a key; may be repeated"
    add("--api-key", key_help, "accept every request", dest="api_keys", action=Repeated, metavar="KEY")
    add("--api-key-file", "file of keys, one per line; read again when it changes", "none", type=Path, metavar="FILE")
    add("--rate-limit", "requests per minute and key; 0: unlimited", server.rate_limit, type=integer, metavar="N")
    concurrent_help = "concurrent requests per key; 0: unlimited"
    add("--max-concurrent", concurrent_help, server.max_concurrent, type=integer, metavar="N")
    cors_help = "allow scripts of this web page, like https://example.org; * allows all; may be repeated"
    add("--cors-origin", cors_help, "none", dest="cors_origins", action=Repeated, metavar="ORIGIN")
    body_help = "maximum size of a request body"
    add("--max-body-bytes", body_help, server.max_body_bytes, type=integer, metavar="BYTES")
    data_help = "folder in which OpenAI's Batch API keeps files, batches and images"
    add("--data", data_help, "no batches", type=Path, metavar="FOLDER")
    database_help = "database in place of --data that several servers share, like postgresql://user@host/name"
    add("--database", database_help, "none", metavar="URL")
    age_help = "time that uploaded files, batches and their output are kept"
    add("--batch-max-age", age_help, server.batch_max_age, type=number, metavar="SECONDS")
    held_help = "maximum size of all of them; beyond it the key that holds most loses its oldest files"
    add("--batch-max-bytes", held_help, server.batch_max_bytes, type=integer, metavar="BYTES")
    add("--webhook-url", "address that is told of the end of each batch", "none", metavar="URL")
    secret_help = "key that signs these messages: whsec_ and at least 16 bytes in base64"
    add("--webhook-secret", secret_help, "none", metavar="SECRET")
    devices_help = "auto, cpu, mps, cuda, cuda:INDEX, or several separated by commas: one engine process each"
    add("--devices", devices_help, engine.device, dest="device")
    exact_help = "run each request in its own batch: the image's bytes do not depend on other requests; slower"
    add("--exact", exact_help, "no", action=argparse.BooleanOptionalAction)
    graphs_help = "capture the denoise step as CUDA graphs at start-up and replay them"
    add("--cuda-graphs", graphs_help, "yes, on a GPU", action=argparse.BooleanOptionalAction)
    queue_help = "predicted seconds of accepted work beyond which requests are refused"
    add("--max-queue-seconds", queue_help, engine.max_queue_seconds, type=number, metavar="SECONDS")
    start_help = "time in which the model must be loaded, or the engine process is killed"
    add("--start-seconds", start_help, engine.start_seconds, type=number, metavar="SECONDS")
    add("--log-level", "minimum log level", engine.log_level, choices=LOG_LEVELS)
    add("--log-format", "format of the log on standard error", engine.log_format, choices=LOG_FORMATS)
    otlp_help = "OpenTelemetry collector to send traces to, like http://127.0.0.1:4318"
    add("--otlp-endpoint", otlp_help, "none", metavar="URL")
    grace_help = "time to finish accepted requests when stopped"
    add("--grace-seconds", grace_help, server.grace_seconds, type=number, metavar="SECONDS")
    drain_help = "minimum time a stopping server accepts connections and answers 503, for load balancers"
    add("--drain-seconds", drain_help, server.drain_seconds, type=number, metavar="SECONDS")
    keep_alive_help = "time a connection stays open between requests; longer than that of a proxy in front"
    add("--keep-alive-seconds", keep_alive_help, server.keep_alive_seconds, type=integer, metavar="SECONDS")
    return flags


def integer(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text!r}")
    return value


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


class Alias(Repeated):
    """A flag of the form NAME=ID or NAME=ID:FORMAT, or * alone; may be repeated, and its values make a dict."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name, _, model = values.partition("=")
        before, _, response_format = model.rpartition(":")
        alias = ModelAlias(before, response_format) if response_format in RESPONSE_FORMATS else ModelAlias(model)
        if values != "*" and not (name and alias.model):
            message = f"must be NAME=ID, like dall-e-3=demo, or NAME=ID:FORMAT, got {values!r}"
            raise argparse.ArgumentError(self, message)
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), name: alias})
