"""One device's engine process, kept alive: watched, restarted, and given again what its predecessor left undone."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from .admission import seconds_left
from .config import EngineConfig
from .costs import CostModel
from .errors import EngineUnavailable, GenerationFailed
from .messages import Cancel, Ready, Report, StartFailed, Submit
from .process import EngineProcess
from .request import Request
from .stats import StepReport
from .types import Event, Failed

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
MAX_DEATHS = 2
MAX_FAILED_STARTS = 3
MAX_RESTART_DELAY = 60.0
LONG_STEPS = 10.0
"""A step may take so many times what it should before its process counts as hung: machines are shared."""


class Replica:
    """Holds the tickets of its device until they are done. Start with `run` as a task; cancel it to end.

    Args:
        on_step: receives every StepReport.
        on_orphan: called with each innocent ticket after its process ended: another replica may take it.
    """

    def __init__(
        self,
        config: EngineConfig,
        index: int,
        on_step: Callable[[StepReport], None],
        on_orphan: Callable[[Request], None],
        in_process: bool = False,
    ) -> None:
        self.config, self.index, self.in_process = config, index, in_process
        self.started: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.ready = False
        self.failed_starts = 0
        self.requests: dict[str, Request] = {}
        self.process: EngineProcess | None = None
        self.last_step: StepReport | None = None
        self.retries = self.restarts = 0
        self.wasted_seconds = 0.0
        self.costs: CostModel | None = None
        self._on_step, self._on_orphan = on_step, on_orphan
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """It draws, or will again in seconds."""
        return self.started.done() and self.failed_starts < MAX_FAILED_STARTS

    @property
    def seconds_left(self) -> float:
        """Predicted, of all it has accepted."""
        return seconds_left(self.requests.values())

    async def run(self) -> None:
        """Starts processes, one after the end of the other, until cancelled."""
        while True:
            was_ready = False
            try:
                was_ready = await self._run_process()
            except Exception:  # such as too many open files
                log.exception("engine process %d could not be run", self.index, extra={"worker": self.index})
            if not self.started.done():
                reason = "the engine process ended without a word; see its log"
                self.started.set_exception(EngineUnavailable(reason))
            if self.started.exception() is not None:
                return
            self.failed_starts = 0 if was_ready else self.failed_starts + 1
            log.error("engine process %d ended; starting it again", self.index, extra={"worker": self.index})
            self.restarts += 1
            try:
                self._take_stock()
            except Exception:  # what has not left waits here for the next process
                log.exception("after the end of engine process %d", self.index, extra={"worker": self.index})
            if not was_ready:
                await asyncio.sleep(min(2.0**self.failed_starts, MAX_RESTART_DELAY))

    async def _run_process(self) -> bool:
        """One process from its start to its end: whether it was ready."""
        self.process = EngineProcess(self.config, self.index, self._receive, self.in_process)
        try:
            await self.process.start()
            await self.process.ended
        finally:
            self.ready, was_ready = False, self.ready
            self._disarm()
            await self.process.stop(STOP_SECONDS if was_ready else 0.0)  # while it loads it takes no orders
        return was_ready

    def add(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self._dispatch()

    def remove(self, request: Request) -> None:
        """Forgets a ticket, done or not; the device is free of it within a step."""
        if self.requests.pop(request.request_id, None) is None:
            return
        if request.sent and request.missing and self.process is not None:
            self.process.send(Cancel(request.request_id))
        if request.missing:
            self.wasted_seconds += request.seconds_spent
        self._dispatch()

    def _receive(self, report: Report) -> None:
        if isinstance(report, Event):
            if report.request_id in self.requests:
                self._tell(self.requests[report.request_id], report)
        elif isinstance(report, StepReport):
            if self.costs is not None:
                self.costs = self.costs.corrected(report)
            self.last_step = report
            self._arm()
            try:
                self._on_step(report)
            except Exception:  # the caller's code: its failure must not cost a request
                log.exception("on_step failed on a report of engine process %d", self.index)
        elif isinstance(report, Ready):
            self.costs, self.ready = report.costs, True
            if not self.started.done():
                self.started.set_result(report)
            self._dispatch()
        elif isinstance(report, StartFailed) and not self.started.done():
            self.started.set_exception(report.error)

    def _tell(self, request: Request, event: Event) -> None:
        request.receive(event)
        if request.done:
            self.remove(request)

    def _dispatch(self) -> None:
        """Sends what may be sent: everything, or, while there are suspects, one of them alone at a time."""
        suspects = [request for request in self.requests.values() if request.deaths]
        if self.ready and not suspects:
            self._submit(request for request in self.requests.values() if not request.sent)
        elif self.ready and not any(request.sent for request in self.requests.values()):
            self._submit(suspects[:1])
        if self._watchdog is None or not self.requests:
            self._arm()

    def _submit(self, requests: Iterable[Request]) -> None:
        assert self.process is not None
        for request in requests:
            request.sent = True
            order = Submit(request.request_id, request.params, request.missing, request.arrived, request.deadline)
            self.process.send(order)

    def _take_stock(self) -> None:
        """After a process ended: what it had begun is suspect, and fails when it was begun by too many."""
        for request in self.requests.values():
            self.wasted_seconds += request.seconds_spent
            self.retries += request.sent
            request.engine_ended()
        for request in list(self.requests.values()):
            if request.deaths >= MAX_DEATHS:
                message = f"the engine process ended {request.deaths} times while it drew this picture"
                self._tell(request, Failed(request.request_id, GenerationFailed(message)))
            elif not self.usable:
                message = "the engine process ended and does not start again; try again later"
                self._tell(request, Failed(request.request_id, EngineUnavailable(message)))
            elif not request.deaths:
                self._on_orphan(request)

    def _arm(self) -> None:
        """Winds the watchdog up while the process has something to do."""
        self._disarm()
        if self.costs is None or not self.ready or not any(request.sent for request in self.requests.values()):
            return
        longest = max(
            max(
                self.costs.step_seconds(request.tokens),
                self.costs.decode_seconds(request.params.width * request.params.height),
            )
            for request in self.requests.values()
        )
        limit = self.config.hang_seconds + LONG_STEPS * longest
        self._watchdog = asyncio.get_running_loop().call_later(limit, self._hang, limit)

    def _disarm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _hang(self, limit: float) -> None:
        log.error("engine process %d has said nothing for %.0f s", self.index, limit, extra={"worker": self.index})
        if self.process is not None:
            self.process.kill()
