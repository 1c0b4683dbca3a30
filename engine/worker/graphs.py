"""CUDA graphs of the denoise step. A graph is for a token count, not for image shapes: any mix that fits replays it.

One set of buffers, as large as the largest bucket, holds everything that a step reads. The graph of a bucket works on
the leading elements of each buffer. Running a pack copies it into the buffers, including its layout, which kernels read
as data, and replays the graph: one launch instead of several hundred.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from kernels.layout import LayoutTables, TableLayout

from ..models.sana import PackedText, SanaTransformer
from .pack import COLUMNS, Bucket, Pack, PackedImage, StepTensors, denoise_step, section_tokens
from .recorder import GraphRecorder

log = logging.getLogger(__name__)

MAX_PACKED_IMAGES = 130
"""Images in a packed matrix: 64 with two branches each, and one padding image per section."""
MAX_TEXT_TOKENS = 2048
"""Text tokens in a packed matrix. Their keys and values take 179 kB a token in the 1.6B model, 367 MB in all."""
MIN_BUCKET_TOKENS = 64


def bucket_sizes(max_tokens: int) -> Iterator[int]:
    """Bucket sizes up to `max_tokens`, four per octave: 64, 80, 96, 112, 128, 160, ...

    With four, padding is about a twelfth of the tokens on average. All are multiples of 16, so that Triton compiles
    one form of each kernel: it specialises on arguments divisible by 16.
    """
    octave = MIN_BUCKET_TOKENS
    while octave <= max_tokens:
        yield from (tokens for tokens in range(octave, 2 * octave, octave // 4) if tokens <= max_tokens)
        octave *= 2


def all_buckets(max_tokens: int) -> list[Bucket]:
    """Buckets to capture, the largest first, because smaller graphs then reuse its memory.

    There are two kinds: all images guided by the empty negative prompt, which makes both sections equal and saves half
    of the cross-attention, and anything else, in one section.
    """
    buckets = [Bucket(tokens, 0) for tokens in bucket_sizes(max_tokens)]
    buckets += [Bucket(tokens, tokens) for tokens in bucket_sizes(max_tokens // 2)]
    return sorted(buckets, key=lambda bucket: (-bucket.tokens, bucket.singles))


@dataclass(frozen=True)
class StepGraph:
    """A captured step: the part of the buffers it works on, and the function that replays it."""

    tensors: StepTensors
    replay: Callable[[], None]


class GraphRunner:
    """Captures a graph per bucket once, then copies packs into the buffers and replays.

    Args:
        max_tokens: largest packed matrix to capture for; larger packs run without a graph.
        adds_noise: whether the solver adds noise between steps.
    """

    def __init__(self, transformer: SanaTransformer, max_tokens: int, adds_noise: bool) -> None:
        self.transformer = transformer
        self.graphs: dict[Bucket, StepGraph] = {}
        self._buffers = make_buffers(transformer, max_tokens, adds_noise)
        self._max_tokens = max_tokens
        self._loaded: Pack | None = None

    @torch.inference_mode()
    def capture(self, recorder: GraphRecorder) -> None:
        """Captures all buckets, or the largest ones until time or memory runs out."""
        buckets = all_buckets(self._max_tokens)
        for bucket in buckets:
            tensors = self._leading_part(bucket)
            write_placeholder_layout(tensors)
            replay = recorder.capture(partial(denoise_step, self.transformer, tensors))
            if replay is None:
                break
            self.graphs[bucket] = StepGraph(tensors, replay)
        log.info("captured %d of %d step graphs of up to %d tokens", len(self.graphs), len(buckets), self._max_tokens)

    def find_bucket(self, images: Sequence[PackedImage]) -> Bucket | None:
        """The smallest captured bucket that holds `images`, or None if they have to run without a graph."""
        text_tokens = sum(text.length for text in {id(image.text): image.text for image in images}.values())
        if len(images) > MAX_PACKED_IMAGES - 2 or text_tokens > MAX_TEXT_TOKENS:
            return None
        attended, singles = section_tokens(images)
        needed = Bucket(attended, singles) if attended == singles else Bucket(attended + singles, 0)
        fitting = [bucket for bucket in self.graphs if bucket.can_hold(needed)]
        return min(fitting, key=lambda bucket: bucket.tokens, default=None)

    @torch.inference_mode()
    def run(self, pack: Pack) -> None:
        """One step, in place, of a pack that was built for one of the captured buckets."""
        assert pack.bucket is not None
        graph, own = self.graphs[pack.bucket], pack.tensors
        views = graph.tensors
        # All buckets share the buffers, so a pack has to be copied again after another one has run.
        if self._loaded is not pack:
            copy_into_buffers(pack.tensors, views)
            self._loaded = pack
        views.steps[: len(own.steps)].copy_(own.steps)
        if own.noise is not None and views.noise is not None:
            views.noise[: len(own.noise)].copy_(own.noise)
        graph.replay()
        own.latents.copy_(views.latents[: len(own.latents)])
        own.old_denoised.copy_(views.old_denoised[: len(own.latents)])

    def _leading_part(self, bucket: Bucket) -> StepTensors:
        """Views of the leading elements of the buffers, as many as the bucket has tokens."""
        whole, tokens = self._buffers, bucket.tokens
        # With two equal sections every image has two branches, so there are half as many latent tokens as packed ones.
        # With one section an image may have a single branch, so there may be as many.
        latents = bucket.attended
        tables = whole.layout.tables
        return replace(
            whole,
            latents=whole.latents[:latents],
            old_denoised=whole.old_denoised[:latents],
            noise=None if whole.noise is None else whole.noise[:latents],
            owner=whole.owner[:latents],
            source=whole.source[:tokens],
            conditional=whole.conditional[:latents],
            unconditional=whole.unconditional[:latents],
            positions=None if whole.positions is None else whole.positions[:tokens],
            layout=TableLayout.of(
                bucket.attended, bucket.singles, replace(tables, image_index=tables.image_index[:tokens])
            ),
        )


def make_buffers(transformer: SanaTransformer, tokens: int, adds_noise: bool) -> StepTensors:
    """Zeroed buffers for any pack of up to `tokens` packed tokens."""
    config, weight = transformer.config, transformer.proj_out.weight
    device = weight.device

    def index(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    latents = torch.zeros(tokens, config.in_channels, device=device)
    heads = (config.num_cross_attention_heads, config.cross_attention_head_dim)
    keys, values = (weight.new_zeros(config.num_layers, MAX_TEXT_TOKENS, *heads) for _ in range(2))
    return StepTensors(
        latents=latents,
        old_denoised=torch.zeros_like(latents),
        noise=torch.zeros_like(latents) if adds_noise else None,
        steps=torch.zeros(MAX_PACKED_IMAGES, COLUMNS, device=device),
        owner=index(tokens),
        image_owner=index(MAX_PACKED_IMAGES),
        source=index(tokens),
        conditional=index(tokens),
        unconditional=index(tokens),
        positions=None if config.interpolation_scale is None else torch.zeros(tokens, config.width, device=device),
        layout=TableLayout.of(
            tokens,
            0,
            LayoutTables(
                image_index=index(tokens),
                starts=index(MAX_PACKED_IMAGES + 1, dtype=torch.int32),
                sizes=index(MAX_PACKED_IMAGES, 2, dtype=torch.int32),
                texts=index(MAX_PACKED_IMAGES, 2, dtype=torch.int32),
                text_index=index(MAX_PACKED_IMAGES),
            ),
        ),
        text=PackedText(keys, values, weight.new_zeros(config.num_layers, MAX_PACKED_IMAGES, config.width)),
    )


def write_placeholder_layout(views: StepTensors) -> None:
    """Makes the buffers describe one image with all tokens of the bucket.

    A capture runs the kernels, and the indices of the previous, larger bucket would be out of bounds in this one.
    """
    tables, tokens = views.layout.tables, views.layout.total
    for tensor in (views.owner, views.image_owner, views.source, views.conditional, views.unconditional):
        tensor.zero_()
    tables.image_index.zero_()
    tables.text_index.zero_()
    tables.starts.fill_(tokens)
    tables.starts[0] = 0
    tables.sizes.copy_(torch.tensor([1, tokens], dtype=torch.int32))
    tables.texts.copy_(torch.tensor([0, 1], dtype=torch.int32))


def copy_into_buffers(pack: StepTensors, views: StepTensors) -> None:
    """Copies a pack into the buffers. Kernels also read the padding, so it must hold valid indices."""
    for name in ("latents", "old_denoised", "owner", "image_owner", "source", "conditional", "unconditional"):
        copy_and_pad(getattr(pack, name), getattr(views, name), 0)
    target, tables = views.layout.tables, pack.layout.tables
    copy_and_pad(tables.image_index, target.image_index, 0)
    copy_and_pad(tables.starts, target.starts, pack.layout.total)  # the remaining images have no tokens
    copy_and_pad(tables.sizes, target.sizes, 0)
    copy_and_pad(tables.texts, target.texts, 0)
    copy_and_pad(tables.text_index, target.text_index, 0)
    # Attention reads no text token outside of `texts`, so what an earlier pack left after these is never used.
    if views.positions is not None and pack.positions is not None:
        views.positions.copy_(pack.positions)
    views.text.keys[:, : pack.text.length].copy_(pack.text.keys)
    views.text.values[:, : pack.text.length].copy_(pack.text.values)
    views.text.first[:, : pack.text.first.shape[1]].copy_(pack.text.first)


def copy_and_pad(values: torch.Tensor, buffer: torch.Tensor, padding: int) -> None:
    """Copies `values` to the start of `buffer` and writes `padding` to the rest."""
    buffer[: len(values)].copy_(values)
    buffer[len(values) :].fill_(padding)
