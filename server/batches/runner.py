"""The work on batches in a server: claims lines while the devices have room, commits what is done, and keeps house.

Results wait in memory until they are committed, and count as work in progress. So when the database does not answer,
the work pauses by itself, and goes on with the same results when it does.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.datastructures import State

from engine import SanaError

from ..http_errors import BatchStoreUnavailable
from ..writing import OutputError
from .database import Database
from .generation import PASSING_ERRORS, generate_line
from .jobs import Jobs
from .queue import HEARTBEAT_SECONDS, Line, Queue, Result
from .retention import Retention
from .stored_files import StoredFiles
from .validation import LeaseLost, validate
from .webhook import Webhook

log = logging.getLogger("sana.batches")
CLAIM_LINES = 8
"""Lines of one claim: few, so that several batches take turns."""
POLL_SECONDS = 1.0  # until lines that another server queued or gave back are noticed
SWEEP_SECONDS = 30.0
STOP_SECONDS = 5.0
FIRST_PAUSE, MAX_PAUSE = 0.5, 10.0


class StorageFull(SanaError):
    """The batches hold as many bytes as they may."""


class BatchRunner:
    """The batches of a server, and its part of the work on them. Call `start` on the event loop, and `stop`.

    Args:
        state: of the application, with its engine, settings, metrics and file store.
    """

    def __init__(self, database: Database, state: State) -> None:
        config = state.config
        self.files, self.jobs = StoredFiles(database), Jobs(database)
        self.retention = Retention(database, config.batch_max_age, config.batch_max_bytes)
        self.reason = ""  # why the work pauses
        self._database, self._state = database, state
        self._queue = Queue(database, config.batch_max_age)
        self._webhook = Webhook(database, config.webhook_url, config.webhook_secret) if config.webhook_url else None
        self._generating: dict[asyncio.Task[None], Line] = {}
        self._results: list[Result] = []
        self._released: list[Line] = []
        self._wake, self._created = asyncio.Event(), asyncio.Event()
        self._full = False
        # Threads of their own: a database that hangs must not take those that other requests need.
        self._threads = ThreadPoolExecutor(5, thread_name_prefix="batches")
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        every = {
            self._work: 0.0,
            self._validate: 0.0,
            self._keep_lease: HEARTBEAT_SECONDS,
            self._sweep: SWEEP_SECONDS,
            self._notify: POLL_SECONDS,
        }
        self._loops = [asyncio.create_task(self._repeat(action, seconds)) for action, seconds in every.items()]

    def wake(self) -> None:
        """Lets the work go on at once, such as when there is a new batch."""
        self._wake.set()
        self._created.set()

    async def stop(self) -> None:
        """Ends the work at the next step, and gives the lines that are not done back to the queue."""
        if not self._loops:
            return
        tasks = [*self._loops, *self._generating]
        self._loops = []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(BatchStoreUnavailable, TimeoutError):  # else the leases end by themselves
            async with asyncio.timeout(STOP_SECONDS):
                await self._commit()
                await self._in_thread(self._queue.leave)

    def close(self) -> None:
        """Closes the database, after `stop` and the last request."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._database.close()

    async def _repeat(self, action: Callable[[], Any], seconds: float) -> None:
        """Runs the action again and again; after an error with growing pauses."""
        pause = 0.0
        while True:
            try:
                await action()
                pause = 0.0
            except (BatchStoreUnavailable, OutputError, StorageFull) as error:
                self._pause(getattr(error, "reason", "") or str(error))
                pause = min(max(FIRST_PAUSE, 2 * pause), MAX_PAUSE)
            except Exception:
                log.exception("batches: %s failed", action.__name__)
                pause = MAX_PAUSE
            else:
                if action == self._work:
                    self._resume()
            await asyncio.sleep(max(seconds, pause))

    async def _work(self) -> None:
        """One round: commits what is done, claims lines while there is room, and waits for either to change."""
        self._wake.clear()
        await self._commit()
        if self.reason:
            held = [*self._generating.values(), *(result.line for result in self._results), *self._released]
            await self._in_thread(self._queue.release_strays, held)
        while await self._in_thread(self._queue.advance):
            pass
        if self._full:
            raise StorageFull("the batches hold as many bytes as --batch-max-bytes allows; delete files")
        engine = self._state.engine
        while engine.ready and engine.background_room and not self._results:
            lines = await self._in_thread(self._queue.claim_lines, CLAIM_LINES)
            for line in lines:
                task = asyncio.create_task(self._generate(line))
                self._generating[task] = line
            if not lines:
                break
            await asyncio.sleep(0)  # so that the engine counts them
        await wait_for(self._wake)

    async def _generate(self, line: Line) -> None:
        try:
            self._results.append(await generate_line(line, self._state))
        except (asyncio.CancelledError, *PASSING_ERRORS) as error:
            self._released.append(line)
            if isinstance(error, OutputError):
                self._pause(str(error))
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._generating.pop(task, None)
            self._wake.set()

    async def _commit(self) -> None:
        """Stores the results and gives back the released lines; after an error they stay in memory."""
        results, released = list(self._results), list(self._released)
        if not results and not released:
            return
        counted = await self._in_thread(self._queue.commit, results, released)
        del self._results[: len(results)], self._released[: len(released)]
        if counted < len(results):
            log.warning("batches: %d results were too late; another server has their lines", len(results) - counted)
        for result in results:
            self._state.metrics.lines.labels("completed" if result.completed else "failed").inc()

    async def _keep_lease(self) -> None:
        """Renews the leases, and stops the lines of batches that were cancelled or have expired."""
        await self._in_thread(self._queue.renew)
        batch_ids = {line.batch_id for line in self._generating.values()}
        stopped = await self._in_thread(self._queue.stopped_batches, batch_ids)
        for task, line in list(self._generating.items()):
            if line.batch_id in stopped:
                task.cancel()
        self._state.metrics.waiting_lines.set(await self._in_thread(self.jobs.waiting_lines))
        self._full = await self._in_thread(self.retention.is_full)

    async def _validate(self) -> None:
        """Validates what is new here or on another server, and waits for more."""
        self._created.clear()
        while (batch := await self._in_thread(self._queue.claim_validation)) is not None:
            with contextlib.suppress(LeaseLost):
                limit = self._state.config.max_body_bytes
                arguments = (self._database, self._queue.owner, batch, limit, self.retention.is_full)
                await self._in_thread(validate, *arguments)
            self._wake.set()
        await wait_for(self._created)

    async def _sweep(self) -> None:
        await self._in_thread(self.retention.sweep)

    async def _notify(self) -> None:
        if self._webhook is not None:
            await self._in_thread(self._webhook.send_due)

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _pause(self, reason: str) -> None:
        if not self.reason:
            log.error("batches: paused: %s", reason)
        self.reason = reason
        self._state.metrics.paused.set(1)

    def _resume(self) -> None:
        if self.reason:
            log.info("batches: going on")
        self.reason = ""
        self._state.metrics.paused.set(0)


async def wait_for(event: asyncio.Event) -> None:
    """Waits for the event, or for POLL_SECONDS: what other servers do sets no event here."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await event.wait()
