"""What runs on the device: encode prompts, one denoise step for a packed batch, decode an image. Holds the models."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kernels.guided_step import guided_step
from kernels.layout import TokenLayout
from kernels.to_uint8 import to_uint8

from .checkpoint import Checkpoint
from .errors import GenerationFailed
from .loader import Models
from .memory import held_memory
from .models.dc_ae import BAND_ELEMENTS
from .models.sana import PackedText
from .prompts import MAX_PROMPTS, Prompt, PromptCache, PromptEncoder
from .request import Request
from .solver import Schedule, dpmpp_2m_schedule, scm_schedule
from .state import ImageState, unit_noise

MIN_BAND_ELEMENTS = 2**20
"""Below it the bands are all halo: a row or two of a large picture."""
MAX_PACKS = 2
"""Packs kept laid out: that of the small images and that of the larger ones, which take turns."""


@dataclass
class Pack:
    """A batch laid out once and stepped while its members stay the same.

    Args:
        requests: members, in the order of `latents`.
        latents, old_denoised: fp32 [R, C], the members' rows end to end.
        owner: member of each of those rows, int64 [R].
        image_owner: member of each packed image (a member under guidance has two).
        source: row of `latents` for each row of the packed matrix, int64 [T].
        conditional, unconditional: packed row of each row of `latents`; the same where there is no guidance.
        guidance: fp32 [R, 1].
        embedded_guidance: fp32 [N] for checkpoints that embed it.
    """

    requests: tuple[Request, ...]
    latents: torch.Tensor
    old_denoised: torch.Tensor
    layout: TokenLayout
    text: PackedText
    owner: torch.Tensor
    image_owner: list[int]
    source: torch.Tensor
    conditional: torch.Tensor
    unconditional: torch.Tensor
    guidance: torch.Tensor
    embedded_guidance: torch.Tensor | None


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
        noise = unit_noise(size, self.config.in_channels, generator).to(self.device) * schedule.initial_scale
        return ImageState(noise, torch.zeros_like(noise), size, generator, schedule, text, None)

    def _encode_prompts(self, prompts: list[Prompt]) -> list[PackedText]:
        positive = iter(self.prompts.encode([text for text, negative in prompts if not negative]))
        negatives = iter(self.prompts.encode_negative([text for text, negative in prompts if negative]))
        return [self._project(next(negatives if negative else positive)) for _, negative in prompts]

    @torch.inference_mode()
    def denoise(self, requests: tuple[Request, ...]) -> None:
        """One step for every request, each at its own place in its own schedule: one forward of the transformer."""
        pack = self._pack_of(requests)
        states = [state_of(request) for request in requests]
        steps = [(state.schedule, request.step) for state, request in zip(states, requests, strict=True)]
        times = torch.stack([schedule.times[step] for schedule, step in steps])[pack.image_owner].to(self.device)
        scale = torch.stack([schedule.input_scale[step] for schedule, step in steps]).to(self.device)
        coefficients = torch.stack([schedule.coefficients[step] for schedule, step in steps]).to(self.device)

        tokens = (pack.latents * scale[pack.owner, None]).to(self.models.dtype)[pack.source]
        velocity = self.models.transformer(tokens, pack.layout, times, pack.text, pack.embedded_guidance)
        noise = None
        if any(schedule.draws_noise(step) for schedule, step in steps):
            noise = torch.cat(
                [
                    state.noise() if schedule.draws_noise(step) else torch.zeros_like(state.latents)
                    for state, (schedule, step) in zip(states, steps, strict=True)
                ]
            )
        pack.latents, pack.old_denoised = guided_step(
            pack.latents,
            velocity,
            pack.conditional,
            pack.unconditional,
            pack.guidance,
            pack.old_denoised,
            noise,
            coefficients[pack.owner],
        )
        rows = [len(state.latents) for state in states]
        for state, latents, old in zip(states, pack.latents.split(rows), pack.old_denoised.split(rows), strict=True):
            state.latents, state.old_denoised = latents, old

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

    def _pack_of(self, requests: tuple[Request, ...]) -> Pack:
        """The pack of exactly these, laid out anew where it is not at hand. An image is in one pack at most."""
        pack = next((pack for pack in self._packs if pack.requests == requests), None)
        if pack is None:
            others = [pack for pack in self._packs if set(requests).isdisjoint(pack.requests)]
            embedded_scale = self.config.guidance_embeds_scale if self.config.guidance_embeds else None
            pack = build_pack(requests, self.device, embedded_scale)
            self._packs = [*others[1 - MAX_PACKS :], pack]
        return pack

    def _project(self, embeddings: torch.Tensor) -> PackedText:
        return self.models.transformer.project_text(embeddings.to(self.models.dtype))


def state_of(request: Request) -> ImageState:
    if request.state is None:
        raise RuntimeError(f"request {request.request_id} was not encoded")
    return request.state


def build_pack(requests: tuple[Request, ...], device: torch.device, embedded_scale: float | None) -> Pack:
    """Lays the members out: images of one shape side by side, those with a single text row (null prompts) last."""
    states = [state_of(request) for request in requests]
    images = [(member, state.text, False) for member, state in enumerate(states)]
    images += [(member, state.negative, True) for member, state in enumerate(states) if state.negative is not None]
    images.sort(key=lambda image: (image[1].length == 1, states[image[0]].size, image[1].length))

    texts = list({id(text): text for _, text, _ in images}.values())
    starts, total = {}, 0
    for text in texts:
        starts[id(text)] = total
        total += text.length
    layout = TokenLayout(
        sizes=tuple(states[member].size for member, _, _ in images),
        texts=tuple((starts[id(text)], starts[id(text)] + text.length) for _, text, _ in images),
        device=device,
    )
    rows = torch.tensor([len(state.latents) for state in states])
    first_row = torch.cumsum(rows, 0) - rows
    source = torch.cat([first_row[member] + torch.arange(int(rows[member])) for member, _, _ in images])
    conditional, unconditional = torch.empty(int(rows.sum()), dtype=torch.long), torch.full((int(rows.sum()),), -1)
    packed = torch.arange(layout.total)
    for image, (_, _, negative) in enumerate(images):
        here = slice(layout.offsets[image], layout.offsets[image + 1])
        (unconditional if negative else conditional)[source[here]] = packed[here]
    unconditional = torch.where(unconditional < 0, conditional, unconditional)

    scales = torch.tensor([request.params.guidance_scale for request in requests])
    owner = torch.repeat_interleave(torch.arange(len(requests)), rows)
    image_owner = [member for member, _, _ in images]
    return Pack(
        requests=requests,
        latents=torch.cat([state.latents for state in states]),
        old_denoised=torch.cat([state.old_denoised for state in states]),
        layout=layout,
        text=PackedText.cat(texts),
        owner=owner.to(device),
        image_owner=image_owner,
        source=source.to(device),
        conditional=conditional.to(device),
        unconditional=unconditional.to(device),
        guidance=scales[owner, None].to(device),
        embedded_guidance=None if embedded_scale is None else (scales * embedded_scale)[image_owner].to(device),
    )
