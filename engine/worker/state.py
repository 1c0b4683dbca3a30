"""The tensors of one image between two steps."""

from dataclasses import dataclass

import torch

from ..models.sana import PackedText
from .solver import Schedule


@dataclass(frozen=True)
class KnownRegion:
    """The part of an image to repaint that stays as it is.

    Args:
        data: latents of the image, fp32 [h * w, C].
        noise: unit noise that the image started from, fp32 [h * w, C].
        repainted: tokens that are not in the region, bool [h * w, 1].
    """

    data: torch.Tensor
    noise: torch.Tensor
    repainted: torch.Tensor


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
        known: region that is held to the image to repaint, if there is a mask.
    """

    latents: torch.Tensor
    old_denoised: torch.Tensor
    size: tuple[int, int]
    generator: torch.Generator
    schedule: Schedule
    text: PackedText
    negative: PackedText | None
    start_step: int = 0
    known: KnownRegion | None = None

    @property
    def text_tokens(self) -> int:
        """Tokens of the prompt, and under guidance of the negative prompt, that the transformer reads, less <bos>."""
        return sum(text.length - 1 for text in (self.text, self.negative) if text is not None)

    def start_from(self, data: torch.Tensor, repainted: torch.Tensor | None) -> None:
        """Lets the image start from others' latents, with the noise of its first step; from noise alone at step 0.

        Args:
            data: latents of the image to repaint, fp32 [h * w, C].
            repainted: tokens that change, bool [h * w, 1]; None: all.
        """
        noise = self.latents / self.schedule.initial_scale
        if self.start_step:
            data_scale, noise_scale = self.schedule.levels[self.start_step]
            self.latents = data_scale * data + noise_scale * noise
        if repainted is not None:
            self.known = KnownRegion(data, noise, repainted)

    def hold_known(self, steps: int) -> None:
        """Puts the known region back to what it is after `steps` steps of the schedule, in place."""
        if self.known is None:
            return
        known = self.known
        data_scale, noise_scale = self.schedule.levels[steps]
        torch.where(
            known.repainted, self.latents, data_scale * known.data + noise_scale * known.noise, out=self.latents
        )
        torch.where(known.repainted, self.old_denoised, known.data / self.schedule.final_scale, out=self.old_denoised)

    def noise(self) -> torch.Tensor:
        """Fresh unit noise in the layout of the latents, on the host."""
        return unit_noise(self.size, self.latents.shape[1], self.generator)


def unit_noise(size: tuple[int, int], channels: int, generator: torch.Generator) -> torch.Tensor:
    """randn(1, C, h, w) as tokens [h * w, C]: SANA's implementations generate it in this order."""
    noise = torch.randn(1, channels, *size, generator=generator, dtype=torch.float32)
    return noise[0].flatten(1).T.contiguous()
