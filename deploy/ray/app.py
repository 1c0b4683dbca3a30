"""The application of Ray Serve: the deployment `ingress` speaks HTTP, the deployment `engine` generates.

serve run deploy/ray/demo.yaml
"""

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine import configure_logs
from server.app import create_app
from server.settings import ServerConfig

from .client import RayEngine
from .engine import EngineReplica
from .routing import UntriedFirst
from .settings import read_settings

MANY = 100_000
"""Requests that Ray lets through to a replica: the engine's own queue, which knows seconds, is the one that refuses."""
LONGEST_SECONDS = 900.0
"""Time for a replica's accepted requests when it is stopped."""
HEALTH_SECONDS = 2.0
LOGS = LoggingConfig(enable_access_log=False)  # the application has its own


class Ingress:
    """The HTTP application of `sana serve`, whose engine is the deployment `engine`."""

    def __init__(self, config: ServerConfig, engine: DeploymentHandle) -> None:
        configure_logs(config.engine.log_level, config.engine.log_format)
        self._config, self._engine = config, engine

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._config, engine=RayEngine(self._config.engine, self._engine))
        app.add_middleware(ProxyRequestId)
        return app


class ProxyRequestId:
    """ASGI middleware. Leaves the header x-request-id to Ray's proxy, which adds it to every response: once is right.

    The proxy also gives the id to the application, or takes the client's, so both are the same.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self.app(scope, receive, send_without_id)


def build(args: dict[str, object]) -> Application:
    """The application, for the import_path of a YAML file. Raises SanaError.

    Args:
        args: settings by the variables of `sana serve`, such as {"SANA_MODEL": "demo"}.
    """
    config = read_settings(args)
    engine = serve.deployment(
        EngineReplica,
        name="engine",
        max_ongoing_requests=MANY,
        logging_config=LOGS,
        graceful_shutdown_timeout_s=LONGEST_SECONDS,
        health_check_period_s=HEALTH_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class=UntriedFirst),
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        max_ongoing_requests=MANY,
        logging_config=LOGS,
        graceful_shutdown_timeout_s=LONGEST_SECONDS,
    )
    return ingress.bind(config, engine.bind(config))
