"""The borders of the images in the packed token matrix: all that an op knows about a batch.

Images lie end to end in one matrix [T, width], one token per row. Operations per token ignore the borders; linear
attention, the depthwise convolution and cross-attention read them here. Texts are packed in the same way, one text
token per row, and several images may point at one text.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import torch


@dataclass(frozen=True)
class Run:
    """Consecutive images of one shape: their tokens can be viewed as [count, height, width]."""

    images: slice
    tokens: slice
    count: int
    height: int
    width: int


@dataclass(frozen=True)
class TextRun:
    """Consecutive images with one token count and one text length: one batched attention call."""

    tokens: slice
    texts: tuple[slice, ...]

    def gather(self, text: torch.Tensor) -> torch.Tensor:
        """The texts of this run, [count, length, ...], from the packed text [S, ...]; a view if they are contiguous."""
        if all(a.stop == b.start for a, b in pairwise(self.texts)):
            return text[self.texts[0].start : self.texts[-1].stop].unflatten(0, (len(self.texts), -1))
        return torch.stack([text[tokens] for tokens in self.texts])


@dataclass(frozen=True)
class LayoutTables:
    """The layout as kernels read it. Tensors are data: a captured graph replays on their contents at that time.

    Args:
        image_index: image of each token, int64 [T].
        starts: first token of each image, then the total, int32 [N + 1]. An image may have no tokens.
        sizes: (height, width) of each image, int32 [N, 2].
        texts: (start, stop) of each image's text tokens, int32 [N, 2].
        text_index: text of each image, numbered in the order of the packed text, int64 [N].
    """

    image_index: torch.Tensor
    starts: torch.Tensor
    sizes: torch.Tensor
    texts: torch.Tensor
    text_index: torch.Tensor

    @property
    def images(self) -> int:
        """The number of images, N."""
        return len(self.sizes)


@dataclass(frozen=True)
class TokenLayout:
    """The borders of N packed images.

    Args:
        sizes: (height, width) of each image in tokens.
        texts: (start, stop) of the text tokens that each image attends to, at least one. Images with a single text
            token must be the last ones: their cross-attention is the value of that token, so they need no queries
            (see `attended`).
        device: device of the tables.

    Raises:
        ValueError: no image, unequal counts, a text without tokens, or a single-token text before a longer one.
    """

    sizes: tuple[tuple[int, int], ...]
    texts: tuple[tuple[int, int], ...]
    device: torch.device

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.texts) or not self.sizes:
            raise ValueError(
                f"sizes and texts must have equal lengths of at least 1, got {len(self.sizes)} and {len(self.texts)}"
            )
        lengths = [stop - start for start, stop in self.texts]
        if min(lengths) < 1:
            raise ValueError(f"each text must have at least 1 token, got {min(lengths)}")
        if any(a == 1 and b > 1 for a, b in pairwise(lengths)):
            raise ValueError(f"images with a single text token must be the last ones, got text lengths {lengths}")

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First token of each image, then the total: N + 1 values."""
        offsets = [0]
        for height, width in self.sizes:
            offsets.append(offsets[-1] + height * width)
        return tuple(offsets)

    @property
    def total(self) -> int:
        """The number of tokens, T."""
        return self.offsets[-1]

    @cached_property
    def image_index(self) -> torch.Tensor:
        """Image of each token, int64 [T]."""
        counts = torch.tensor([h * w for h, w in self.sizes])
        return upload(torch.repeat_interleave(torch.arange(len(self.sizes)), counts), self.device)

    @cached_property
    def tables(self) -> LayoutTables:
        """The layout as tensors on the device, made once per layout."""
        starts, sizes, texts = (
            upload(torch.tensor(values, dtype=torch.int32), self.device)
            for values in (self.offsets, self.sizes, self.texts)
        )
        order = {text: i for i, text in enumerate(sorted(set(self.texts)))}
        text_index = upload(torch.tensor([order[text] for text in self.texts]), self.device)
        return LayoutTables(self.image_index, starts, sizes, texts, text_index)

    def align(self, tokens: torch.Tensor, *vectors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens [T, C] and vectors of images [N, C] each, in shapes in which they broadcast.

        Images of one shape need no copy of a vector per token: they are [N, t, C] and [N, 1, C]. Else all are [T, C].
        """
        if len(self.runs) == 1:
            return tokens.unflatten(0, (len(self.sizes), -1)), *(vector[:, None] for vector in vectors)
        return tokens, *(vector.index_select(0, self.image_index) for vector in vectors)

    @cached_property
    def single_text_images(self) -> range:
        """The images with a single text token: the last ones."""
        first = next((i for i, (start, stop) in enumerate(self.texts) if stop - start == 1), len(self.texts))
        return range(first, len(self.texts))

    @property
    def attended(self) -> int:
        """The number of leading tokens that need cross-attention: their text has more than one token."""
        return self.offsets[self.single_text_images.start]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All images in order, consecutive ones of one shape together."""
        runs = []
        for (height, width), group in groupby(enumerate(self.sizes), key=lambda item: item[1]):
            images = [i for i, _ in group]
            tokens = slice(self.offsets[images[0]], self.offsets[images[-1] + 1])
            runs.append(Run(slice(images[0], images[-1] + 1), tokens, len(images), height, width))
        return tuple(runs)

    @cached_property
    def text_runs(self) -> tuple[TextRun, ...]:
        """The images that need cross-attention in order, consecutive ones of equal counts together."""

        def shape(i: int) -> tuple[int, int]:
            return self.offsets[i + 1] - self.offsets[i], self.texts[i][1] - self.texts[i][0]

        runs = []
        for _, group in groupby(range(self.single_text_images.start), key=shape):
            images = list(group)
            tokens = slice(self.offsets[images[0]], self.offsets[images[-1] + 1])
            runs.append(TextRun(tokens, tuple(slice(*self.texts[i]) for i in images)))
        return tuple(runs)


@dataclass(frozen=True)
class TableLayout(TokenLayout):
    """A layout whose images are data: kernels find them in `tables`, which may be rewritten between two forwards.

    `sizes` and `texts` hold only the numbers of tokens with and without cross-attention, not the images. So only
    kernels can use it: a reference needs the images.
    """

    data: LayoutTables

    @property
    def tables(self) -> LayoutTables:
        return self.data

    @classmethod
    def of(cls, attended: int, singles: int, tables: LayoutTables) -> "TableLayout":
        """A layout of `attended` tokens with cross-attention, then `singles` tokens of images with one text token.

        If `singles` is 0, images with one text token may be among the others: softmax over one key is 1.
        """
        sections = [((1, tokens), (0, keys)) for tokens, keys in ((attended, 2), (singles, 1)) if tokens]
        sizes, texts = tuple(size for size, _ in sections), tuple(text for _, text in sections)
        return cls(sizes, texts, tables.starts.device, tables)


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device that the host does not wait for: an ordinary copy waits for all work before it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
