"""The engine's loop: schedule, run, update. Lives in the engine process, or in a script or test."""

import importlib.util
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, distribution

import torch

from .checkpoint import Checkpoint, open_checkpoint
from .config import EngineConfig
from .errors import EngineUnavailable, GenerationFailed, SanaError
from .images import encode_png
from .loader import DTYPES, choose_device, choose_dtype, load_models
from .params import check_params
from .request import Batch, Phase, Request
from .runner import ModelRunner
from .scheduler import Scheduler
from .types import Event, Failed, Finished, GenerationParams, ModelInfo, Progress, Started

log = logging.getLogger(__name__)

ENCODER_THREADS = 2
MAX_SIDE = 4096


class EngineCore:
    """Submit requests, call `step` while `busy`, receive events through `emit`.

    Args:
        emit: called from the thread that steps and from the encoder threads.
    """

    def __init__(self, config: EngineConfig, emit: Callable[[Event], None]) -> None:
        refuse_foreign_kernels()
        device = choose_device(config.device)
        checkpoint = open_checkpoint(config.model, DTYPES.get(config.dtype))
        dtype = choose_dtype(config.dtype, device, checkpoint.trained_dtype)
        started = time.monotonic()
        models = load_models(checkpoint, device, dtype, config.quantization)
        self.runner = ModelRunner(models, checkpoint, config.prompt_cache_bytes)
        self.model = describe(checkpoint, device, dtype)
        log.info("loaded %s on %s in %s, %.1f s", self.model.id, device, dtype, time.monotonic() - started)
        self.scheduler = Scheduler(config.max_batch_tokens)
        self._emit = emit
        self._encoders = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode-image")

    @property
    def busy(self) -> bool:
        """There is a step to take. Images may still be in the encoder threads when there is none."""
        return self.scheduler.busy

    def submit(self, request_id: str, params: GenerationParams) -> None:
        """Queues the images of a request. Raises InvalidParams."""
        check_params(params, self.model)
        grid = self.model.size_multiple
        guided = self.runner.uses_guidance_branch and params.guidance_scale > 1
        for index in range(params.n):
            tokens = (params.width // grid) * (params.height // grid)
            self.scheduler.add(Request(request_id, index, params, tokens, forwards=2 if guided else 1))

    def cancel(self, request_id: str) -> None:
        """Forgets a request, queued or running; nothing more is said of it."""
        self.scheduler.remove(request_id)

    def step(self) -> None:
        """Advances the engine by one batch."""
        batch = self.scheduler.schedule()
        try:
            self.run(batch)
        except Exception as error:
            self.fail(batch, error)

    def close(self) -> None:
        """Waits for images being encoded."""
        self._encoders.shutdown()

    def run(self, batch: Batch) -> None:
        if batch.phase is Phase.ENCODE:
            self.encode(batch)
        elif batch.phase is Phase.DENOISE:
            self.denoise(batch)
        else:
            self.decode(batch.requests[0])

    def encode(self, batch: Batch) -> None:
        now = time.monotonic()
        for request in batch.requests:
            request.started = now
            if request.image_index == 0:
                self._emit(Started(request.request_id))
        self.runner.encode(batch.requests)
        self.runner.synchronize()
        for request in batch.requests:
            request.encoded = time.monotonic()

    def denoise(self, batch: Batch) -> None:
        self.runner.denoise(batch.requests)
        for request in batch.requests:
            request.step += 1
            steps = request.params.num_inference_steps
            self._emit(Progress(request.request_id, request.image_index, request.step, steps))

    def decode(self, request: Request) -> None:
        self.runner.synchronize()
        request.denoised = time.monotonic()
        pixels = self.runner.decode(request)
        timings = request.timings(decoded=time.monotonic())
        self.scheduler.finish(request)

        def encode_image() -> None:
            try:
                image = encode_png(pixels, request.params, request.seed, self.model.id)
                self._emit(Finished(request.request_id, request.image_index, request.seed, image, timings))
            except Exception as error:
                log.exception("image of request %s was not encoded", request.request_id)
                self._emit(Failed(request.request_id, GenerationFailed(f"the image was not encoded: {error}")))

        self._encoders.submit(encode_image)

    def fail(self, batch: Batch, error: Exception) -> None:
        """A batch that raised: its requests fail, the engine lives."""
        request_ids = {request.request_id for request in batch.requests}
        log.error("%s of requests %s failed", batch.phase.value, ", ".join(request_ids), exc_info=error)
        if not isinstance(error, SanaError):
            error = GenerationFailed(explain(error))
        for request_id in request_ids:
            self.scheduler.remove(request_id)
            self._emit(Failed(request_id, error))


def describe(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> ModelInfo:
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
    )


def explain(error: Exception) -> str:
    """One line for the user; the log has the rest."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return "the device ran out of memory for this picture; ask for a smaller size or fewer images"
    return f"the engine failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


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
