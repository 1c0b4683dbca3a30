"""The tensors of one image between two steps."""

from dataclasses import dataclass

import torch

from ..models.sana import PackedText
from .solver import Schedule


@dataclass
class ImageState:
    """Latents of one image as a token matrix, and everything else its next step needs.

    Args:
        latents, old_denoised: fp32 [h * w, C] on the device; the second is the estimate of the previous step.
        size: (h, w) in latent pixels.
        generator: CPU generator seeded for this image alone; it also makes Sprint's noise between steps.
        schedule: all steps of the image's step count.
        text: projected prompt.
        negative: projected negative prompt, or None without classifier-free guidance.
        start_step: first step of the schedule that the image takes; it has no history, so it is first order.
    """

    latents: torch.Tensor
    old_denoised: torch.Tensor
    size: tuple[int, int]
    generator: torch.Generator
    schedule: Schedule
    text: PackedText
    negative: PackedText | None
    start_step: int = 0

    @property
    def text_tokens(self) -> int:
        """Tokens of the prompt, and under guidance of the negative prompt, that the transformer reads, less <bos>."""
        return sum(text.length - 1 for text in (self.text, self.negative) if text is not None)

    def noise(self) -> torch.Tensor:
        """Fresh unit noise in the layout of the latents, on the host."""
        return unit_noise(self.size, self.latents.shape[1], self.generator)


def unit_noise(size: tuple[int, int], channels: int, generator: torch.Generator) -> torch.Tensor:
    """randn(1, C, h, w) as tokens [h * w, C]: SANA's implementations generate it in this order."""
    noise = torch.randn(1, channels, *size, generator=generator, dtype=torch.float32)
    return noise[0].flatten(1).T.contiguous()
