"""Predicted seconds and bytes of a request before it runs: measured at warm-up, corrected by every step."""

import math
from dataclasses import dataclass, replace

from .stats import StepReport
from .types import GenerationParams, ModelInfo

CORRECTION = 0.05
"""Weight of one step in the running correction: the twenty steps of one image make two thirds of a correction."""


@dataclass(frozen=True)
class CostModel:
    """Seconds of each phase. A denoise step has a fixed part, which the images of a batch share.

    Args:
        encode: seconds per image.
        step, token: seconds per denoise step, plus seconds per token of its forward.
        decode, pixel: seconds per decode, plus seconds per pixel.
    """

    encode: float
    step: float
    token: float
    decode: float
    pixel: float

    def step_seconds(self, tokens: int) -> float:
        """Seconds of one denoise step of `tokens` tokens."""
        return self.step + self.token * tokens

    def decode_seconds(self, pixels: int) -> float:
        """Seconds of decoding one image of `pixels` pixels."""
        return self.decode + self.pixel * pixels

    def tokens_within(self, seconds: float) -> int:
        """Tokens of a denoise step that takes `seconds`."""
        return max(0, int((seconds - self.step) / self.token))

    def image_seconds(self, tokens: int, steps: int, pixels: int, decodes: int = 1) -> float:
        """Seconds of one image alone on the device; `tokens` counts both branches of guidance."""
        return self.encode + steps * self.step_seconds(tokens) + decodes * self.decode_seconds(pixels)

    def corrected(self, report: StepReport) -> "CostModel":
        """Costs moved towards the seconds of a reported step. Outliers beyond a factor of 4 count as 4."""
        if report.phase == "encode":
            return replace(self, encode=self.encode * correction(report.seconds, self.encode * report.images))
        if report.phase == "decode":
            factor = correction(report.seconds, self.decode_seconds(report.pixels))
            return replace(self, decode=self.decode * factor, pixel=self.pixel * factor)
        factor = correction(report.seconds, self.step_seconds(report.tokens))
        return replace(self, step=self.step * factor, token=self.token * factor)


def correction(measured: float, predicted: float) -> float:
    """Factor that moves a prediction by `CORRECTION` of its error."""
    return float(1 + CORRECTION * (min(max(measured / predicted, 0.25), 4.0) - 1))


def fit_line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """(intercept, slope) through the smallest and the largest (size, seconds); both stay positive on a noisy clock."""
    (small, fast), (large, slow) = min(points), max(points)
    slope = max((slow - fast) / (large - small), 0.1 * slow / large)
    return max(fast - slope * small, 0.01 * fast), slope


@dataclass(frozen=True)
class MemoryModel:
    """Bytes that an image needs on the device beside the weights, and bytes that are available.

    Args:
        capacity: bytes free once the model is loaded.
        token: bytes of activations per token of a forward.
        pixel: bytes per pixel of the decoder's whole-image stages and of the finished image.
        band: bytes per pixel of width of the decoder's shallow stages, which run in bands, at their smallest band.
    """

    capacity: int
    token: int
    pixel: int
    band: int

    def image_bytes(self, tokens: int, width: int, height: int) -> int:
        """Peak bytes of one image alone."""
        return max(tokens * self.token, width * height * self.pixel + width * self.band)


def is_guided(params: GenerationParams, model: ModelInfo) -> bool:
    """Whether each forward of the request has a second, unconditional branch."""
    return model.guidance_branch and params.guidance_scale > 1


def grid_size(params: GenerationParams, model: ModelInfo) -> tuple[int, int]:
    """(width, height) in pixels to generate at: each side rounded up to the model's grid, then cropped to the file."""
    multiple = model.size_multiple
    return -(-params.width // multiple) * multiple, -(-params.height // multiple) * multiple


def latent_pixels(params: GenerationParams, model: ModelInfo) -> int:
    """Latent pixels of one image, each a token of the transformer."""
    width, height = grid_size(params, model)
    return (width // model.size_multiple) * (height // model.size_multiple)


def image_tokens(params: GenerationParams, model: ModelInfo) -> int:
    """Tokens that one image adds to a forward: its latent pixels, twice under classifier-free guidance."""
    return latent_pixels(params, model) * (2 if is_guided(params, model) else 1)


def request_seconds(params: GenerationParams, model: ModelInfo, costs: CostModel) -> float:
    """Seconds of all images of a request, one after the other, alone on the device."""
    tokens, pixels = image_tokens(params, model), math.prod(grid_size(params, model))
    return params.n * costs.image_seconds(tokens, params.num_inference_steps, pixels, 1 + params.partial_images)
