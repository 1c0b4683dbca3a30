"""Assembles the HTTP application: routes, error responses, and the engine's start and stop."""

import asyncio
import contextlib
import logging
import re
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from engine import Engine, EngineClient, ModelInfo, SanaError

from .access import AccessLog
from .auth import ApiKeys, authorize
from .file_store import DirectoryStore, FileStore, sweep_forever
from .http_errors import RequestError, error_response
from .limits import Limits, UploadMemory
from .methods import HeadAsGet, JSONCORSMiddleware
from .metrics import Metrics
from .origins import parse_origins
from .paths import NormalPaths
from .routes import batches, edits, files, images, models, operations, playground, uploads
from .s3_store import S3Store
from .schemas import ErrorResponse
from .settings import ServerConfig
from .tracing import NoTraces, OTLPTraces
from .urls import TrustedProxies, check_url, trusted_addresses
from .writing import OutputError

if TYPE_CHECKING:
    from .batches.runner import BatchRunner

log = logging.getLogger("sana.app")
EXPOSED_HEADERS = [
    "x-request-id",
    "x-ignored-params",
    "retry-after",
    "openai-processing-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
]


class AliasError(SanaError):
    """A model alias refers to a model that is not served."""


def log_loaded(loading: asyncio.Task[ModelInfo]) -> None:
    if not loading.cancelled():
        log.info("engine: %s", loading.exception() or "ready")


def create_app(
    config: ServerConfig,
    loaded: Callable[[asyncio.Task[ModelInfo]], None] = log_loaded,
    engine: Engine | None = None,
) -> FastAPI:
    """The application. While the model loads it answers 503.

    Args:
        loaded: called with the task that loads the model once it has ended.
        engine: the engine that the application starts and stops; None: engine processes of its own.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        engine: Engine = app.state.engine
        loading = asyncio.create_task(load(engine, config))
        loading.add_done_callback(loaded)
        with tempfile.TemporaryDirectory(prefix="sana-files-", ignore_cleanup_errors=True) as scratch:
            if config.files is None:
                app.state.files = DirectoryStore(Path(scratch), config.files_max_bytes, config.files_max_age)
            sweeping = asyncio.create_task(sweep_forever(app.state.files))
            if app.state.batches is not None:
                app.state.batches.start()
            try:
                yield
            finally:
                if app.state.batches is not None:
                    await app.state.batches.stop()
                    app.state.batches.close()
                for task in (loading, sweeping):
                    task.cancel()
                await asyncio.gather(loading, sweeping, return_exceptions=True)
                await engine.stop()
                await asyncio.to_thread(app.state.traces.close)

    app = FastAPI(
        title="sana-serve",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )
    app.state.config = config
    if config.files is not None:
        app.state.files = open_store(config.files, config)
    app.state.metrics = Metrics()
    app.state.engine = engine or EngineClient(config.engine, on_step=app.state.metrics.observe_step)
    app.state.keys = ApiKeys(config.api_keys, config.api_key_file)
    app.state.uploads = UploadMemory(edits.MAX_HELD_BYTES, edits.READERS)
    app.state.limits = Limits(config.rate_limit, config.max_concurrent)
    app.state.metrics.watch(app.state.engine, app.state.limits)
    app.state.traces = OTLPTraces(config.otlp_endpoint) if config.otlp_endpoint else NoTraces()
    app.state.batches = open_batches(config, app.state)
    for router in (images.router, edits.router, models.router, uploads.router, batches.router):
        app.include_router(router, dependencies=[Depends(authorize)])
    for router in (operations.router, files.router, playground.router):
        app.include_router(router)
    for kind in (SanaError, RequestError, ClientDisconnect, HTTPException):
        app.add_exception_handler(kind, answer_error)
    if config.cors_origins:
        app.add_middleware(
            JSONCORSMiddleware,
            allow_origins=parse_origins(config.cors_origins),
            allow_private_network=True,
            allow_methods=["DELETE", "GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(HeadAsGet)
    app.add_middleware(NormalPaths)
    app.add_middleware(AccessLog)
    app.add_middleware(TrustedProxies, trusted_hosts=trusted_addresses(config.trusted_proxies))
    return app


async def load(engine: Engine, config: ServerConfig) -> ModelInfo:
    model = await engine.start()
    for name, alias in config.model_aliases.items():
        if alias.model not in ("", model.id):
            raise AliasError(f"--model-alias {name} must refer to the served model '{model.id}', got '{alias.model}'")
    return model


def open_store(place: str, config: ServerConfig) -> FileStore:
    """The store of --files. Raises SanaError if it is unusable."""
    if place.startswith("s3://"):
        return S3Store(place, config.files_max_age)
    if not place.strip() or re.match(r"\w+:/|s3:", place, re.IGNORECASE):  # would become a folder of that name
        raise OutputError(f"--files must be a folder or s3://BUCKET/PREFIX, got {place!r}")
    return DirectoryStore(Path(place), config.files_max_bytes, config.files_max_age)


def open_batches(config: ServerConfig, state: State) -> "BatchRunner | None":
    """The batches of --data or --database; None without either. Raises SanaError if they cannot be opened."""
    place = config.data or config.database
    if place is None:
        if config.webhook_url is not None:
            raise SanaError("--webhook-url tells of the end of batches, so it needs --data or --database")
        return None
    if config.data and config.database:
        raise SanaError("--data and --database exclude each other: batches are in one of them")
    if config.webhook_url is not None:
        check_url("--webhook-url", config.webhook_url, query=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # before its import, which logs
    from .batches.database import Database  # here, because a server without batches needs no database library
    from .batches.runner import BatchRunner

    return BatchRunner(Database(place), state)


async def answer_error(request: Request, error: Exception) -> Response:
    return error_response(error, request)
