"""The engine process: reads messages, steps the core, sends events. Imports torch only once it runs as a process."""

import logging
import queue
import signal
import threading
from multiprocessing.connection import Connection

from .config import EngineConfig
from .errors import EngineUnavailable, SanaError
from .messages import Cancel, Ready, StartFailed, Stop, Submit
from .types import Event, Failed


def run_worker(config: EngineConfig, pipe: Connection) -> None:
    """Entry point of the process. Ends on Stop, or when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    lock = threading.Lock()

    def send(message: Event | Ready | StartFailed) -> None:
        with lock:
            try:
                pipe.send(message)
            except OSError:
                logging.getLogger(__name__).warning("the parent is gone; its answer is dropped")

    try:
        from .core import EngineCore  # here, so that importing the client never imports torch

        core = EngineCore(config, send)
    except SanaError as error:
        send(StartFailed(error))
        return
    except Exception as error:
        logging.getLogger(__name__).exception("the engine did not start")
        send(StartFailed(EngineUnavailable(f"the engine did not start: {type(error).__name__}: {error}")))
        return

    inbox: queue.SimpleQueue[Submit | Cancel | Stop] = queue.SimpleQueue()
    threading.Thread(target=read, args=(pipe, inbox), name="engine-inbox", daemon=True).start()
    send(Ready(core.model))
    while True:
        while not (core.busy and inbox.empty()):  # idle: wait; busy: take what has come
            message = inbox.get()
            if isinstance(message, Stop):
                core.close()
                return
            if isinstance(message, Cancel):
                core.cancel(message.request_id)
            else:
                try:
                    core.submit(message.request_id, message.params)
                except SanaError as error:
                    send(Failed(message.request_id, error))
        core.step()


def read(pipe: Connection, inbox: "queue.SimpleQueue[Submit | Cancel | Stop]") -> None:
    """Thread: what the parent sends; its end of the pipe closing is a Stop."""
    try:
        while True:
            inbox.put(pipe.recv())
    except (EOFError, OSError):
        inbox.put(Stop())
