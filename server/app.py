"""Puts the HTTP side together: routes, error answers, and the engine's life as the application's."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from engine import EngineClient, ModelInfo, SanaError

from . import images, models, operations
from .access import AccessLog
from .config import ServerConfig
from .errors import InvalidBody, ModelNotFound, error_response
from .schemas import ErrorResponse

log = logging.getLogger("sana.app")


def log_loaded(loading: asyncio.Task[ModelInfo]) -> None:
    if not loading.cancelled():
        log.info("engine: %s", loading.exception() or "ready")


def create_app(config: ServerConfig, loaded: Callable[[asyncio.Task[ModelInfo]], None] = log_loaded) -> FastAPI:
    """The application. It listens while the model loads, answering 503; `loaded` is called when that has ended."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        engine: EngineClient = app.state.engine
        loading = asyncio.create_task(engine.start())
        loading.add_done_callback(loaded)
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await engine.stop()

    app = FastAPI(
        title="sana-serve",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )
    app.state.config = config
    app.state.engine = EngineClient(config.engine)
    for router in (images.router, models.router, operations.router):
        app.include_router(router)
    for kind in (SanaError, InvalidBody, ModelNotFound, ClientDisconnect, HTTPException):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(AccessLog)
    return app


async def answer_error(request: Request, error: Exception) -> Response:
    return error_response(error, request)
