"""What runs on the device: encode prompts, one denoise step for a packed batch, decode an image. Holds the models."""

from collections.abc import Callable

import numpy as np
import torch

from kernels.layout import upload
from kernels.to_uint8 import to_uint8

from .checkpoint import Checkpoint
from .errors import GenerationFailed
from .graphs import GraphRunner
from .loader import Models
from .memory import held_memory
from .models.dc_ae import BAND_ELEMENTS
from .models.sana import PackedText
from .pack import Pack, build_pack, denoise_step, places_of, step_table
from .prompts import MAX_PROMPTS, Prompt, PromptCache, PromptEncoder
from .request import Request
from .solver import Schedule, dpmpp_2m_schedule, scm_schedule
from .state import ImageState, unit_noise

MIN_BAND_ELEMENTS = 2**20
"""Below it the bands are all halo: a row or two of a large picture."""
MAX_GRAPH_ROWS = 16384
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
        self.scaling_factor = checkpoint.decoder.scaling_factor
        self.compression = checkpoint.decoder.compression
        with torch.inference_mode():
            self.prompts = PromptEncoder(models.text_encoder, models.tokenizer, 1 if exact else MAX_PROMPTS)
            self.null_text = self._project(self.prompts.encode_negative([""])[0])
        self.cache = PromptCache(prompt_cache_bytes)
        self.band_elements = BAND_ELEMENTS
        self.graphs: GraphRunner | None = None
        self._packs: list[Pack] = []
        self._decode_stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def schedule(self, steps: int) -> Schedule:
        if self.solver.scm:
            return scm_schedule(steps, self.solver.sigma_data)
        return dpmpp_2m_schedule(steps, self.solver.flow_shift, self.config.timestep_scale)

    @torch.inference_mode()
    def encode(self, requests: tuple[Request, ...]) -> None:
        """Gives each request its text and its first noise."""
        negatives = [r.params.negative_prompt if r.guided else "" for r in requests]
        prompts = [(r.params.prompt, False) for r in requests] + [(text, True) for text in negatives if text.strip()]
        texts = iter(self.cache.get(prompts, self._encode_prompts))
        for request in requests:
            request.state = self._first_state(request, next(texts))
        for request, negative in zip(requests, negatives, strict=True):
            if request.guided:
                state_of(request).negative = next(texts) if negative.strip() else self.null_text

    def _first_state(self, request: Request, text: PackedText) -> ImageState:
        params = request.params
        size = (params.height // self.compression, params.width // self.compression)
        schedule = self.schedule(params.num_inference_steps)
        generator = torch.Generator().manual_seed(request.seed)
        noise = upload(unit_noise(size, self.config.in_channels, generator), self.device) * schedule.initial_scale
        return ImageState(noise, torch.zeros_like(noise), size, generator, schedule, text, None)

    def _encode_prompts(self, prompts: list[Prompt]) -> list[PackedText]:
        positive = iter(self.prompts.encode([text for text, negative in prompts if not negative]))
        negatives = iter(self.prompts.encode_negative([text for text, negative in prompts if negative]))
        return [self._project(next(negatives if negative else positive)) for _, negative in prompts]

    def capture_graphs(self, most_rows: int) -> None:
        """CUDA graphs for forwards of up to so many rows."""
        if self.device.type == "cuda":
            self.graphs = GraphRunner(self.models.transformer, min(most_rows, MAX_GRAPH_ROWS), self.solver.scm)
            self.graphs.capture()

    @torch.inference_mode()
    def denoise(self, requests: tuple[Request, ...]) -> int:
        """One step for every request, each at its own place in its own schedule: one forward of the transformer.

        Returns the rows of the CUDA graph that ran; 0 where none did.
        """
        states = [state_of(request) for request in requests]
        pack = self._pack_of(requests, states)
        steps = [(state.schedule, request.step) for state, request in zip(states, requests, strict=True)]
        guidance = [request.params.guidance_scale for request in requests]
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
            return 0
        assert self.graphs is not None
        self.graphs.run(pack)
        return pack.bucket.rows

    @torch.inference_mode()
    def decode(self, request: Request) -> Callable[[], np.ndarray]:
        """Decodes a finished image, or the estimate of one on its way.

        Returns at once on CUDA, where a stream of its own works beside the next steps; the function returned waits for
        it and gives the pixels, uint8 [H, W, 3]. It raises GenerationFailed when the numbers overflowed.
        """
        state = state_of(request)
        latents = state.latents if request.denoise_done else state.old_denoised * state.schedule.final_scale
        if request.denoise_done:
            self._packs = [pack for pack in self._packs if request not in pack.requests]
        if self._decode_stream is None:
            pixels, finite = self._decode_bands(latents, state.size)
            return lambda: self._checked(pixels, finite)
        done = torch.cuda.Event()
        self._decode_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._decode_stream):
            latents.record_stream(self._decode_stream)
            pixels, finite = self._decode_bands(latents, state.size)
            done.record()

        def wait() -> np.ndarray:
            done.synchronize()
            return self._checked(pixels, finite)

        return wait

    def shrink_bands(self) -> bool:
        """After too little memory for a decode: bands of a quarter. False when they cannot be smaller."""
        self.release_memory()
        if self.band_elements <= MIN_BAND_ELEMENTS:
            return False
        self.band_elements //= 4
        return True

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

    def _decode_bands(self, latents: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels uint8 [H, W, 3] on the host, once the stream is done, and whether all numbers were finite."""
        decoder = self.models.decoder
        dtype = decoder.conv_in.weight.dtype
        scaled = latents.T.unflatten(1, size).unsqueeze(0).to(dtype) / self.scaling_factor
        height, width = (side * self.compression for side in size)
        on_cuda = self.device.type == "cuda"
        pixels = torch.empty(height, width, 3, dtype=torch.uint8, pin_memory=on_cuda)
        finite = torch.isfinite(latents).all()
        for rows, band in decoder.bands(scaled.contiguous(memory_format=torch.channels_last), self.band_elements):
            finite &= torch.isfinite(band).all()
            pixels[rows].copy_(to_uint8(band[0]), non_blocking=on_cuda)
        return pixels, finite

    def _checked(self, pixels: torch.Tensor, finite: torch.Tensor) -> np.ndarray:
        if not finite.item():
            dtype = str(self.models.dtype).removeprefix("torch.")
            raise GenerationFailed(f"the picture overflowed in {dtype}; start the server with a wider --dtype")
        return pixels.numpy()

    def _pack_of(self, requests: tuple[Request, ...], states: list[ImageState]) -> Pack:
        """The pack of exactly these, laid out anew where it is not at hand. An image is in one pack at most."""
        pack = next((pack for pack in self._packs if pack.requests == requests), None)
        if pack is None:
            others = [pack for pack in self._packs if set(requests).isdisjoint(pack.requests)]
            places = places_of(states)
            bucket = None if self.graphs is None else self.graphs.bucket_of(places)
            pack = build_pack(requests, states, places, bucket, self.models.transformer, self.solver.scm)
            self._packs = [*others[1 - MAX_PACKS :], pack]
        return pack

    def _project(self, embeddings: torch.Tensor) -> PackedText:
        return self.models.transformer.project_text(embeddings.to(self.models.dtype))


def state_of(request: Request) -> ImageState:
    if request.state is None:
        raise RuntimeError(f"request {request.request_id} was not encoded")
    return request.state
