"""A batch laid out: which row of the packed matrix is whose, as tensors that a step reads and changes in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.guided_step import guided_step
from kernels.layout import TokenLayout, upload

from ..models.sana import PackedText, SanaTransformer
from .image_task import ImageTask
from .solver import Schedule
from .state import ImageState

TIME, INPUT_SCALE, GUIDANCE, EMBEDDED_GUIDANCE, COEFFICIENTS = range(5)
COLUMNS = COEFFICIENTS + 6


@dataclass(frozen=True)
class StepTensors:
    """What one denoise step reads, all of it data on the device, and what it changes: the first two.

    Args:
        latents, old_denoised: fp32 [R, C], the members' rows end to end.
        noise: fp32 [R, C] for solvers that draw it between steps.
        steps: fp32 [M, COLUMNS], of each member: time, scale of the transformer's input, guidance, guidance to embed,
            and the solver's coefficients.
        owner: member of each row of the latents, int64 [R].
        image_owner: member of each packed image (a member under guidance has two), int64 [N].
        source: row of the latents for each row of the packed matrix, int64 [T].
        conditional, unconditional: packed row of each row of the latents, int64 [R]; the same without guidance.
        positions: fp32 [T, width] for checkpoints with position embeddings.
    """

    latents: torch.Tensor
    old_denoised: torch.Tensor
    noise: torch.Tensor | None
    steps: torch.Tensor
    owner: torch.Tensor
    image_owner: torch.Tensor
    source: torch.Tensor
    conditional: torch.Tensor
    unconditional: torch.Tensor
    positions: torch.Tensor | None
    layout: TokenLayout
    text: PackedText


@dataclass(frozen=True)
class Bucket:
    """Rows of a forward that a CUDA graph is captured for: images with several text rows, then those with one.

    Without `singles`, images with one text row may be among the others.
    """

    attended: int
    singles: int

    @property
    def rows(self) -> int:
        return self.attended + self.singles

    def holds(self, other: "Bucket") -> bool:
        """Whether it only has to be filled up: the sections of both are the same ones."""
        same = bool(self.singles) == bool(other.singles)
        return same and self.attended >= other.attended and self.singles >= other.singles


@dataclass(frozen=True)
class Pack:
    """Members laid out once and stepped while they stay the same, filled up to a bucket where a graph runs them."""

    tasks: tuple[ImageTask, ...]
    bucket: Bucket | None
    tensors: StepTensors


@dataclass(frozen=True)
class PackedImage:
    """One image of the packed matrix. `member` is None for rows that only fill up."""

    member: int | None
    negative: bool
    size: tuple[int, int]
    text: PackedText

    @property
    def rows(self) -> int:
        return self.size[0] * self.size[1]


def packed_images(states: Sequence[ImageState]) -> list[PackedImage]:
    """Images of one shape side by side, those with a single text row (null prompts) last."""
    images = [PackedImage(member, False, state.size, state.text) for member, state in enumerate(states)]
    negatives = [(member, state, state.negative) for member, state in enumerate(states)]
    images += [PackedImage(member, True, state.size, text) for member, state, text in negatives if text is not None]
    return sorted(images, key=lambda image: (image.text.length == 1, image.size, image.text.length))


def section_tokens(images: Sequence[PackedImage]) -> tuple[int, int]:
    """Rows of images with several text rows, and of those with one."""
    singles = sum(image.rows for image in images if image.text.length == 1)
    return sum(image.rows for image in images) - singles, singles


def pad_to_bucket(images: list[PackedImage], bucket: Bucket) -> list[PackedImage]:
    """The places, and behind each section of the bucket an image of the rows that it lacks."""
    attended, singles = section_tokens(images)
    if not bucket.singles:
        missing = bucket.rows - attended - singles
        return [*images, PackedImage(None, False, (1, missing), images[-1].text)] if missing else images
    first = next(i for i, image in enumerate(images) if image.text.length == 1)
    filled = list(images)
    for at, missing in ((len(images), bucket.singles - singles), (first, bucket.attended - attended)):
        if missing:
            filled.insert(at, PackedImage(None, False, (1, missing), images[at - 1].text))
    return filled


def build_pack(
    tasks: tuple[ImageTask, ...],
    states: Sequence[ImageState],
    images: list[PackedImage],
    bucket: Bucket | None,
    transformer: SanaTransformer,
    draws_noise: bool,
) -> Pack:
    """Lays the members out; their latents are views into the pack from here on."""
    device = states[0].latents.device
    images = images if bucket is None else pad_to_bucket(images, bucket)
    texts = list({id(image.text): image.text for image in images}.values())
    starts, total = {}, 0
    for text in texts:
        starts[id(text)] = total
        total += text.length
    spans = tuple((starts[id(image.text)], starts[id(image.text)] + image.text.length) for image in images)
    layout = TokenLayout(tuple(image.size for image in images), spans, device)

    rows = torch.tensor([len(state.latents) for state in states])
    first_row = torch.cumsum(rows, 0) - rows
    source = torch.zeros(layout.total, dtype=torch.long)  # what fills up repeats a row of the first image
    conditional, unconditional = (torch.full((int(rows.sum()),), -1) for _ in range(2))
    for image, start in zip(images, layout.offsets, strict=False):
        if image.member is not None:
            own, packed = torch.arange(image.rows) + first_row[image.member], torch.arange(image.rows) + start
            source[packed] = own
            (unconditional if image.negative else conditional)[own] = packed
    unconditional = torch.where(unconditional < 0, conditional, unconditional)

    latents = torch.cat([state.latents for state in states])
    old_denoised = torch.cat([state.old_denoised for state in states])
    counts = rows.tolist()
    tensors = StepTensors(
        latents=latents,
        old_denoised=old_denoised,
        noise=torch.zeros_like(latents) if draws_noise else None,
        steps=latents.new_empty(len(states), COLUMNS),
        owner=upload(torch.repeat_interleave(torch.arange(len(states)), rows), device),
        image_owner=upload(torch.tensor([image.member or 0 for image in images]), device),
        source=upload(source, device),
        conditional=upload(conditional, device),
        unconditional=upload(unconditional, device),
        positions=None if transformer.config.interpolation_scale is None else transformer.positions(layout),
        layout=layout,
        text=PackedText.cat(texts),
    )
    for state, own, old in zip(states, latents.split(counts), old_denoised.split(counts), strict=True):
        state.latents, state.old_denoised = own, old
    return Pack(tasks, bucket, tensors)


def step_table(steps: Sequence[tuple[Schedule, int]], guidance: Sequence[float], embedded_scale: float) -> torch.Tensor:
    """fp32 [M, COLUMNS] on the host: each member at its own place in its own schedule."""
    rows = torch.stack([schedule.rows[step] for schedule, step in steps])
    scales = torch.tensor(guidance)[:, None]
    return torch.cat([rows[:, :GUIDANCE], scales, scales * embedded_scale, rows[:, GUIDANCE:]], 1)


def denoise_step(transformer: SanaTransformer, pack: StepTensors) -> None:
    """One step of every member, in place. Reads nothing back to the host: a CUDA graph can hold all of it."""
    own, images = pack.steps[pack.owner], pack.steps[pack.image_owner]
    embedded = images[:, EMBEDDED_GUIDANCE] if transformer.config.guidance_embeds else None
    scaled = pack.latents * own[:, INPUT_SCALE, None]
    tokens = scaled.to(transformer.proj_out.weight.dtype)[pack.source]
    velocity = transformer(tokens, pack.layout, images[:, TIME], pack.text, embedded, pack.positions)
    latents, denoised = guided_step(
        *(pack.latents, velocity, pack.conditional, pack.unconditional, own[:, GUIDANCE, None].contiguous()),
        *(pack.old_denoised, pack.noise, own[:, COEFFICIENTS:].contiguous()),
    )
    pack.latents.copy_(latents)
    pack.old_denoised.copy_(denoised)
