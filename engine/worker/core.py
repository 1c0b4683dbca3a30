"""The engine's loop: schedule, run, update. Runs in the engine process, or in a script or test."""

import importlib.util
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import torch

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.dtypes import DTYPES, DtypeChoice, choose_dtype
from ..checkpoints.loader import choose_device, encoder_bytes, load_models, open_checkpoint, require_compiler
from ..config import EngineConfig
from ..costs import grid_size, image_tokens, is_guided
from ..errors import EngineUnavailable
from ..logs import request_fields
from ..messages import Submit
from ..params import check_params
from ..stats import Forwards, StepReport
from ..types import Event, Failed, Finished, ModelInfo, Preview, Progress, Started
from .device_scheduler import DeviceScheduler
from .faults import is_fatal, is_out_of_memory, user_error
from .image_files import encode_image, encode_preview
from .image_task import Batch, ImageTask, Phase
from .memory import memory_model, prompt_cache_bytes
from .repaint import keep_unmasked
from .runner import ModelRunner, require_state
from .stopwatch import Stopwatch
from .warmup import measure_costs

log = logging.getLogger(__name__)

ENCODER_THREADS = 2
MAX_DECODED_IMAGES = 8
"""Maximum images that are decoded and not compressed; then the device waits for the encoder threads."""
MAX_SIDE = 4096
"""Longest side of an image in pixels."""


