"""Pixels to latents, for images to repaint: loaded with the first one, and in bands if the image is large."""

from collections.abc import Callable

import numpy as np
import torch

from kernels.layout import upload

from ..errors import GenerationFailed
from ..models.dc_ae import DCAEEncoder
from .decoder import ImageDecoder


class ImageEncoder:
    """The autoencoder's encoder on its device. Most servers never need it, so it takes no memory before the first use.

    Args:
        load: function that loads the encoder. May raise CheckpointError.
        decoder: decoder of the same autoencoder, whose scaling factor and bands it shares.
    """

    def __init__(self, load: Callable[[], DCAEEncoder], decoder: ImageDecoder) -> None:
        self._load = load
        self._decoder = decoder
        self._encoder: DCAEEncoder | None = None

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        """Latents of an image in the transformer's scale, fp32 [h * w, C]. Raises GenerationFailed if they overflow.

        Args:
            pixels: uint8 [H, W, 3], on the model's grid.
        """
        if self._encoder is None:
            self._encoder = self._load()
        weight = self._encoder.conv_out.weight
        image = upload(torch.from_numpy(pixels), self._decoder.device).permute(2, 0, 1).unsqueeze(0)
        image = (image / 127.5 - 1).to(weight.dtype, memory_format=torch.channels_last)
        compression = self._decoder.decoder.compression
        size = (pixels.shape[0] // compression, pixels.shape[1] // compression)
        latents = self._encoder.in_bands(image, max(1, self._decoder.fitting_band(size)))
        if not torch.isfinite(latents).all():
            raise GenerationFailed(f"the image's latents overflowed in {str(weight.dtype).removeprefix('torch.')}")
        return latents[0].flatten(1).T.float().contiguous() * self._decoder.scaling_factor
