"""The engine's loop: schedule, run, update. Lives in the engine process, or in a script or test."""

import importlib.util
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import torch

from ..checkpoints.diffusers import Checkpoint, open_checkpoint
from ..checkpoints.loader import DTYPES, choose_device, choose_dtype, load_models, require_compiler
from ..config import EngineConfig
from ..costs import image_tokens, is_guided
from ..errors import EngineUnavailable, GenerationFailed, SanaError
from ..logs import named
from ..messages import Submit
from ..params import check_params
from ..stats import Forwards, StepReport
from ..types import Event, Failed, Finished, ModelInfo, Preview, Progress, Started
from .faults import explain, is_fatal, is_out_of_memory
from .image_files import encode_image
from .image_task import Batch, ImageTask, Phase
from .memory import memory_model
from .runner import ModelRunner, state_of
from .scheduler import Scheduler
from .stopwatch import Stopwatch
from .warmup import measure_costs

log = logging.getLogger(__name__)

ENCODER_THREADS = 2
MAX_DECODED_IMAGES = 8
"""Pictures decoded and not yet compressed; a faster device waits for the encoder threads."""
MAX_SIDE = 4096


class EngineCore:
    """Submit requests, call `step` while `busy`, receive events and step reports through `emit`.

    Args:
        emit: called from the thread that steps and from the encoder threads.
        index: which of the configured devices this is.
    """

    def __init__(self, config: EngineConfig, emit: Callable[[Event | StepReport], None], index: int = 0) -> None:
        refuse_foreign_kernels()
        device = choose_device(config.devices[index])
        require_compiler(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where Triton launches, and where new streams belong
        checkpoint = open_checkpoint(config.model, DTYPES.get(config.dtype))
        dtype = choose_dtype(config.dtype, device, checkpoint.trained_dtype)
        started = time.monotonic()
        models = load_models(checkpoint, device, dtype, config.quantization)
        self.runner = ModelRunner(models, checkpoint, config.prompt_cache_bytes, config.exact)
        self.model = model_info(checkpoint, device, dtype)
        if config.cuda_graphs:
            self.runner.capture_graphs(config.max_batch_tokens)
        self.memory = memory_model(checkpoint, device, dtype)  # of what the graphs leave
        costs = measure_costs(self.runner, self.model)
        log.info("%s is warm on %s in %s after %.1f s", self.model.id, device, dtype, time.monotonic() - started)
        self.scheduler = Scheduler(
            costs, config.max_batch_tokens, config.max_step_seconds, config.max_queue_seconds, config.exact
        )
        self._index = index
        self._emit = emit
        self._encoders = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode-image")
        self._decoded_slots = threading.BoundedSemaphore(MAX_DECODED_IMAGES)
        self._costs_lock = threading.Lock()
        self._unsettled: tuple[Batch, Stopwatch, Forwards] | None = None

    @property
    def busy(self) -> bool:
        """There is a step to take. Images may still be in the encoder threads when there is none."""
        return self.scheduler.busy

    def submit(self, order: Submit) -> None:
        """Queues the images of a request. Raises InvalidParams."""
        params = order.params
        check_params(params, self.model)
        guided, tokens = is_guided(params, self.model), image_tokens(params, self.model)
        for index in range(params.n) if order.images is None else order.images:
            task = ImageTask(order.request_id, index, params, guided, tokens, order.arrived, order.deadline)
            self.scheduler.add(task)

    def cancel(self, request_id: str) -> None:
        """Forgets a request, queued or running; nothing more is said of it."""
        self.scheduler.remove(request_id)

    def step(self) -> None:
        """Advances the engine by one batch."""
        self.advance(self.scheduler.schedule(time.monotonic()))
        if not self.busy:
            self.settle()

    def close(self) -> None:
        """Waits for images being encoded."""
        self._encoders.shutdown()

    def advance(self, batch: Batch) -> None:
        try:
            self.run(batch)
        except Exception as error:
            self.recover(batch, error)
        else:
            self.update(batch)

    def run(self, batch: Batch) -> None:
        """Gives the device its next work. It is waited for when the work after it is queued: no device idles."""
        if batch.phase is Phase.DECODE:
            self.decode(batch.tasks[0])
            return
        watch = Stopwatch(self.runner.device)
        if batch.phase is Phase.ENCODE:
            self.begin(batch)
            forwards = self.runner.encode(batch.tasks)
        else:
            forwards = self.runner.denoise(batch.tasks)
        watch.stop()
        self.settle()
        self._unsettled = (batch, watch, forwards)
        if self.runner.device.type == "cpu":  # which queues nothing: it is done
            self.settle()

    def settle(self) -> None:
        """Waits for the work before the last one queued, and reports it."""
        if self._unsettled is not None:
            (batch, watch, forwards), self._unsettled = self._unsettled, None
            self.report(batch, watch.seconds(), forwards)

    def update(self, batch: Batch) -> None:
        """What a batch has changed, told."""
        now = time.monotonic()
        for task in batch.tasks:
            if batch.phase is Phase.ENCODE:
                task.encoded = task.denoised = now
            elif batch.phase is Phase.DENOISE:
                task.step += 1
                task.denoised = now
                steps = task.params.num_inference_steps
                self._emit(Progress(task.request_id, task.image_index, task.step, steps))

    def begin(self, batch: Batch) -> None:
        now = time.monotonic()
        for task in batch.tasks:
            if not task.started:
                task.started = now
                self._emit(Started(task.request_id))

    def decode(self, task: ImageTask) -> None:
        """A finished image leaves the pack; a preview is drawn of one that stays."""
        started, preview = time.monotonic(), None if task.denoise_done else task.previews
        pixels = self.runner.decode(task)
        if preview is None:
            self.scheduler.finish(task)
        else:
            task.previews += 1
        self._decoded_slots.acquire()
        before = task.handed_out
        task.handed_out = self._encoders.submit(self.hand_out, task, preview, pixels, started, before)

    def hand_out(
        self,
        task: ImageTask,
        preview: int | None,
        pixels: Callable[[], np.ndarray],
        started: float,
        before: Future[None] | None,
    ) -> None:
        """Encoder thread: waits for the pixels, compresses them and sends the file, after those `before` it."""
        try:
            decoded_image = pixels()
            decoded = time.monotonic()
            self.report(Batch(Phase.DECODE, (task,)), decoded - started, self.runner.decode_forwards(task))
            image = encode_image(decoded_image, task.params, task.seed, self.model.id)
            event: Event
            if preview is None:
                timings = task.timings(decoded)
                tokens = state_of(task).text_tokens
                event = Finished(task.request_id, task.image_index, task.seed, image, timings, tokens)
            else:
                event = Preview(task.request_id, task.image_index, preview, image)
        except Exception as error:
            about = named(task.request_id)
            log.error("image %d of %s failed", task.image_index, task.request_id, exc_info=error, extra=about)
            event = Failed(task.request_id, user_error(error))
        finally:
            self._decoded_slots.release()
        if before is not None:
            wait((before,))  # it was begun first; a preview told after its image would replace it on the screen
        self._emit(event)

    def report(self, batch: Batch, seconds: float, forwards: Forwards) -> None:
        denoise, decode = batch.phase is Phase.DENOISE, batch.phase is Phase.DECODE
        report = StepReport(
            worker=self._index,
            phase=batch.phase.value,
            seconds=seconds,
            tokens=batch.tokens if denoise else 0,
            token_budget=self.scheduler.token_budget,
            pixels=batch.tasks[0].pixels if decode else 0,
            images=len(batch.tasks),
            requests=len({task.request_id for task in batch.tasks}),
            prompt_cache_hits=self.runner.cache.hits,
            prompt_cache_misses=self.runner.cache.misses,
            memory_bytes=self.runner.memory_bytes,
            forwards=forwards,
        )
        with self._costs_lock:
            self.scheduler.costs = self.scheduler.costs.corrected(report)
        self._emit(report)

    def recover(self, batch: Batch, error: Exception) -> None:
        """A batch that raised: alone, each of its images shows whether it is at fault; the one that is fails.

        A device that is lost takes the process with it: the client starts another and asks again.
        """
        if is_fatal(error):
            raise error
        tasks = batch.tasks
        if len(tasks) > 1:
            log.warning("%s of %d images failed, trying one by one: %s", batch.phase.value, len(tasks), error)
            if is_out_of_memory(error) and batch.phase is Phase.DENOISE:
                self.scheduler.shrink(batch.tokens)
            for task in tasks:
                if task in self.scheduler.running:
                    self.advance(Batch(batch.phase, (task,)))
        elif is_out_of_memory(error) and batch.phase is Phase.DECODE and self.runner.shrink_bands():
            self.advance(batch)
        else:
            request_id = tasks[0].request_id
            log.error("%s of %s failed", batch.phase.value, request_id, exc_info=error, extra=named(request_id))
            self.scheduler.remove(request_id)
            self._emit(Failed(request_id, user_error(error)))


def user_error(error: Exception) -> SanaError:
    """The error that the user sees."""
    return error if isinstance(error, SanaError) else GenerationFailed(explain(error))


def model_info(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> ModelInfo:
    side = checkpoint.transformer.sample_size * checkpoint.decoder.compression
    return ModelInfo(
        id=checkpoint.id,
        default_size=(side, side),
        default_steps=2 if checkpoint.solver.scm else 20,
        default_guidance=4.5,
        size_multiple=checkpoint.decoder.compression,
        max_side=MAX_SIDE,
        created=int(checkpoint.parts["vae"].stat().st_mtime),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        guidance_branch=not checkpoint.transformer.guidance_embeds,
    )


def refuse_foreign_kernels() -> None:
    """Hugging Face's package `kernels` writes into the folder of ours; together neither works."""
    try:
        distribution("kernels")
    except PackageNotFoundError:
        return
    spec = importlib.util.find_spec("kernels")
    raise EngineUnavailable(
        f"Hugging Face's package 'kernels' is installed beside sana-serve's own ({spec.origin if spec else '?'}): "
        "run `pip uninstall kernels` and install sana-serve again"
    )
