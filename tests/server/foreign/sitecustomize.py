"""First on PYTHONPATH in some tests: takes from Python what only Linux has, or what Windows lacks, Triton included."""

import asyncio
import os
import signal
import socket
import sys
from typing import Any


def absent(*args: Any) -> None:
    raise NotImplementedError


sys.modules["triton"] = None  # type: ignore[assignment]  # makes its import raise ModuleNotFoundError
del os.sched_getaffinity, signal.pthread_sigmask, socket.TCP_USER_TIMEOUT
asyncio.SelectorEventLoop.add_signal_handler = absent  # type: ignore[assignment, method-assign]
asyncio.SelectorEventLoop.remove_signal_handler = absent  # type: ignore[assignment, method-assign]
