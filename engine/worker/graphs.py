"""CUDA graphs of the denoise step. A graph knows rows, not images: every mix that fits its bucket replays it.

Buffers of the largest size hold what a step reads; the graph of a bucket works on their first rows. Laying a pack into
them is a few copies, replaying is one launch instead of some hundreds. The layout lies in the buffers as data.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from kernels.layout import LayoutTables, TableLayout

from ..models.sana import PackedText, SanaTransformer
from .pack import COLUMNS, Bucket, Pack, PackedImage, StepTensors, denoise_step, section_tokens
from .recorder import Recorder

log = logging.getLogger(__name__)

MAX_PACKED_IMAGES = 130
"""In a pack: 64 under guidance, and one that fills each section up."""
MAX_TEXT_TOKENS = 2048
"""Of all prompts in a pack; keys and values of 1.6B take 179 kB a row."""
SMALLEST = 64


def bucket_sizes(most: int) -> Iterator[int]:
    """Four sizes to an octave, so that a twelfth of the rows on average fill up: 64, 80, 96, 112, 128, 160, ..."""
    octave = SMALLEST
    while octave <= most:
        yield from (rows for rows in range(octave, 2 * octave, octave // 4) if rows <= most)
        octave *= 2


def all_buckets(most: int) -> list[Bucket]:
    """The largest first, whose memory the smaller ones then share. Per size: all guided by an empty prompt, or any."""
    found = [Bucket(rows, 0) for rows in bucket_sizes(most)] + [Bucket(rows, rows) for rows in bucket_sizes(most // 2)]
    return sorted(found, key=lambda bucket: (-bucket.rows, bucket.singles))


@dataclass(frozen=True)
class StepGraph:
    """A step on the first rows of the buffers, and how to run it."""

    tensors: StepTensors
    replay: Callable[[], None]


class GraphRunner:
    """Buckets captured once, packs laid into them and replayed.

    Args:
        max_tokens: of a forward; larger packs run without a graph.
        draws_noise: whether the solver adds noise between steps.
    """

    def __init__(self, transformer: SanaTransformer, max_tokens: int, draws_noise: bool) -> None:
        self.transformer = transformer
        self.graphs: dict[Bucket, StepGraph] = {}
        self._buffers = make_buffers(transformer, max_tokens, draws_noise)
        self._max_tokens = max_tokens
        self._loaded: Pack | None = None

    @torch.inference_mode()
    def capture(self, recorder: Recorder) -> None:
        """Captures all buckets, or as many as there is time and memory for."""
        buckets = all_buckets(self._max_tokens)
        for bucket in buckets:
            tensors = self._views(bucket)
            clear(tensors)
            replay = recorder.record(partial(denoise_step, self.transformer, tensors))
            if replay is None:
                break
            self.graphs[bucket] = StepGraph(tensors, replay)
        log.info("%d of %d graphs of steps of up to %d rows", len(self.graphs), len(buckets), self._max_tokens)

    def bucket_of(self, images: Sequence[PackedImage]) -> Bucket | None:
        """The smallest captured bucket that holds them; None where there is none, and no graph."""
        text_tokens = sum(text.length for text in {id(image.text): image.text for image in images}.values())
        if len(images) > MAX_PACKED_IMAGES - 2 or text_tokens > MAX_TEXT_TOKENS:
            return None
        attended, singles = section_tokens(images)
        needed = Bucket(attended, singles) if attended == singles else Bucket(attended + singles, 0)
        fitting = [bucket for bucket in self.graphs if bucket.holds(needed)]
        return min(fitting, key=lambda bucket: bucket.rows, default=None)

    @torch.inference_mode()
    def run(self, pack: Pack) -> None:
        """One step of a pack that was built for one of the buckets."""
        assert pack.bucket is not None
        graph, own = self.graphs[pack.bucket], pack.tensors
        views = graph.tensors
        if self._loaded is not pack:
            load(views, own)
            self._loaded = pack
        views.steps[: len(own.steps)].copy_(own.steps)
        if own.noise is not None and views.noise is not None:
            views.noise[: len(own.noise)].copy_(own.noise)
        graph.replay()
        own.latents.copy_(views.latents[: len(own.latents)])
        own.old_denoised.copy_(views.old_denoised[: len(own.latents)])

    def _views(self, bucket: Bucket) -> StepTensors:
        """The first rows of the buffers."""
        whole, rows = self._buffers, bucket.rows
        latents = bucket.attended  # under guidance by an empty prompt, else each row may be a member's own
        tables = whole.layout.tables
        views = {name: getattr(whole, name)[:latents] for name in ("latents", "old_denoised", "owner")}
        views |= {name: getattr(whole, name)[:latents] for name in ("conditional", "unconditional")}
        return replace(
            whole,
            **views,
            noise=None if whole.noise is None else whole.noise[:latents],
            source=whole.source[:rows],
            positions=None if whole.positions is None else whole.positions[:rows],
            layout=TableLayout.of(
                bucket.attended, bucket.singles, replace(tables, image_index=tables.image_index[:rows])
            ),
        )


def make_buffers(transformer: SanaTransformer, rows: int, draws_noise: bool) -> StepTensors:
    """Room for any pack of so many rows."""
    config, weight = transformer.config, transformer.proj_out.weight
    device = weight.device

    def index(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    latents = torch.zeros(rows, config.in_channels, device=device)
    heads = (config.num_cross_attention_heads, config.cross_attention_head_dim)
    keys, values = (weight.new_zeros(config.num_layers, MAX_TEXT_TOKENS, *heads) for _ in range(2))
    starts, sizes, texts = (
        index(*shape, dtype=torch.int32)
        for shape in ((MAX_PACKED_IMAGES + 1,), (MAX_PACKED_IMAGES, 2), (MAX_PACKED_IMAGES, 2))
    )
    first = weight.new_zeros(config.num_layers, MAX_PACKED_IMAGES, config.width)
    return StepTensors(
        latents=latents,
        old_denoised=torch.zeros_like(latents),
        noise=torch.zeros_like(latents) if draws_noise else None,
        steps=torch.zeros(MAX_PACKED_IMAGES, COLUMNS, device=device),
        owner=index(rows),
        image_owner=index(MAX_PACKED_IMAGES),
        source=index(rows),
        conditional=index(rows),
        unconditional=index(rows),
        positions=None if config.interpolation_scale is None else torch.zeros(rows, config.width, device=device),
        layout=TableLayout.of(rows, 0, LayoutTables(index(rows), starts, sizes, texts, index(MAX_PACKED_IMAGES))),
        text=PackedText(keys, values, first),
    )


def clear(views: StepTensors) -> None:
    """One image of all rows, for a capture: whatever was there before may not fit."""
    tables, rows = views.layout.tables, views.layout.total
    for tensor in (views.owner, views.image_owner, views.source, views.conditional, views.unconditional):
        tensor.zero_()
    tables.image_index.zero_()
    tables.text_index.zero_()
    tables.starts.fill_(rows)
    tables.starts[0] = 0
    tables.sizes.copy_(torch.tensor([1, rows], dtype=torch.int32))
    tables.texts.copy_(torch.tensor([0, 1], dtype=torch.int32))


def load(views: StepTensors, pack: StepTensors) -> None:
    """Lays a pack into the buffers. What lies behind it there is read, for nobody, and has to be valid."""
    for name in ("latents", "old_denoised", "owner", "image_owner", "source", "conditional", "unconditional"):
        fill(getattr(views, name), getattr(pack, name), 0)
    target, tables = views.layout.tables, pack.layout.tables
    fill(target.image_index, tables.image_index, 0)
    fill(target.starts, tables.starts, pack.layout.total)  # images without rows
    fill(target.sizes, tables.sizes, 0)
    fill(target.texts, tables.texts, 0)
    fill(target.text_index, tables.text_index, 0)
    if views.positions is not None and pack.positions is not None:
        views.positions.copy_(pack.positions)
    views.text.keys[:, : pack.text.length].copy_(pack.text.keys)
    views.text.values[:, : pack.text.length].copy_(pack.text.values)
    views.text.first[:, : pack.text.first.shape[1]].copy_(pack.text.first)


def fill(buffer: torch.Tensor, values: torch.Tensor, rest: int) -> None:
    buffer[: len(values)].copy_(values)
    buffer[len(values) :].fill_(rest)
