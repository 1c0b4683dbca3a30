"""Supervision of one device's engine process: a hang watchdog, restarts, and another try of unfinished requests."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable

from .admission import seconds_left
from .config import EngineConfig
from .costs import CostModel, grid_size, request_seconds
from .errors import EngineUnavailable, GenerationFailed
from .messages import Cancel, Ready, Report, StartFailed, Submit
from .process import EngineProcess
from .request import Request
from .stats import StepReport
from .types import Event, Failed

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
MAX_CRASHES = 2
MAX_FAILED_STARTS = 3
MAX_RESTART_DELAY = 60.0
LOADING_LOG_SECONDS, LOADING_LOGS = 30.0, 4
"""Maximum seconds between log lines about a process that is loading, and minimum number of parts of its time."""
REPRICE = 1.1
LONG_STEPS = 10.0
"""Factor on the predicted seconds of a step before its process counts as hung; other programs may use the machine."""


class Replica:
    """Owner of the requests of one device until they are done. Run `run` as a task, and cancel the task to stop.

    Args:
        on_step: called with every StepReport.
        on_orphan: called with each request that had not started when its process ended; another replica may take it.
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
        self.memory_limit_bytes = 0
        self.costs: CostModel | None = None
        self._priced: dict[str, float] = {}  # the slowdown by phase at which the accepted requests are priced
        self._on_step, self._on_orphan = on_step, on_orphan
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether the replica generates images, or will again within seconds."""
        return self.started.done() and self.failed_starts < MAX_FAILED_STARTS

    @property
    def interactive(self) -> list[Request]:
        """The requests that do not run in the background: others have no effect on how long these wait."""
        return [request for request in self.requests.values() if not request.params.background]

    @property
    def seconds_left(self) -> float:
        """Predicted seconds of the work it has accepted, without what runs in the background."""
        return seconds_left(self.interactive)

    async def run(self) -> None:
        """Starts a process, and another one whenever it ends, until cancelled."""
        while True:
            was_ready = False
            try:
                was_ready = await self._run_process()
            except Exception:  # such as too many open files
                log.exception("engine process %d could not be started", self.index, extra={"worker": self.index})
            reason = self.process.exit_reason if self.process is not None else "exited"
            if not self.started.done():
                message = f"the engine process {reason} during start-up; see its log"
                self.started.set_exception(EngineUnavailable(message))
            if self.started.exception() is not None:
                return
            self.failed_starts = 0 if was_ready else self.failed_starts + 1
            log.error("engine process %d %s; restarting it", self.index, reason, extra={"worker": self.index})
            self.restarts += 1
            try:
                self._requeue()
            except Exception:  # requests that were not moved wait here for the next process
                log.exception("requests of process %d could not be moved", self.index, extra={"worker": self.index})
            if not was_ready:
                await asyncio.sleep(min(2.0**self.failed_starts, MAX_RESTART_DELAY))

    async def _run_process(self) -> bool:
        """Runs one process from start to end, and returns whether it was ever ready."""
        self.process = EngineProcess(self.config, self.index, self._receive, self.in_process)
        loading = asyncio.create_task(self._watch_loading(self.process))
        try:
            await self.process.start()
            await self.process.ended
        finally:
            loading.cancel()
            self.ready, was_ready = False, self.ready
            self._disarm_watchdog()
            ended = self.process.ended
            loads = not was_ready and (ended.cancelled() or not ended.done())  # and so reads no commands
            await self.process.stop(0.0 if loads else STOP_SECONDS)
        return was_ready

    async def _watch_loading(self, process: EngineProcess) -> None:
        """Logs now and then that a process is still loading, and kills it after `start_seconds`."""
        started, limit = time.monotonic(), self.config.start_seconds
        every = min(LOADING_LOG_SECONDS, limit / LOADING_LOGS)
        while (seconds := time.monotonic() - started) < limit:
            await asyncio.sleep(min(every, limit - seconds))
            if self.ready or self.in_process:  # a thread cannot be killed
                return
            if (seconds := time.monotonic() - started) < limit:
                message = "engine process %d is still loading after %.3g s"
                log.info(message, self.index, seconds, extra={"worker": self.index})
        message = f"engine process {self.index} was not ready within {limit:g} s; allow more with --start-seconds"
        if self.started.done():
            log.error("%s; killing it", message, extra={"worker": self.index})
        else:
            self.started.set_exception(EngineUnavailable(message))
        process.kill()

    def add(self, request: Request) -> None:
        """Takes a request, and sends it to the process as soon as that is possible."""
        self.requests[request.request_id] = request
        self._dispatch()

    def remove(self, request: Request) -> None:
        """Drops a request, done or not; the device stops working on it within a step."""
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
                self._deliver(self.requests[report.request_id], report)
        elif isinstance(report, StepReport):
            if self.costs is not None:
                self.costs = self.costs.corrected(report)
                self._reprice(report.phase)
            self.last_step = report
            self._arm_watchdog()
            try:
                self._on_step(report)
            except Exception:  # an error in the caller's code must not fail a request
                log.exception("on_step failed on a report of engine process %d", self.index)
        elif isinstance(report, Ready):
            self.costs, self.memory_limit_bytes, self.ready = report.costs, report.memory.total, True
            self._priced.clear()
            if not self.started.done():
                self.started.set_result(report)
            self._dispatch()
        elif isinstance(report, StartFailed) and not self.started.done():
            self.started.set_exception(report.error)

    def _reprice(self, phase: str) -> None:
        """Predicts the accepted requests again once a phase takes `REPRICE` times as long, or less long, than then."""
        assert self.costs is not None
        if 1 / REPRICE < self.costs.slowdown(phase) / self._priced.get(phase, 1.0) < REPRICE:
            return
        self._priced[phase] = self.costs.slowdown(phase)
        model = self.started.result().model
        for request in self.requests.values():
            request.seconds = request_seconds(request.params, model, self.costs)

    def _deliver(self, request: Request, event: Event) -> None:
        request.receive(event)
        if request.done:
            self.remove(request)

    def _dispatch(self) -> None:
        """Sends every request that is not sent; after a crash, the suspects first and one at a time.

        A suspect had started when a process ended. Alone, it cannot take other requests with it if it is the cause.
        Suspects of the background wait until there are no other requests.
        """
        requests, interactive = list(self.requests.values()), self.interactive
        suspects = [request for request in requests if request.crashes]
        if not self.ready or any(request.sent for request in suspects):
            pass
        elif not suspects:
            self._submit(request for request in requests if not request.sent)
        elif interactive and not any(request.crashes for request in interactive):
            self._submit(request for request in interactive if not request.sent)
        elif not any(request.sent for request in requests):
            self._submit(sorted(suspects, key=lambda request: request.params.background)[:1])
        if self._watchdog is None or not self.requests:
            self._arm_watchdog()

    def _submit(self, requests: Iterable[Request]) -> None:
        assert self.process is not None
        for request in requests:
            request.sent = True
            command = Submit(request.request_id, request.params, request.missing, request.arrived, request.deadline)
            self.process.send(command)

    def _requeue(self) -> None:
        """Prepares every request for another process; one that had started in MAX_CRASHES processes fails."""
        for request in self.requests.values():
            self.wasted_seconds += request.seconds_spent
            self.retries += request.sent
            request.reset()
        for request in list(self.requests.values()):
            if request.crashes >= MAX_CRASHES:
                message = f"the engine process ended {request.crashes} times while generating this request"
                self._deliver(request, Failed(request.request_id, GenerationFailed(message)))
            elif not self.usable:
                message = "the engine process ended and cannot be restarted; try again later"
                self._deliver(request, Failed(request.request_id, EngineUnavailable(message)))
            elif not request.crashes:
                self._on_orphan(request)

    def _arm_watchdog(self) -> None:
        """Restarts the timer of the watchdog if the process has work, and stops it otherwise."""
        self._disarm_watchdog()
        if self.costs is None or not self.ready or not any(request.sent for request in self.requests.values()):
            return
        model = self.started.result().model
        longest = max(
            max(
                self.costs.step_seconds(request.tokens),
                self.costs.decode_seconds(math.prod(grid_size(request.params, model))),
            )
            for request in self.requests.values()
        )
        limit = self.config.hang_seconds + LONG_STEPS * longest
        self._watchdog = asyncio.get_running_loop().call_later(limit, self._kill_hung, limit)

    def _disarm_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _kill_hung(self, limit: float) -> None:
        message = "engine process %d sent no report for %.0f s; killing it"
        log.error(message, self.index, limit, extra={"worker": self.index})
        if self.process is not None:
            self.process.kill()
