"""Where each image lies in the packed token matrix: the only thing an op knows about a batch.

Images lie end to end as rows of one matrix [T, width]. Everything per token ignores borders; linear attention, the
depthwise convolution and cross-attention read them here. Images that share a text may point at the same text rows.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import torch


@dataclass(frozen=True)
class Run:
    """Consecutive images of one shape: `tokens` rows of the matrix, seen as [count, height, width]."""

    images: slice
    tokens: slice
    count: int
    height: int
    width: int


@dataclass(frozen=True)
class TextRun:
    """Consecutive images of one token count whose texts have one length: one batched attention call."""

    tokens: slice
    texts: tuple[slice, ...]

    def gather(self, text: torch.Tensor) -> torch.Tensor:
        """This run's rows of the packed text [S, ...] as [count, length, ...]; a view where they lie end to end."""
        if all(a.stop == b.start for a, b in pairwise(self.texts)):
            return text[self.texts[0].start : self.texts[-1].stop].unflatten(0, (len(self.texts), -1))
        return torch.stack([text[rows] for rows in self.texts])


@dataclass(frozen=True)
class LayoutTables:
    """The layout as kernels read it. Tensors are data: a captured graph replays on whatever they hold by then.

    Args:
        image_index: image of each row, int64 [T].
        starts: first row of each image, and the total, int32 [N + 1]. An image may have no rows.
        sizes: (height, width) of each image, int32 [N, 2].
        texts: (start, stop) of each image's text rows, int32 [N, 2].
        text_index: text of each image, counted in the order of their rows, int64 [N].
    """

    image_index: torch.Tensor
    starts: torch.Tensor
    sizes: torch.Tensor
    texts: torch.Tensor
    text_index: torch.Tensor

    @property
    def images(self) -> int:
        """N."""
        return len(self.sizes)


@dataclass(frozen=True)
class TokenLayout:
    """Borders of N packed images.

    Args:
        sizes: (height, width) of each image in tokens.
        texts: per image, the (start, stop) rows of the packed text it attends to; at least one row each. Images with a
            single text row may only stand at the end: their attention is the identity on that row, so no query is
            computed for them (see `attended`).
        device: where its tensors live.
    """

    sizes: tuple[tuple[int, int], ...]
    texts: tuple[tuple[int, int], ...]
    device: torch.device

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.texts) or not self.sizes:
            raise ValueError(f"{len(self.sizes)} image sizes for {len(self.texts)} texts; need the same, at least one")
        lengths = [stop - start for start, stop in self.texts]
        if min(lengths) < 1:
            raise ValueError("every image needs at least one text row")
        if any(a == 1 and b > 1 for a, b in pairwise(lengths)):
            raise ValueError("images with a single text row belong at the end of the pack")

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each image, and the total: N + 1 values."""
        offsets = [0]
        for height, width in self.sizes:
            offsets.append(offsets[-1] + height * width)
        return tuple(offsets)

    @property
    def total(self) -> int:
        """Rows of the matrix, T."""
        return self.offsets[-1]

    @cached_property
    def image_index(self) -> torch.Tensor:
        """Image of each row, int64 [T]."""
        counts = torch.tensor([h * w for h, w in self.sizes])
        return upload(torch.repeat_interleave(torch.arange(len(self.sizes)), counts), self.device)

    @cached_property
    def tables(self) -> LayoutTables:
        starts, sizes, texts = (
            upload(torch.tensor(values, dtype=torch.int32), self.device)
            for values in (self.offsets, self.sizes, self.texts)
        )
        order = {text: i for i, text in enumerate(sorted(set(self.texts)))}
        text_index = upload(torch.tensor([order[text] for text in self.texts]), self.device)
        return LayoutTables(self.image_index, starts, sizes, texts, text_index)

    def spread(self, vectors: torch.Tensor) -> torch.Tensor:
        """One vector per image, [N, C], to one per row, [T, C]. A copy per run: both ways faster than a gather."""
        rows = [vectors[run.images, None].expand(-1, run.height * run.width, -1).flatten(0, 1) for run in self.runs]
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    @cached_property
    def single_text_images(self) -> range:
        """Images with one text row: the last ones."""
        first = next((i for i, (start, stop) in enumerate(self.texts) if stop - start == 1), len(self.texts))
        return range(first, len(self.texts))

    @property
    def attended(self) -> int:
        """Leading rows whose cross-attention has more than one key."""
        return self.offsets[self.single_text_images.start]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The images grouped into batches of one shape, in order."""
        runs = []
        for (height, width), group in groupby(enumerate(self.sizes), key=lambda item: item[1]):
            images = [i for i, _ in group]
            rows = slice(self.offsets[images[0]], self.offsets[images[-1] + 1])
            runs.append(Run(slice(images[0], images[-1] + 1), rows, len(images), height, width))
        return tuple(runs)

    @cached_property
    def text_runs(self) -> tuple[TextRun, ...]:
        """The images with several text rows, grouped for attention, in order."""

        def shape(i: int) -> tuple[int, int]:
            return self.offsets[i + 1] - self.offsets[i], self.texts[i][1] - self.texts[i][0]

        runs = []
        for _, group in groupby(range(self.single_text_images.start), key=shape):
            images = list(group)
            rows = slice(self.offsets[images[0]], self.offsets[images[-1] + 1])
            runs.append(TextRun(rows, tuple(slice(*self.texts[i]) for i in images)))
        return tuple(runs)


@dataclass(frozen=True)
class TableLayout(TokenLayout):
    """A layout whose images are data: kernels find them in `tables`, which may be rewritten between two forwards.

    `sizes` tells no more than the rows there are with several text rows and with one. For kernels alone: a reference
    needs to know the images.
    """

    data: LayoutTables

    @property
    def tables(self) -> LayoutTables:
        return self.data

    @classmethod
    def of(cls, attended: int, singles: int, tables: LayoutTables) -> "TableLayout":
        """For tables of `attended` rows of images with several text rows, and behind them `singles` of those with one.

        Where there are no `singles`, images with one text row may be among the others: softmax over one key is 1.
        """
        sections = [((1, rows), (0, keys)) for rows, keys in ((attended, 2), (singles, 1)) if rows]
        sizes, texts = tuple(size for size, _ in sections), tuple(text for _, text in sections)
        return cls(sizes, texts, tables.starts.device, tables)


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device that the host does not wait for: a plain one would wait for all work before it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
