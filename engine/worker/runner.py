"""What runs on the device: encode prompts, one denoise step for a packed batch, decode an image. Holds the models."""

import time
from collections.abc import Callable

import numpy as np
import torch

from kernels.layout import upload

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.loader import Models
from ..models.sana import PackedText
from ..stats import Forwards
from .decoder import ImageDecoder
from .graphs import GraphRunner
from .image_task import ImageTask
from .memory import held_memory
from .pack import Pack, build_pack, denoise_step, packed_images, step_table
from .prompts import MAX_PROMPTS, Prompt, PromptCache, PromptEncoder
from .recorder import WARM_UP_SECONDS, Recorder
from .solver import Schedule, dpmpp_2m_schedule, scm_schedule
from .state import ImageState, unit_noise

MAX_GRAPH_TOKENS = 16384
"""Beyond it a step is long, and launching its kernels is not what takes the time."""
MAX_PACKS = 2
"""Packs kept laid out: that of the small images and that of the larger ones, which take turns."""


class ModelRunner:
    """The models on their device, and the phases of a batch."""

    def __init__(self, models: Models, checkpoint: Checkpoint, prompt_cache_bytes: int, exact: bool = False) -> None:
        self.models = models
        self.device = models.device
        self.config = checkpoint.transformer
        self.solver = checkpoint.solver
        self.compression = checkpoint.decoder.compression
        with torch.inference_mode():
            self.prompts = PromptEncoder(models.text_encoder, models.tokenizer, 1 if exact else MAX_PROMPTS)
            self.null_text = self._project(self.prompts.encode_negative([""])[0])
        self.cache = PromptCache(prompt_cache_bytes)
        self.decoder = ImageDecoder(models.decoder, checkpoint.decoder.scaling_factor, models.dtype)
        self.graphs: GraphRunner | None = None
        self._packs: list[Pack] = []

    def schedule(self, steps: int) -> Schedule:
        if self.solver.scm:
            return scm_schedule(steps, self.solver.sigma_data)
        return dpmpp_2m_schedule(steps, self.solver.flow_shift, self.config.timestep_scale)

    @torch.inference_mode()
    def encode(self, tasks: tuple[ImageTask, ...]) -> Forwards:
        """Gives each request its text and its first noise."""
        replayed, launched = self.prompts.replayed, self.prompts.launched
        negatives = [r.params.negative_prompt if r.guided else "" for r in tasks]
        prompts = [(r.params.prompt, False) for r in tasks] + [(text, True) for text in negatives if text.strip()]
        texts = iter(self.cache.get(prompts, self._encode_prompts))
        for task in tasks:
            task.state = self._first_state(task, next(texts))
        for task, negative in zip(tasks, negatives, strict=True):
            if task.guided:
                state_of(task).negative = next(texts) if negative.strip() else self.null_text
        return Forwards(self.prompts.replayed - replayed, self.prompts.launched - launched)

    def _first_state(self, task: ImageTask, text: PackedText) -> ImageState:
        params = task.params
        size = (params.height // self.compression, params.width // self.compression)
        schedule = self.schedule(params.num_inference_steps)
        generator = torch.Generator().manual_seed(task.seed)
        noise = upload(unit_noise(size, self.config.in_channels, generator), self.device) * schedule.initial_scale
        return ImageState(noise, torch.zeros_like(noise), size, generator, schedule, text, None)

    def _encode_prompts(self, prompts: list[Prompt]) -> list[PackedText]:
        positive = iter(self.prompts.encode([text for text, negative in prompts if not negative]))
        negatives = iter(self.prompts.encode_negative([text for text, negative in prompts if negative]))
        return [self._project(next(negatives if negative else positive)) for _, negative in prompts]

    def capture_graphs(self, max_tokens: int) -> None:
        """CUDA graphs of all phases, for denoise steps of up to so many rows."""
        if self.device.type != "cuda":
            return
        until = time.monotonic() + WARM_UP_SECONDS
        self.decoder.capture(until)
        recorder = Recorder(self.device, until)
        self.prompts.capture(recorder)
        graphs = GraphRunner(self.models.transformer, min(max_tokens, MAX_GRAPH_TOKENS), self.solver.scm)
        graphs.capture(recorder)
        if graphs.graphs:  # else its buffers are released again
            self.graphs = graphs

    @torch.inference_mode()
    def denoise(self, tasks: tuple[ImageTask, ...]) -> Forwards:
        """One step for every request, each at its own place in its own schedule: one forward of the transformer."""
        states = [state_of(task) for task in tasks]
        pack = self._pack_of(tasks, states)
        steps = [(state.schedule, task.step) for state, task in zip(states, tasks, strict=True)]
        guidance = [task.params.guidance_scale for task in tasks]
        table = step_table(steps, guidance, self.config.guidance_embeds_scale)
        pack.tensors.steps.copy_(upload(table, self.device))
        if pack.tensors.noise is not None:
            noise = [
                state.noise() if schedule.draws_noise(step) else torch.zeros(state.latents.shape)
                for state, (schedule, step) in zip(states, steps, strict=True)
            ]
            pack.tensors.noise.copy_(upload(torch.cat(noise), self.device))
        if pack.bucket is None:
            denoise_step(self.models.transformer, pack.tensors)
            return Forwards(launched=1)
        assert self.graphs is not None
        self.graphs.run(pack)
        return Forwards(replayed=1, graph_tokens=pack.bucket.rows)

    @torch.inference_mode()
    def decode(self, task: ImageTask) -> Callable[[], np.ndarray]:
        """Decodes a finished image, or the estimate of one on its way, as `ImageDecoder.decode`."""
        state = state_of(task)
        latents = state.latents if task.denoise_done else state.old_denoised * state.schedule.final_scale
        if task.denoise_done:
            self._packs = [pack for pack in self._packs if task not in pack.tasks]
        return self.decoder.decode(latents, state.size)

    def decode_forwards(self, task: ImageTask) -> Forwards:
        """What `decode` runs for it."""
        graph = state_of(task).size in self.decoder.graphs
        return Forwards(replayed=1) if graph else Forwards(launched=1)

    def shrink_bands(self) -> bool:
        """After too little memory for a decode. False when bands cannot be smaller."""
        self.release_memory()
        return self.decoder.shrink_bands()

    def release_memory(self) -> None:
        """Gives back what the allocator keeps at hand."""
        self._packs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Waits for the steps, not for the decoder, so that a stage's time is its own."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    @property
    def memory_bytes(self) -> int:
        """Held on the device; on the CPU, resident."""
        return held_memory(self.device)

    def _pack_of(self, tasks: tuple[ImageTask, ...], states: list[ImageState]) -> Pack:
        """The pack of exactly these, laid out anew where it is not at hand. An image is in one pack at most."""
        pack = next((pack for pack in self._packs if pack.tasks == tasks), None)
        if pack is None:
            others = [pack for pack in self._packs if set(tasks).isdisjoint(pack.tasks)]
            images = packed_images(states)
            bucket = None if self.graphs is None else self.graphs.bucket_of(images)
            pack = build_pack(tasks, states, images, bucket, self.models.transformer, self.solver.scm)
            self._packs = [*others[1 - MAX_PACKS :], pack]
        return pack

    def _project(self, embeddings: torch.Tensor) -> PackedText:
        return self.models.transformer.project_text(embeddings.to(self.models.dtype))


def state_of(task: ImageTask) -> ImageState:
    if task.state is None:
        raise RuntimeError(f"request {task.request_id} was not encoded")
    return task.state
