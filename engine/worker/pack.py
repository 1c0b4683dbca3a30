"""A batch as one token matrix: which token belongs to which image, as tensors that a step reads and changes in place.

Two matrices are involved. The *latents* hold each image of the batch once. The *packed* matrix, which the transformer
reads, holds each image once per branch: an image under classifier-free guidance is in it twice, with the prompt and
with the negative prompt. `StepTensors` maps between the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.guided_step import Coefficients, guided_step
from kernels.layout import TokenLayout, upload

from ..models.sana import PackedText, SanaTransformer
from .image_task import ImageTask
from .state import ImageState

TIME, INPUT_SCALE, GUIDANCE, EMBEDDED_GUIDANCE, COEFFICIENTS = range(5)
"""Columns of the step table; those of `Coefficients` begin at the last."""
COLUMNS = COEFFICIENTS + len(Coefficients._fields)


@dataclass(frozen=True)
class StepTensors:
    """Device tensors of one denoise step over M images, which are N images in the packed matrix.

    Args:
        latents, old_denoised: fp32 [L, C], all images end to end; the step updates both in place.
        noise: fp32 [L, C] for solvers that add noise between steps.
        steps: step table, fp32 [M, COLUMNS]: time, scale of the transformer's input, guidance, embedded guidance, and
            the solver's coefficients of each image.
        owner: image (0 to M - 1) of each latent token, int64 [L].
        image_owner: image (0 to M - 1) of each packed image, int64 [N].
        source: latent token that each packed token is a copy of, int64 [T].
        conditional, unconditional: packed token that predicts each latent token with the prompt and with the negative
            prompt, int64 [L]; equal without guidance.
        positions: position embeddings fp32 [T, width], for checkpoints that have them.
        layout: borders of the N packed images.
        text: projected text of all packed images.
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
    """Token counts that a CUDA graph is captured for.

    A packed matrix has two sections. Images whose text has several tokens come first and need real cross-attention.
    Images whose text is one token (the empty negative prompt, `<bos>`) come last: softmax over one key is 1, so their
    cross-attention is a constant per image and computes no query.

    Args:
        attended: tokens of the first section.
        singles: tokens of the second section. If 0, images with one text token may be in the first section, where
            they take part in cross-attention like any other.
    """

    attended: int
    singles: int

    @property
    def tokens(self) -> int:
        return self.attended + self.singles

    def can_hold(self, needed: "Bucket") -> bool:
        """Whether padding turns `needed` into this bucket: both have the same sections, and these are not smaller."""
        same_sections = bool(self.singles) == bool(needed.singles)
        return same_sections and self.attended >= needed.attended and self.singles >= needed.singles


@dataclass(frozen=True)
class Pack:
    """A batch laid out once and stepped as long as its members stay the same.

    Args:
        tasks: members, in the order of their latents.
        bucket: bucket the packed matrix is padded to, or None if no graph runs it.
        tensors: what the step reads and changes.
    """

    tasks: tuple[ImageTask, ...]
    bucket: Bucket | None
    tensors: StepTensors


@dataclass(frozen=True)
class PackedImage:
    """One image of the packed matrix.

    Args:
        member: index of its task in the batch, or None for padding.
        negative: whether this is the unconditional branch.
        size: (h, w) in tokens.
        text: text it attends to.
    """

    member: int | None
    negative: bool
    size: tuple[int, int]
    text: PackedText

    @property
    def tokens(self) -> int:
        return self.size[0] * self.size[1]


def packed_images(states: Sequence[ImageState]) -> list[PackedImage]:
    """Both branches of all images, in the order of the packed matrix.

    Images with a single text token come last, as `TokenLayout` requires. Equal sizes and text lengths are neighbours,
    because the references run neighbours of one shape as one batch.
    """
    images = [PackedImage(member, False, state.size, state.text) for member, state in enumerate(states)]
    negatives = [(member, state, state.negative) for member, state in enumerate(states)]
    images += [PackedImage(member, True, state.size, text) for member, state, text in negatives if text is not None]
    return sorted(images, key=lambda image: (image.text.length == 1, image.size, image.text.length))


def section_tokens(images: Sequence[PackedImage]) -> tuple[int, int]:
    """Tokens of images with several text tokens, and of images with one."""
    singles = sum(image.tokens for image in images if image.text.length == 1)
    return sum(image.tokens for image in images) - singles, singles


def pad_to_bucket(images: list[PackedImage], bucket: Bucket) -> list[PackedImage]:
    """`images` with a padding image at the end of each section of the bucket that is not full.

    Padding is an image 1 token high, so that no other image's convolution or attention reads it. It takes the text of
    the image before it, which adds no text tokens and keeps it in its section.
    """
    attended, singles = section_tokens(images)
    if not bucket.singles:
        missing = bucket.tokens - attended - singles
        return [*images, PackedImage(None, False, (1, missing), images[-1].text)] if missing else images
    first_single = next(i for i, image in enumerate(images) if image.text.length == 1)
    padded = list(images)
    # The last section first: inserting there does not move the border between the two.
    for end, missing in ((len(images), bucket.singles - singles), (first_single, bucket.attended - attended)):
        if missing:
            padded.insert(end, PackedImage(None, False, (1, missing), images[end - 1].text))
    return padded


