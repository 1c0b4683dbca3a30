"""The engine process: reads orders, steps the core, sends events. Imports torch only once it runs as a process."""

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ..config import EngineConfig
from ..errors import EngineUnavailable, SanaError
from ..logs import configure_logs
from ..messages import Cancel, Order, Ready, Report, StartFailed, Stop
from ..types import Failed

if TYPE_CHECKING:
    from .core import EngineCore

log = logging.getLogger(__name__)
FAILED, ORPHANED = 1, 3
"""Exit statuses: the device is lost, or the parent is gone."""


def run_worker(config: EngineConfig, index: int, pipe: Connection) -> None:
    """Entry point of the process. Ends on Stop, and whatever it is at, loading included, when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    configure_logs(config.log_level, config.log_format)
    try:
        serve(config, index, pipe, orphaned=lambda: os._exit(ORPHANED))
    except Exception:
        log.exception("engine process %d ends", index, extra={"worker": index})  # multiprocessing's words are no line
        sys.exit(FAILED)


def serve(config: EngineConfig, index: int, pipe: Connection, orphaned: Callable[[], None] = lambda: None) -> None:
    """Loads the model of config.devices[index], then takes orders until Stop. `orphaned` is called from a thread."""
    inbox: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=read, args=(pipe, inbox, orphaned), name="engine-inbox", daemon=True).start()
    lock = threading.Lock()

    def send(report: Report) -> None:
        with lock:
            try:
                pipe.send(report)
            except OSError:
                log.warning("the parent is gone; its answer is dropped")

    try:
        from .core import EngineCore  # here, so that importing the client never imports torch

        core = EngineCore(config, send, index)
    except SanaError as error:
        send(StartFailed(error))
    except Exception as error:
        log.exception("the engine did not start")
        send(StartFailed(EngineUnavailable(f"the engine did not start: {type(error).__name__}: {error}")))
    else:
        send(Ready(core.model, core.scheduler.costs, core.memory))
        while obey(core, inbox, send):
            core.step()
        core.close()
    pipe.close()


def obey(core: "EngineCore", inbox: "queue.SimpleQueue[Order]", send: Callable[[Report], None]) -> bool:
    """Takes the orders that have come, and waits for one while there is nothing to do. False after Stop."""
    while not (core.busy and inbox.empty()):
        order = inbox.get()
        if isinstance(order, Stop):
            return False
        if isinstance(order, Cancel):
            core.cancel(order.request_id)
            continue
        try:
            core.submit(order)
        except SanaError as error:
            send(Failed(order.request_id, error))
    return True


def read(pipe: Connection, inbox: "queue.SimpleQueue[Order]", orphaned: Callable[[], None]) -> None:
    """Thread: what the parent sends; its end of the pipe closing without a Stop means that it died."""
    try:
        order: Order | None = None
        while not isinstance(order, Stop):
            order = pipe.recv()
            inbox.put(order)
    except Exception as error:
        if not isinstance(error, EOFError | OSError) and not pipe.closed:
            log.exception("an order cannot be read")
        orphaned()
        inbox.put(Stop())
