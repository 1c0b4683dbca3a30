"""Latents to pixels on the host: in bands if the image is large, on CUDA in a stream parallel to the next steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from kernels.layout import TokenLayout
from kernels.to_uint8 import to_uint8

from ..costs import MemoryModel
from ..errors import GenerationFailed
from ..models.dc_ae import BAND_ELEMENTS, DCAEDecoder
from .memory import LIVE_STAGES
from .recorder import GraphRecorder

HOST = torch.device("cpu")
MIN_BAND_ELEMENTS = 2**20
"""Below it a band of a large image is a row or two, and nearly all of its work is the halo."""
GRAPH_SIZES = ((1024, 1792), (1792, 1024), (1024, 1536), (1536, 1024), (1024, 1024), (512, 512), (256, 256))
"""(height, width) in pixels to capture a graph for: the sizes in OpenAI's API, the largest first, because the others
then reuse its memory. A graph of the decoder, unlike one of a step, is for one shape."""


@dataclass(frozen=True)
class DecodedImage:
    """Output of a decode: pixels uint8 [H, W, 3], and whether all values were finite, bool []."""

    pixels: torch.Tensor
    finite: torch.Tensor

    @classmethod
    def empty(cls, size: tuple[int, int], device: torch.device, pinned: bool = False) -> "DecodedImage":
        """Uninitialised memory for an image of `size` (height, width) in pixels."""
        pixels, finite = (
            torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned)
            for shape, dtype in (((*size, 3), torch.uint8), ((), torch.bool))
        )
        return cls(pixels, finite)


@dataclass(frozen=True)
class DecodeGraph:
    """A captured decode of one size, with the tensors it works on.

    Args:
        latents: input, fp32 [h * w, C] on the device.
        image: output, on the device.
        layouts: layouts whose tables the graph reads; they must live as long as it does.
        replay: function that runs the decode.
    """

    latents: torch.Tensor
    image: DecodedImage
    layouts: tuple[TokenLayout, ...]
    replay: Callable[[], None]


class ImageDecoder:
    """The decoder on its device, within a bounded memory.

    Args:
        scaling_factor: factor of the transformer's latents, by which they are divided before decoding.
        dtype: dtype of the transformer, named in the error about an image that overflowed.

    Bands shrink after running out of memory; with `memory` set they shrink before, because a host may not survive it.
    """

    def __init__(self, decoder: DCAEDecoder, scaling_factor: float, dtype: torch.dtype) -> None:
        self.decoder = decoder
        self.scaling_factor = scaling_factor
        self.dtype = dtype
        self.band_elements = BAND_ELEMENTS
        self.memory: MemoryModel | None = None
        self.graphs: dict[tuple[int, int], DecodeGraph] = {}
        weight = decoder.conv_in.weight
        self.device, self._weight_dtype = weight.device, weight.dtype
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def capture(self, seconds: float) -> None:
        """Captures graphs for the usual sizes, the largest ones until `seconds` or memory run out."""
        recorder, channels = GraphRecorder(self.device, seconds, self._stream), self.decoder.conv_in.in_channels
        for height, width in GRAPH_SIZES:
            size = (height // self.decoder.compression, width // self.decoder.compression)
            latents = torch.zeros(size[0] * size[1], channels, device=self.device)
            image = DecodedImage.empty((height, width), self.device)
            # Emptied first, so that afterwards the cache holds the layouts of this decode and no others.
            self.decoder.layouts.clear()
            replay = recorder.capture(partial(self._decode_into, latents, size, image))
            if replay is None:
                break
            self.graphs[size] = DecodeGraph(latents, image, self.decoder.layouts.layouts, replay)

    def decode(self, latents: torch.Tensor, size: tuple[int, int]) -> Callable[[], np.ndarray]:
        """Queues the decode of one image and returns a function that waits for its pixels, uint8 [H, W, 3].

        On the CPU the decode is done on return. The function raises GenerationFailed if values overflowed.

        Args:
            latents: fp32 [h * w, C].
            size: (h, w) in latent pixels.
        """
        height, width = (side * self.decoder.compression for side in size)
        if self._stream is None:
            image = DecodedImage.empty((height, width), HOST)
            self._run(latents, size, image)
            if self.device.type == "mps":
                torch.mps.synchronize()
            return partial(self._finite_pixels, image)
        image, done = DecodedImage.empty((height, width), HOST, pinned=True), torch.cuda.Event()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            latents.record_stream(self._stream)  # the caller may free them before this stream has read them
            self._run(latents, size, image)
            done.record()

        def wait() -> np.ndarray:
            done.synchronize()
            return self._finite_pixels(image)

        return wait

    def shrink_bands(self) -> bool:
        """Makes bands a quarter as large, after running out of memory. Returns False if they cannot be smaller."""
        if self.band_elements <= MIN_BAND_ELEMENTS:
            return False
        self.band_elements //= 4
        return True

    def fitting_band(self, size: tuple[int, int]) -> int:
        """Elements of a band, fewer where the memory model says that the usual ones would not fit."""
        if self.memory is None:
            return self.band_elements
        height, width = (side * self.decoder.compression for side in size)
        spare = self.memory.capacity - self.memory.image_bytes(0, width, height)
        return min(self.band_elements, max(0, spare) // (LIVE_STAGES * self._weight_dtype.itemsize))

    def _run(self, latents: torch.Tensor, size: tuple[int, int], image: DecodedImage) -> None:
        """Queues the decode into `image` on the host, with the size's graph if there is one."""
        graph = self.graphs.get(size)
        if graph is None:
            self._decode_into(latents, size, image)
            return
        graph.latents.copy_(latents)
        graph.replay()
        image.pixels.copy_(graph.image.pixels, non_blocking=True)
        image.finite.copy_(graph.image.finite, non_blocking=True)

    def _decode_into(self, latents: torch.Tensor, size: tuple[int, int], image: DecodedImage) -> None:
        """Queues the decode into `image`, which may be on the device or on the host."""
        scaled = latents.T.unflatten(1, size).unsqueeze(0).to(self._weight_dtype) / self.scaling_factor
        finite = torch.isfinite(latents).all()
        scaled = scaled.contiguous(memory_format=torch.channels_last)
        for rows, band in self.decoder.bands(scaled, self.fitting_band(size)):
            finite &= torch.isfinite(band).all()
            image.pixels[rows].copy_(to_uint8(band[0]), non_blocking=True)
        image.finite.copy_(finite, non_blocking=True)

    def _finite_pixels(self, image: DecodedImage) -> np.ndarray:
        """Pixels of a decode that is done. Raises GenerationFailed if values overflowed."""
        if not image.finite.item():
            dtype = str(self.dtype).removeprefix("torch.")
            raise GenerationFailed(f"the image overflowed in {dtype}; start the server with a wider --dtype")
        return image.pixels.numpy()
