"""Predicted seconds and bytes of a request before it runs: measured at warm-up, corrected by every step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from .stats import StepReport
from .types import GenerationParams, ModelInfo

WINDOW = 7
"""Steps of a phase whose median corrects its costs. They follow a new speed, however different, from its fourth step
on, and three slow steps in a row change nothing."""


@dataclass(frozen=True)
class CostModel:
    """Seconds of each phase. A denoise step has a fixed part, which the images of a batch share.

    Args:
        encode: seconds per image, at warm-up, as the others.
        step, token: seconds per denoise step, plus seconds per token of its forward.
        decode, pixel: seconds per decode, plus seconds per pixel.
        recent: the last `WINDOW` steps of each phase, each by its seconds in relation to those at warm-up.
    """

    encode: float
    step: float
    token: float
    decode: float
    pixel: float
    recent: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def slowdown(self, phase: str) -> float:
        """Present seconds of a phase in relation to those at warm-up. Warm-up counts as a whole window."""
        return median(self.recent.get(phase, (1.0,)))

    def encode_seconds(self, images: int) -> float:
        """Seconds of encoding the prompts of `images` images."""
        return self.slowdown("encode") * self.encode * images

    def step_seconds(self, tokens: int) -> float:
        """Seconds of one denoise step of `tokens` tokens."""
        return self.slowdown("denoise") * (self.step + self.token * tokens)

    def decode_seconds(self, pixels: int) -> float:
        """Seconds of decoding one image of `pixels` pixels."""
        return self.slowdown("decode") * (self.decode + self.pixel * pixels)

    def encode_image_seconds(self, pixels: int) -> float:
        """Seconds of encoding an image to repaint; the encoder mirrors the decoder, whose costs these are at first."""
        return self.slowdown("encode_image") * (self.decode + self.pixel * pixels)

    def tokens_within(self, seconds: float) -> int:
        """Tokens of a denoise step that takes `seconds`."""
        return max(0, int((seconds / self.slowdown("denoise") - self.step) / self.token))

    def image_seconds(self, tokens: int, steps: int, pixels: int, decodes: int = 1) -> float:
        """Seconds of one image alone on the device; `tokens` counts both branches of guidance."""
        return self.encode_seconds(1) + steps * self.step_seconds(tokens) + decodes * self.decode_seconds(pixels)

    def corrected(self, report: StepReport) -> "CostModel":
        """Costs after a reported step."""
        predicted = {
            "encode": self.encode_seconds(report.images),
            "denoise": self.step_seconds(report.tokens),
            "decode": self.decode_seconds(report.pixels),
            "encode_image": self.encode_image_seconds(report.pixels),
        }[report.phase]
        ratio = report.seconds / predicted * self.slowdown(report.phase)
        recent = (*self.recent.get(report.phase, (1.0,) * WINDOW)[1:], ratio)
        return replace(self, recent={**self.recent, report.phase: recent})


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
        total: bytes of the device; for the CPU, of the host or of the control group that limits this process.
    """

    capacity: int
    token: int
    pixel: int
    band: int
    total: int = 0

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
    seconds = params.n * costs.image_seconds(tokens, params.denoise_steps, pixels, 1 + params.partial_images)
    return seconds if params.image is None else seconds + costs.encode_image_seconds(pixels)