def build_pack(
    tasks: tuple[ImageTask, ...],
    states: Sequence[ImageState],
    images: list[PackedImage],
    bucket: Bucket | None,
    transformer: SanaTransformer,
    adds_noise: bool,
) -> Pack:
    """Lays out a batch. From here on the latents of `states` are views into the pack, which a step updates in place.

    Args:
        images: the states' images, as of `packed_images`.
        bucket: bucket to pad to, or None.
        adds_noise: whether the solver adds noise between steps.
    """
    device = states[0].latents.device
    images = images if bucket is None else pad_to_bucket(images, bucket)
    # A text that several images share, as the images of one request do, is in the packed text once.
    texts = list({id(image.text): image.text for image in images}.values())
    text_starts, total = {}, 0
    for text in texts:
        text_starts[id(text)] = total
        total += text.length
    spans = tuple((text_starts[id(image.text)], text_starts[id(image.text)] + image.text.length) for image in images)
    layout = TokenLayout(tuple(image.size for image in images), spans, device)

    # Index tensors are made on the host and copied without waiting; on the device each slice below would be a launch.
    counts = torch.tensor([len(state.latents) for state in states])
    starts = torch.cumsum(counts, 0) - counts
    source = torch.zeros(layout.total, dtype=torch.long)  # padding repeats latent token 0, which is always valid
    conditional, unconditional = (torch.full((int(counts.sum()),), -1) for _ in range(2))
    for image, start in zip(images, layout.offsets, strict=False):
        if image.member is not None:
            own, packed = torch.arange(image.tokens) + starts[image.member], torch.arange(image.tokens) + start
            source[packed] = own
            (unconditional if image.negative else conditional)[own] = packed
    # Without a second branch both indices are the same: guidance then leaves the prediction as it is.
    unconditional = torch.where(unconditional < 0, conditional, unconditional)

    latents = torch.cat([state.latents for state in states])
    old_denoised = torch.cat([state.old_denoised for state in states])
    tensors = StepTensors(
        latents=latents,
        old_denoised=old_denoised,
        noise=torch.zeros_like(latents) if adds_noise else None,
        steps=latents.new_empty(len(states), COLUMNS),
        owner=upload(torch.repeat_interleave(torch.arange(len(states)), counts), device),
        # Padding reads the time and guidance of image 0; its output is not read.
        image_owner=upload(torch.tensor([image.member or 0 for image in images]), device),
        source=upload(source, device),
        conditional=upload(conditional, device),
        unconditional=upload(unconditional, device),
        positions=None if transformer.config.interpolation_scale is None else transformer.positions(layout),
        layout=layout,
        text=PackedText.cat(texts),
    )
    views = zip(states, latents.split(counts.tolist()), old_denoised.split(counts.tolist()), strict=True)
    for state, own_latents, own_denoised in views:
        state.latents, state.old_denoised = own_latents, own_denoised
    return Pack(tasks, bucket, tensors)


def step_table(
    states: Sequence[ImageState], steps: Sequence[int], guidance: Sequence[float], embedded_scale: float
) -> torch.Tensor:
    """fp32 [M, COLUMNS] on the host: each image at its own step of its own schedule.

    Args:
        steps, guidance: step to take and guidance scale of each image.
        embedded_scale: factor of the guidance that Sprint's transformer embeds.
    """
    rows = []
    for state, step, scale in zip(states, steps, guidance, strict=True):
        schedule = state.schedule
        coefficients = schedule.coefficients_at(step, state.start_step)
        rows.append([float(schedule.times[step]), float(schedule.input_scale[step]), scale, scale, *coefficients])
    table = torch.tensor(rows, dtype=torch.float32)
    table[:, EMBEDDED_GUIDANCE] *= embedded_scale
    return table


def denoise_step(transformer: SanaTransformer, pack: StepTensors) -> None:
    """One step of all images, in place. Reads nothing back to the host, so that a CUDA graph can hold all of it."""
    token_steps, image_steps = pack.steps[pack.owner], pack.steps[pack.image_owner]
    embedded = image_steps[:, EMBEDDED_GUIDANCE] if transformer.config.guidance_embeds else None
    scaled = pack.latents * token_steps[:, INPUT_SCALE, None]
    tokens = scaled.to(transformer.proj_out.weight.dtype)[pack.source]
    velocity = transformer(tokens, pack.layout, image_steps[:, TIME], pack.text, embedded, pack.positions)
    latents, denoised = guided_step(
        x=pack.latents,
        output=velocity,
        conditional=pack.conditional,
        unconditional=pack.unconditional,
        guidance=token_steps[:, GUIDANCE, None].contiguous(),
        old_denoised=pack.old_denoised,
        noise=pack.noise,
        coefficients=token_steps[:, COEFFICIENTS:].contiguous(),
    )
    pack.latents.copy_(latents)
    pack.old_denoised.copy_(denoised)
