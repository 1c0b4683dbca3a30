"""The tensors of one image between two steps."""

from dataclasses import dataclass

import torch

from ..models.sana import PackedText
from .solver import Schedule


@dataclass
class ImageState:
    """Latents as token rows, and all that the next step needs.

    Args:
        latents, old_denoised: fp32 [h * w, C] on the device.
        size: (h, w) in latent pixels.
        generator: CPU generator seeded for this image alone; also draws Sprint's noise between steps.
        text: of the prompt.
        negative: of the negative prompt, or None without classifier-free guidance.
    """

    latents: torch.Tensor
    old_denoised: torch.Tensor
    size: tuple[int, int]
    generator: torch.Generator
    schedule: Schedule
    text: PackedText
    negative: PackedText | None

    @property
    def text_tokens(self) -> int:
        """Of the prompt, and of the negative prompt where it is read, as the transformer reads them, without <bos>."""
        return sum(text.length - 1 for text in (self.text, self.negative) if text is not None)

    def noise(self) -> torch.Tensor:
        """Fresh unit noise in the layout of the latents, on the host."""
        return unit_noise(self.size, self.latents.shape[1], self.generator)


def unit_noise(size: tuple[int, int], channels: int, generator: torch.Generator) -> torch.Tensor:
    """randn(1, C, h, w) as rows [h * w, C]: the order in which every SANA implementation draws."""
    noise = torch.randn(1, channels, *size, generator=generator, dtype=torch.float32)
    return noise[0].flatten(1).T.contiguous()
