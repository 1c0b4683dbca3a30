"""The work on the device: encode prompts, one denoise step of a packed batch, decode an image. Holds the models."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from kernels.layout import upload

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.loader import Models, load_encoder
from ..models.sana import PackedText
from ..stats import Forwards
from .allocator import keep_freed_memory
from .decoder import ImageDecoder
from .encoder import ImageEncoder
from .graphs import GraphRunner
from .image_task import ImageTask
from .memory import held_memory
from .pack import Pack, build_pack, denoise_step, packed_images, step_table
from .prompts import MAX_PROMPTS, Prompt, PromptCache, PromptEncoder
from .recorder import GraphRecorder
from .repaint import latent_mask, on_grid
from .solver import Schedule, dpmpp_2m_schedule, euler_schedule, scm_schedule
from .state import ImageState, unit_noise

STEP_CAPTURE_SECONDS = 40.0
"""Time budget for the graphs of denoise steps. With the other two it bounds how long captures delay the start."""
PROMPT_CAPTURE_SECONDS = 10.0
DECODER_CAPTURE_SECONDS = 10.0
MAX_GRAPH_TOKENS = 16384
"""Largest step to capture: beyond it the kernels take much longer than their launches."""
MAX_PACKS = 2
"""Packs kept laid out: the scheduler alternates between one of small images and one of larger ones."""


class ModelRunner:
    """The models on their device, with one method per phase of a batch.

    Args:
        prompt_cache_bytes: capacity of the cache of projected prompts.
        exact: whether every prompt is encoded in a forward of its own.
    """

    def __init__(self, models: Models, checkpoint: Checkpoint, prompt_cache_bytes: int, exact: bool = False) -> None:
        self.models = models
        self.device = models.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.config = checkpoint.transformer
        self.solver = checkpoint.solver
        self.compression = checkpoint.decoder.compression
        with torch.inference_mode():
            self.prompts = PromptEncoder(models.text_encoder, models.tokenizer, 1 if exact else MAX_PROMPTS)
            self.null_text = self._project(self.prompts.encode_negative([""])[0])
        self.cache = PromptCache(prompt_cache_bytes)
        self.decoder = ImageDecoder(models.decoder, checkpoint.decoder.scaling_factor, models.dtype)
        self.encoder = ImageEncoder(partial(load_encoder, checkpoint, self.device, models.dtype), self.decoder)
        self.graphs: GraphRunner | None = None
        self._packs: list[Pack] = []

    def schedule(self, steps: int) -> Schedule:
        """The schedule of the checkpoint's solver for a step count."""
        if self.solver.scm:
            return scm_schedule(steps, self.solver.sigma_data)
        if self.solver.euler:
            return euler_schedule(steps, self.solver.flow_shift, self.config.timestep_scale)
        return dpmpp_2m_schedule(steps, self.solver.flow_shift, self.config.timestep_scale)

    @torch.inference_mode()
    def encode(self, tasks: tuple[ImageTask, ...]) -> Forwards:
        """Gives each task its state: projected texts, initial noise and schedule."""
        replayed, launched = self.prompts.replayed, self.prompts.launched
        negatives = [task.params.negative_prompt if task.guided else "" for task in tasks]
        prompts = [(task.params.prompt, False) for task in tasks] + [(text, True) for text in negatives if text.strip()]
        texts = iter(self.cache.get(prompts, self._encode_prompts))
        for task in tasks:
            task.state = self._initial_state(task, next(texts))
        for task, negative in zip(tasks, negatives, strict=True):
            if task.guided:
                require_state(task).negative = next(texts) if negative.strip() else self.null_text
        return Forwards(self.prompts.replayed - replayed, self.prompts.launched - launched)

    def _initial_state(self, task: ImageTask, text: PackedText) -> ImageState:
        width, height = task.grid_size
        size = (height // self.compression, width // self.compression)
        schedule = self.schedule(task.params.num_inference_steps)
        generator = torch.Generator().manual_seed(task.seed)
        noise = upload(unit_noise(size, self.config.in_channels, generator), self.device) * schedule.initial_scale
        start = task.params.start_step
        return ImageState(noise, torch.zeros_like(noise), size, generator, schedule, text, None, start)

    @torch.inference_mode()
    def encode_image(self, tasks: tuple[ImageTask, ...]) -> Forwards:
        """Encodes the image that these tasks repaint, all of them the same, and lets them start from it."""
        params, grid = tasks[0].params, tasks[0].grid_size
        assert params.image is not None
        data = self.encoder.encode(on_grid(np.frombuffer(params.image.pixels, np.uint8), params, grid))
        repainted = None
        if params.image.mask is not None:
            mask = on_grid(np.frombuffer(params.image.mask, np.uint8), params, grid)
            repainted = upload(torch.from_numpy(latent_mask(mask, self.compression)), self.device)
        for task in tasks:
            require_state(task).start_from(data, repainted)
        return Forwards(launched=1)

    def _encode_prompts(self, prompts: list[Prompt]) -> list[PackedText]:
        positives = iter(self.prompts.encode([text for text, negative in prompts if not negative]))
        negatives = iter(self.prompts.encode_negative([text for text, negative in prompts if negative]))
        return [self._project(next(negatives if negative else positives)) for _, negative in prompts]

    def capture_graphs(self, max_tokens: int) -> None:
        """Captures CUDA graphs of all phases, those of denoise steps for up to `max_tokens` tokens.

        Steps come first: an image takes twenty of them, and they are what graphs shorten most. Each phase has a
        recorder of its own, so a phase whose capture fails or takes too long costs the others nothing.
        """
        graphs = GraphRunner(self.models.transformer, min(max_tokens, MAX_GRAPH_TOKENS), self.solver.scm)
        graphs.capture(GraphRecorder(self.device, STEP_CAPTURE_SECONDS))
        if graphs.graphs:  # without any, its buffers are released again
            self.graphs = graphs
        self.prompts.capture(GraphRecorder(self.device, PROMPT_CAPTURE_SECONDS))
        self.decoder.capture(DECODER_CAPTURE_SECONDS)

    @torch.inference_mode()
    def denoise(self, tasks: tuple[ImageTask, ...]) -> Forwards:
        """One step of every task, each at its own step of its own schedule: one forward of the transformer."""
        states = [require_state(task) for task in tasks]
        pack = self._get_pack(tasks, states)
        guidance = [task.params.guidance_scale for task in tasks]
        table = step_table(states, [task.step for task in tasks], guidance, self.config.guidance_embeds_scale)
        pack.tensors.steps.copy_(upload(table, self.device))
        if pack.tensors.noise is not None:
            # Only a step that adds noise may advance the image's generator.
            noise = [
                state.noise() if state.schedule.adds_noise(task.step) else torch.zeros(state.latents.shape)
                for state, task in zip(states, tasks, strict=True)
            ]
            pack.tensors.noise.copy_(upload(torch.cat(noise), self.device))
        forwards = self._step(pack)
        for state, task in zip(states, tasks, strict=True):
            state.hold_known(task.step + 1)
        return forwards

    def _step(self, pack: Pack) -> Forwards:
        """One step of a pack, in place, by its graph if it has one."""
        if pack.bucket is None:
            denoise_step(self.models.transformer, pack.tensors)
            return Forwards(launched=1)
        assert self.graphs is not None
        self.graphs.run(pack)
        return Forwards(replayed=1, graph_tokens=pack.bucket.tokens)

    @torch.inference_mode()
    def decode(self, task: ImageTask) -> Callable[[], np.ndarray]:
        """Decodes a finished image, or for a preview the current estimate of it, as `ImageDecoder.decode` does."""
        state = require_state(task)
        latents = state.latents if task.denoise_done else state.old_denoised * state.schedule.final_scale
        if task.denoise_done:
            self._packs = [pack for pack in self._packs if task not in pack.tasks]
        return self.decoder.decode(latents, state.size)

    def decode_forwards(self, task: ImageTask) -> Forwards:
        """The forwards that `decode` runs for `task`."""
        has_graph = require_state(task).size in self.decoder.graphs
        return Forwards(replayed=1) if has_graph else Forwards(launched=1)

    def shrink_bands(self) -> bool:
        """Makes the decoder's bands smaller after it ran out of memory. Returns False if they cannot be smaller."""
        self.release_memory()
        return self.decoder.shrink_bands()

    def release_memory(self) -> None:
        """Returns memory that the allocator keeps for reuse to the device."""
        self._packs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Waits for the steps, but not for the decoder, so that the time of a phase is its own."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    @property
    def memory_bytes(self) -> int:
        """Bytes held on the device; on the CPU, resident bytes of the process."""
        return held_memory(self.device)

    def _get_pack(self, tasks: tuple[ImageTask, ...], states: list[ImageState]) -> Pack:
        """The pack of exactly these tasks, kept from an earlier step or laid out now.

        Latents of an image are views into its pack, so an image is in one pack at most: the others that share a task
        with this one are dropped.
        """
        pack = next((pack for pack in self._packs if pack.tasks == tasks), None)
        if pack is None:
            others = [pack for pack in self._packs if set(tasks).isdisjoint(pack.tasks)]
            images = packed_images(states)
            bucket = None if self.graphs is None else self.graphs.find_bucket(images)
            pack = build_pack(tasks, states, images, bucket, self.models.transformer, self.solver.scm)
            self._packs = [*others[1 - MAX_PACKS :], pack]
        return pack

    def _project(self, embeddings: torch.Tensor) -> PackedText:
        return self.models.transformer.project_text(embeddings.to(self.models.dtype))


def require_state(task: ImageTask) -> ImageState:
    """The state of a task that has been encoded. Raises RuntimeError for any other."""
    if task.state is None:
        raise RuntimeError(f"image {task.image_index} of request {task.request_id} has not been encoded")
    return task.state
