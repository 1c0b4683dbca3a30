"""`sana serve`: the socket, uvicorn, and an orderly stop."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Generator
from types import FrameType

import uvicorn

from engine import ModelInfo, SanaError

from .app import create_app
from .protocol import JSONH11Protocol
from .settings import ServerConfig

log = logging.getLogger("sana.serving")
MAX_PORT = 65535
STALLED_SECONDS = 60  # after which the kernel drops a client that does not acknowledge what it was sent


class ListenError(SanaError):
    """The server cannot listen on the address."""


class Server(uvicorn.Server):
    """uvicorn that answers accepted requests before it stops, and then exits with status 0."""

    def __init__(self, config: ServerConfig, url: str) -> None:
        self.app = create_app(config, self.announce)
        self.url = url
        self.grace_seconds = config.grace_seconds
        self.failure: BaseException | None = None
        super().__init__(
            uvicorn.Config(
                self.app, http=JSONH11Protocol, ws="none", log_config=None, access_log=False, server_header=False
            )
        )

    def announce(self, loading: asyncio.Task[ModelInfo]) -> None:
        """Prints the address once the engine has loaded; stops the server if it failed."""
        if loading.cancelled() or self.should_exit:
            return
        self.failure = loading.exception()
        if self.failure is not None:
            self.should_exit = True
        else:
            model = loading.result()
            print(f"sana: serving {model.id} ({model.device}, {model.dtype}) on {self.url}", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Replaces uvicorn's, which raises the signal again after the stop: a traceback, or status 143."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self.handle_exit, number, None)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *args: loop.call_soon_threadsafe(self.handle_exit, *args))
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        log.info("stopping; accepted requests have %g s to finish", self.grace_seconds)
        super().handle_exit(sig, frame)
        # Requests that are not done after the grace period are answered with 503.
        self.draining = asyncio.ensure_future(self.app.state.engine.drain(self.grace_seconds))


def run_server(config: ServerConfig) -> None:
    """Serves until SIGINT or SIGTERM. Raises SanaError when it cannot listen or the model cannot be loaded."""
    listener = listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
    server = Server(config, url)
    asyncio.run(server.serve(sockets=[listener]))
    if server.failure is not None:
        raise server.failure


def listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= MAX_PORT:
        raise ListenError(f"cannot listen on port {port}; --port must be 0 (a free one) to {MAX_PORT}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host is not a valid name
        number = getattr(error, "errno", None) or 0  # above 0 the system's message is shorter than Python's
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", error)
        raise ListenError(f"cannot listen on {host}:{port}: {reason}; choose another with --host and --port") from None
    # Connections inherit the option. asyncio sets it only on sockets created with an explicit protocol, and without it
    # a client that delays acknowledgements waits 40 ms for every response that is written as head and body.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)
    return listener
