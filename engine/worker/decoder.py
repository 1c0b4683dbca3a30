"""Latents to pixels on the host: in bands where the picture is large, on CUDA in a stream beside the next steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from kernels.layout import TokenLayout
from kernels.to_uint8 import to_uint8

from ..errors import GenerationFailed
from ..models.dc_ae import BAND_ELEMENTS, DCAEDecoder
from ..models.dc_ae_blocks import recent_layouts
from .recorder import Recorder

HOST = torch.device("cpu")
MIN_BAND_ELEMENTS = 2**20
"""Below it the bands are all halo: a row or two of a large picture."""
GRAPH_SIZES = ((1024, 1792), (1792, 1024), (1024, 1536), (1536, 1024), (1024, 1024), (512, 512), (256, 256))
"""(height, width) in pixels: what OpenAI's clients ask for, the largest first, whose memory the others share. A graph
of the decoder, unlike one of a step, is for one shape."""


@dataclass(frozen=True)
class DecodedImage:
    """What a decode writes: uint8 [H, W, 3], and whether all numbers were finite, bool []."""

    pixels: torch.Tensor
    finite: torch.Tensor

    @classmethod
    def of(cls, size: tuple[int, int], device: torch.device, pinned: bool = False) -> "DecodedImage":
        pixels, finite = (
            torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned)
            for shape, dtype in (((*size, 3), torch.uint8), ((), torch.bool))
        )
        return cls(pixels, finite)


@dataclass(frozen=True)
class DecodeGraph:
    """A decode of one size from its own latents to its own picture, on the device."""

    latents: torch.Tensor
    image: DecodedImage
    layouts: tuple[TokenLayout, ...]  # whose tables it reads
    replay: Callable[[], None]


class ImageDecoder:
    """The decoder on its device, and the memory that it may take.

    Args:
        scaling_factor: of the latents that the transformer draws.
        dtype: of the transformer, for the error of a picture that overflowed.
    """

    def __init__(self, decoder: DCAEDecoder, scaling_factor: float, dtype: torch.dtype) -> None:
        self.decoder = decoder
        self.scaling_factor = scaling_factor
        self.dtype = dtype
        self.band_elements = BAND_ELEMENTS
        self.graphs: dict[tuple[int, int], DecodeGraph] = {}
        weight = decoder.conv_in.weight
        self.device, self._weight_dtype = weight.device, weight.dtype
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def capture(self, until: float) -> None:
        """Graphs for the usual sizes, as many as there is time and memory for."""
        recorder, channels = Recorder(self.device, until, self._stream), self.decoder.conv_in.in_channels
        for height, width in GRAPH_SIZES:
            size = (height // self.decoder.compression, width // self.decoder.compression)
            latents = torch.zeros(size[0] * size[1], channels, device=self.device)
            image = DecodedImage.of((height, width), self.device)
            replay = recorder.record(partial(self._decode_into, latents, size, image))
            if replay is None:
                break
            self.graphs[size] = DecodeGraph(latents, image, tuple(recent_layouts), replay)

    def decode(self, latents: torch.Tensor, size: tuple[int, int]) -> Callable[[], np.ndarray]:
        """latents: fp32 [h * w, C] of an image of (h, w) latent pixels.

        Returns at once on CUDA; the function returned waits for the pixels, uint8 [H, W, 3]. It raises
        GenerationFailed when the numbers overflowed.
        """
        height, width = (side * self.decoder.compression for side in size)
        if self._stream is None:
            image = DecodedImage.of((height, width), HOST)
            self._run(latents, size, image)
            return partial(self._checked, image)
        image, done = DecodedImage.of((height, width), HOST, pinned=True), torch.cuda.Event()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            latents.record_stream(self._stream)
            self._run(latents, size, image)
            done.record()

        def wait() -> np.ndarray:
            done.synchronize()
            return self._checked(image)

        return wait

    def shrink_bands(self) -> bool:
        """After too little memory for a decode: bands of a quarter. False when they cannot be smaller."""
        if self.band_elements <= MIN_BAND_ELEMENTS:
            return False
        self.band_elements //= 4
        return True

    def _run(self, latents: torch.Tensor, size: tuple[int, int], image: DecodedImage) -> None:
        graph = self.graphs.get(size)
        if graph is None:
            self._decode_into(latents, size, image)
            return
        graph.latents.copy_(latents)
        graph.replay()
        image.pixels.copy_(graph.image.pixels, non_blocking=True)
        image.finite.copy_(graph.image.finite, non_blocking=True)

    def _decode_into(self, latents: torch.Tensor, size: tuple[int, int], image: DecodedImage) -> None:
        """Queues the decode; the picture may be on the device or on the host."""
        scaled = latents.T.unflatten(1, size).unsqueeze(0).to(self._weight_dtype) / self.scaling_factor
        finite = torch.isfinite(latents).all()
        for rows, band in self.decoder.bands(scaled.contiguous(memory_format=torch.channels_last), self.band_elements):
            finite &= torch.isfinite(band).all()
            image.pixels[rows].copy_(to_uint8(band[0]), non_blocking=True)
        image.finite.copy_(finite, non_blocking=True)

    def _checked(self, image: DecodedImage) -> np.ndarray:
        if not image.finite.item():  # on the host by now
            dtype = str(self.dtype).removeprefix("torch.")
            raise GenerationFailed(f"the picture overflowed in {dtype}; start the server with a wider --dtype")
        return image.pixels.numpy()
