"""Main loop of the engine process: reads commands, steps the core, sends events. Imports torch only when it runs."""

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
from ..host import STOP_SIGNALS
from ..logs import configure_logs
from ..messages import Cancel, Command, Ready, Report, StartFailed, Stop
from ..types import Failed

if TYPE_CHECKING:
    from .core import EngineCore

log = logging.getLogger(__name__)
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user decides how OpenMP's threads wait."""
FAILED, ORPHANED = 1, 3
"""Exit statuses: the device is unusable, or the parent process has ended."""


def run_worker(config: EngineConfig, index: int, pipe: Connection) -> None:
    """Entry point of the process. Ends on Stop, and at once, even while loading, when the parent process has ended."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    configure_logs(config.log_level, config.log_format)
    wait_passively()
    skip_triton()
    try:
        serve(config, index, pipe, on_parent_exit=lambda: os._exit(ORPHANED))
    except Exception:
        log.exception("engine process %d failed", index, extra={"worker": index})  # multiprocessing bypasses logging
        sys.exit(FAILED)


def wait_passively() -> None:
    """Lets threads that wait for others sleep, instead of taking the time of a core that another program needs.

    OpenMP reads this when torch is loaded. A user's own setting is kept.
    """
    if not any(os.environ.get(name) for name in WAIT_SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def skip_triton() -> None:
    """Makes Triton absent where torch finds no GPU: no kernel runs there, and importing it takes 0.2 s."""
    import torch

    if "triton" not in sys.modules and not torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET"):
        sys.modules["triton"] = None  # type: ignore[assignment]  # as Python documents it


def serve(
    config: EngineConfig, index: int, pipe: Connection, on_parent_exit: Callable[[], None] = lambda: None
) -> None:
    """Loads the model on config.devices[index], then runs commands until Stop.

    Args:
        on_parent_exit: called from a thread when the parent process has ended without sending Stop.
    """
    inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(pipe, inbox, on_parent_exit), name="engine-inbox", daemon=True).start()
    lock = threading.Lock()

    def send(report: Report) -> None:
        with lock:
            try:
                pipe.send(report)
            except OSError:
                log.warning("the parent process has ended; dropped a report")

    try:
        from .core import EngineCore  # here, because the client imports this module and must not import torch
        from .threads import limit_threads

        processes = max(1, sum(device in ("cpu", "auto") for device in config.devices))
        log.info("limited to %s", limit_threads(processes), extra={"worker": index})
        core = EngineCore(config, send, index)
    except SanaError as error:
        send(StartFailed(error))
    except Exception as error:
        log.exception("the engine failed to start")
        send(StartFailed(EngineUnavailable(f"the engine failed to start: {type(error).__name__}: {error}")))
    else:
        send(Ready(core.model, core.scheduler.costs, core.memory))
        while run_commands(core, inbox, send):
            core.step()
        core.close()
    pipe.close()


def run_commands(core: "EngineCore", inbox: "queue.SimpleQueue[Command]", send: Callable[[Report], None]) -> bool:
    """Runs the commands that have arrived, waiting for one while the core is idle. Returns False after Stop."""
    while not (core.busy and inbox.empty()):
        command = inbox.get()
        if isinstance(command, Stop):
            return False
        if isinstance(command, Cancel):
            core.cancel(command.request_id)
            continue
        try:
            core.submit(command)
        except SanaError as error:
            send(Failed(command.request_id, error))
    return True


def read_commands(pipe: Connection, inbox: "queue.SimpleQueue[Command]", on_parent_exit: Callable[[], None]) -> None:
    """Thread: puts the parent's commands into the inbox. A pipe that closes before Stop means that the parent ended."""
    try:
        command: Command | None = None
        while not isinstance(command, Stop):
            command = pipe.recv()
            inbox.put(command)
    except Exception as error:
        if not isinstance(error, EOFError | OSError) and not pipe.closed:
            log.exception("the parent process sent an undecodable message")
        on_parent_exit()
        inbox.put(Stop())