class EngineCore:
    """Generator of images on one device. Submit requests and call `step` while `busy`.

    Args:
        emit: called with events and step reports, from the thread that calls `step` and from the encoder threads.
        index: index of the device in the configuration.
    """

    def __init__(self, config: EngineConfig, emit: Callable[[Event | StepReport], None], index: int = 0) -> None:
        refuse_foreign_kernels()
        device = choose_device(config.devices[index])
        require_compiler(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # the device of Triton's launches and of new streams
        checkpoint = open_checkpoint(config.model, DTYPES.get(config.dtype))
        choice = choose_dtype(config.dtype, device, checkpoint.trained_dtype, checkpoint.transformer.width)
        dtype = choice.dtype
        started = time.monotonic()
        models = load_models(checkpoint, device, dtype, config.quantization)
        cache_bytes = prompt_cache_bytes(device, config.prompt_cache_bytes)
        self.runner = ModelRunner(models, checkpoint, cache_bytes, config.exact)
        later_bytes = encoder_bytes(checkpoint, dtype)  # loaded with the first image to repaint
        self.model = model_info(checkpoint, device, choice, takes_images=later_bytes > 0)
        if config.cuda_graphs and device.type == "cuda":
            self.runner.capture_graphs(config.max_batch_tokens)
        # After the graphs, which take memory.
        self.memory = memory_model(checkpoint, device, dtype, cache_bytes + later_bytes)
        if device.type != "cuda":
            self.runner.decoder.memory = self.memory
        costs = measure_costs(self.runner, self.model)
        seconds = time.monotonic() - started
        chosen = f"{choice.name} ({choice.reason})"
        log.info("loaded and warmed up %s on %s in %s after %.1f s", self.model.id, device, chosen, seconds)
        # Out of memory ends the whole process on the CPU, so a batch must fit as each of its images does.
        batch_tokens = min(config.max_batch_tokens, self.memory.capacity // self.memory.token)
        self.scheduler = DeviceScheduler(
            costs, batch_tokens, config.max_step_seconds, config.max_queue_seconds, config.exact
        )
        self._index = index
        self._png_metadata = config.png_metadata
        self._emit = emit
        self._encoders = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode-image")
        self._decoded_slots = threading.BoundedSemaphore(MAX_DECODED_IMAGES)
        self._costs_lock = threading.Lock()
        self._unreported: tuple[Batch, Stopwatch, Forwards] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a step to run. If not, images may still be in the encoder threads."""
        return self.scheduler.busy

    def submit(self, command: Submit) -> None:
        """Queues the images of a request. Raises InvalidParams."""
        params = command.params
        check_params(params, self.model)
        size, tokens = grid_size(params, self.model), image_tokens(params, self.model)
        guided = is_guided(params, self.model)
        if not guided:
            params = replace(params, negative_prompt="")  # it has no effect, so the file must not record it
        of_request = (params, size, guided, tokens, command.arrived, command.deadline, params.start_step)
        for index in range(params.n) if command.images is None else command.images:
            self.scheduler.add(ImageTask(command.request_id, index, *of_request))

    def cancel(self, request_id: str) -> None:
        """Drops a request, queued or running, without an event."""
        self.scheduler.remove(request_id)

    def step(self) -> None:
        """Runs one batch."""
        self.advance(self.scheduler.schedule(time.monotonic()))
        if not self.busy:
            self.report_last_batch()

    def close(self) -> None:
        """Waits for the images in the encoder threads."""
        self._encoders.shutdown()

    def advance(self, batch: Batch) -> None:
        """Runs a batch, and recovers from its failure."""
        try:
            self.run(batch)
        except Exception as error:
            self.recover(batch, error)
        else:
            self.update(batch)

    def run(self, batch: Batch) -> None:
        """Launches a batch. The host waits for it only after launching the next, so that the device never idles."""
        if batch.phase is Phase.DECODE:
            self.decode(batch.tasks[0])
            return
        watch = Stopwatch(self.runner.device)
        if batch.phase is Phase.ENCODE:
            self.start(batch)
            forwards = self.runner.encode(batch.tasks)
        elif batch.phase is Phase.ENCODE_IMAGE:
            forwards = self.runner.encode_image(batch.tasks)
        else:
            forwards = self.runner.denoise(batch.tasks)
        watch.stop()
        self.report_last_batch()
        self._unreported = (batch, watch, forwards)
        if self.runner.device.type != "cuda":  # the CPU runs a batch at its launch
            self.report_last_batch()

    def report_last_batch(self) -> None:
        """Waits for the batch that is not reported yet, if there is one, and reports it."""
        if self._unreported is not None:
            (batch, watch, forwards), self._unreported = self._unreported, None
            self.report(batch, watch.seconds(), forwards)

    def update(self, batch: Batch) -> None:
        """Updates the tasks of a batch that was run, and emits their progress."""
        now = time.monotonic()
        for task in batch.tasks:
            if batch.phase in (Phase.ENCODE, Phase.ENCODE_IMAGE):
                task.image_encoded |= batch.phase is Phase.ENCODE_IMAGE
                task.encoded = task.denoised = now
            elif batch.phase is Phase.DENOISE:
                task.step += 1
                task.denoised = now
                done, steps = task.step - task.params.start_step, task.params.denoise_steps
                self._emit(Progress(task.request_id, task.image_index, done, steps))

    def start(self, batch: Batch) -> None:
        """Marks the tasks of a batch as started, and emits that once each."""
        now = time.monotonic()
        for task in batch.tasks:
            if not task.started:
                task.started = now
                self._emit(Started(task.request_id))

    def decode(self, task: ImageTask) -> None:
        """Decodes a finished image, which leaves the batch, or a preview of one that stays."""
        started, preview = time.monotonic(), None if task.denoise_done else task.previews
        pixels = self.runner.decode(task)
        if preview is None:
            self.scheduler.finish(task)
        else:
            task.previews += 1
        self._decoded_slots.acquire()
        before = task.delivered
        task.delivered = self._encoders.submit(self.deliver, task, preview, pixels, started, before)

    def deliver(
        self,
        task: ImageTask,
        preview: int | None,
        pixels: Callable[[], np.ndarray],
        started: float,
        before: Future[None] | None,
    ) -> None:
        """Encoder thread: waits for the pixels, compresses them and emits the file, after the one `before` it."""
        try:
            decoded_image = pixels()
            decoded = time.monotonic()
            self.report(Batch(Phase.DECODE, (task,)), decoded - started, self.runner.decode_forwards(task))
            keep_unmasked(decoded_image, task.params)
            described = (task.params, task.seed, self.model.id, self._png_metadata)
            event: Event
            if preview is None:
                image = encode_image(decoded_image, *described)
                timings = task.timings(decoded)
                tokens = require_state(task).text_tokens
                event = Finished(task.request_id, task.image_index, task.seed, image, timings, tokens)
            else:
                file, width, height = encode_preview(decoded_image, *described)
                event = Preview(task.request_id, task.image_index, preview, file, width, height)
        except Exception as error:
            fields = request_fields(task.request_id)
            log.error("image %d of %s failed", task.image_index, task.request_id, exc_info=error, extra=fields)
            event = Failed(task.request_id, user_error(error))
        finally:
            self._decoded_slots.release()
        if before is not None:
            wait((before,))  # a preview that arrives after its image would replace it on the screen
        self._emit(event)

    def report(self, batch: Batch, seconds: float, forwards: Forwards) -> None:
        """Emits the report of a batch, and corrects the predicted costs by it."""
        denoise, autoencoder = batch.phase is Phase.DENOISE, batch.phase in (Phase.DECODE, Phase.ENCODE_IMAGE)
        report = StepReport(
            worker=self._index,
            phase=batch.phase.value,
            seconds=seconds,
            tokens=batch.tokens if denoise else 0,
            token_budget=self.scheduler.token_budget,
            pixels=batch.tasks[0].pixels if autoencoder else 0,
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
        """Runs the images of a failed batch one by one, so that only the request of the faulty image fails.

        An unusable device ends the process: the client starts another and sends its requests again.
        """
        if is_fatal(error):
            raise error
        tasks = batch.tasks
        if len(tasks) > 1:
            log.warning("%s of %d images failed, running them one by one: %s", batch.phase.value, len(tasks), error)
            if is_out_of_memory(error) and batch.phase is Phase.DENOISE:
                self.scheduler.shrink(batch.tokens)
            for task in tasks:
                if task in self.scheduler.running:
                    self.advance(Batch(batch.phase, (task,)))
        elif is_out_of_memory(error) and batch.phase is not Phase.DENOISE and self.runner.shrink_bands():
            self.advance(batch)
        else:
            request_id = tasks[0].request_id
            fields = request_fields(request_id)
            log.error("%s of %s failed", batch.phase.value, request_id, exc_info=error, extra=fields)
            self.scheduler.remove(request_id)
            self._emit(Failed(request_id, user_error(error)))


def model_info(
    checkpoint: Checkpoint, device: torch.device, dtype: DtypeChoice, takes_images: bool = False
) -> ModelInfo:
    """Description of a checkpoint as it runs on this device."""
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
        dtype=dtype.name,
        dtype_reason=dtype.reason,
        guidance_branch=not checkpoint.transformer.guidance_embeds,
        takes_images=takes_images,
    )


def refuse_foreign_kernels() -> None:
    """Raises EngineUnavailable if Hugging Face's `kernels` is installed: it overwrites our package of that name."""
    try:
        distribution("kernels")
    except PackageNotFoundError:
        return
    spec = importlib.util.find_spec("kernels")
    raise EngineUnavailable(
        f"Hugging Face's package 'kernels' conflicts with sana-serve's own ({spec.origin if spec else '?'}): "
        "run `pip uninstall kernels` and reinstall sana-serve"
    )
