"""What a request will cost in seconds, before it is run: measured at warm-up, corrected by every step."""

from dataclasses import dataclass, replace

from .stats import StepReport
from .types import GenerationParams, ModelInfo

CORRECTION = 0.05
"""Weight of one step in the running correction: twenty steps, one picture, carry it two thirds of the way."""


@dataclass(frozen=True)
class CostModel:
    """Seconds by phase. A step of the transformer has a fixed part, which a batch pays once.

    Args:
        encode: per image.
        step, token: per denoise step, and per row of its forward.
        decode, pixel: per decode, and per pixel.
    """

    encode: float
    step: float
    token: float
    decode: float
    pixel: float

    def step_seconds(self, tokens: int) -> float:
        """One denoise step of so many rows."""
        return self.step + self.token * tokens

    def decode_seconds(self, pixels: int) -> float:
        return self.decode + self.pixel * pixels

    def tokens_within(self, seconds: float) -> int:
        """Rows of a denoise step that takes so long."""
        return max(0, int((seconds - self.step) / self.token))

    def image_seconds(self, tokens: int, steps: int, pixels: int, decodes: int = 1) -> float:
        """One image alone on the device; `tokens` are its rows, both branches counted."""
        return self.encode + steps * self.step_seconds(tokens) + decodes * self.decode_seconds(pixels)

    def corrected(self, report: StepReport) -> "CostModel":
        """Nearer to what a step has just taken. Outliers beyond a factor of 4 count as 4."""
        if report.phase == "encode":
            return replace(self, encode=self.encode * correction(report.seconds, self.encode * report.images))
        if report.phase == "decode":
            factor = correction(report.seconds, self.decode_seconds(report.pixels))
            return replace(self, decode=self.decode * factor, pixel=self.pixel * factor)
        factor = correction(report.seconds, self.step_seconds(report.tokens))
        return replace(self, step=self.step * factor, token=self.token * factor)


def correction(measured: float, predicted: float) -> float:
    return float(1 + CORRECTION * (min(max(measured / predicted, 0.25), 4.0) - 1))


def fit_line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """(fixed, slope) through (size, seconds) of the smallest and the largest; both stay above zero on a noisy clock."""
    (small, fast), (large, slow) = min(points), max(points)
    slope = max((slow - fast) / (large - small), 0.1 * slow / large)
    return max(fast - slope * small, 0.01 * fast), slope


@dataclass(frozen=True)
class MemoryModel:
    """What a picture needs of the device beside the weights, in bytes, and what there is.

    Args:
        capacity: free once the model is loaded.
        token: activations of one row of a forward.
        pixel: of the decoder's whole-image stages and of the finished picture, per pixel.
        band: of the decoder's shallow stages at their smallest band, per pixel of width.
    """

    capacity: int
    token: int
    pixel: int
    band: int

    def image_bytes(self, tokens: int, width: int, height: int) -> int:
        """The most that one image alone needs at any time."""
        return max(tokens * self.token, width * height * self.pixel + width * self.band)


def is_guided(params: GenerationParams, model: ModelInfo) -> bool:
    """Whether each of its forwards has a second, unconditional branch."""
    return model.guidance_branch and params.guidance_scale > 1


def image_tokens(params: GenerationParams, model: ModelInfo) -> int:
    """Rows one image adds to a forward: its latent pixels, twice under classifier-free guidance."""
    latents = (params.width // model.size_multiple) * (params.height // model.size_multiple)
    return latents * (2 if is_guided(params, model) else 1)


def request_seconds(params: GenerationParams, model: ModelInfo, costs: CostModel) -> float:
    """All images of a request, one after the other, alone on the device."""
    tokens, pixels = image_tokens(params, model), params.width * params.height
    return params.n * costs.image_seconds(tokens, params.num_inference_steps, pixels, 1 + params.partial_images)
