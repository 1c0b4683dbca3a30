"""`sana serve`: the sockets, uvicorn, and an orderly stop.

The first signal starts the stop: /ready is 503 at once, new requests get 503, and accepted ones finish. The server
listens until they have, and for --drain-seconds at least, so that a balancer reads 503 instead of "connection refused".
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Generator
from types import FrameType

import uvicorn

from engine import STOP_SIGNALS, ModelInfo

from .app import create_app
from .listening import listen, url_of
from .protocol import JSONH11Protocol
from .settings import ServerConfig
from .urls import check_url

log = logging.getLogger("sana.serving")
SIGHUP: int | None = getattr(signal, "SIGHUP", None)  # Windows has none
REPEAT_SECONDS = 1.0
"""Time after a signal in which others belong to it: a supervisor passes on what the whole group has received."""
ABORT_SECONDS, EXIT_SECONDS = 0.3, 5.0  # after a second signal: until connections are aborted, and until the exit


class Server(uvicorn.Server):
    """uvicorn that answers accepted requests before it stops, and then exits with status 0.

    A second signal stops it at once, with the status that a shell reports for the signal.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.app = create_app(config, self.announce)
        self.url = ""
        self.grace_seconds, self.drain_seconds = config.grace_seconds, config.drain_seconds
        self.failure: BaseException | None = None
        self.status = 0
        self.stopping: asyncio.Task[None] | None = None
        self.signalled = 0.0
        super().__init__(
            uvicorn.Config(
                self.app,
                http=JSONH11Protocol,
                ws="none",
                proxy_headers=False,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=config.keep_alive_seconds,
            )
        )

    def announce(self, loading: asyncio.Task[ModelInfo]) -> None:
        """Prints the address once the engine has loaded; stops the server if it failed."""
        if loading.cancelled() or self.stopping is not None:
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
        ignored = {SIGHUP} if SIGHUP is not None and signal.getsignal(SIGHUP) is signal.SIG_IGN else set()  # nohup
        numbers = [number for number in STOP_SIGNALS if number not in ignored]
        for number in numbers:
            try:
                loop.add_signal_handler(number, self.handle_exit, number, None)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *args: loop.call_soon_threadsafe(self.handle_exit, *args))
        try:
            yield
        finally:
            for number in numbers:
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(sig).name, time.monotonic()
        if self.stopping is None:
            log.info("%s: stopping; accepted requests have %g s to finish", name, self.grace_seconds)
            self.stopping, self.signalled = asyncio.create_task(self.finish_accepted()), now
        elif now - self.signalled > REPEAT_SECONDS and sig != SIGHUP and not self.status:
            # Not SIGHUP: systemd's SendSIGHUP and shells send it after another signal, without impatience.
            log.warning("%s: stopping at once", name)
            self.stop_at_once(128 + sig)

    async def finish_accepted(self) -> None:
        """Listens until the accepted requests are done, or failed after the grace period, and the drain is over."""
        try:
            drained = [self.app.state.engine.drain(self.grace_seconds), asyncio.sleep(self.drain_seconds)]
            if self.app.state.batches is not None:  # at once: its lines go on after the restart, or on another server
                drained.append(self.app.state.batches.stop())
            await asyncio.gather(*drained)
        finally:
            self.should_exit = True

    def stop_at_once(self, status: int) -> None:
        """Ends the engine processes, answers the accepted requests with 503, and exits with this status."""
        self.status, self.should_exit = status, True
        self.app.state.engine.kill()
        loop = asyncio.get_running_loop()
        loop.call_later(ABORT_SECONDS, self.abort_connections)
        loop.call_later(EXIT_SECONDS, os._exit, status)  # such as when a thread still sends a file to S3

    def abort_connections(self) -> None:
        """Closes connections of clients that do not read."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, JSONH11Protocol):
                connection.transport.abort()


def run_server(config: ServerConfig) -> int:
    """Serves until a signal, and returns the exit status.

    Raises SanaError when it cannot listen or the model cannot be loaded.
    """
    if config.public_url is not None:
        check_url("--public-url", config.public_url)
    if config.otlp_endpoint is not None:
        check_url("--otlp-endpoint", config.otlp_endpoint)
    server = Server(config)
    listeners = listen(config.host, config.port)
    server.url = url_of(listeners)
    # Below ERROR, uvicorn only repeats what the access log says.
    logging.getLogger("uvicorn").setLevel(max(logging.ERROR, logging.getLogger().level))
    asyncio.run(server.serve(sockets=listeners))
    if server.failure is not None:
        raise server.failure
    return server.status
