"""Images that diffusers generates for our parameters: the oracle of the parity tests."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers import SanaPipeline, SanaSprintPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from engine import GenerationParams

REL = 1e-5


@contextmanager
def quiet() -> Iterator[None]:
    """Silences progress bars, advice and internal deprecation warnings of diffusers and transformers."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        yield


def load_reference(folder: Path, sprint: bool) -> SanaPipeline | SanaSprintPipeline:
    with quiet():
        pipeline = (SanaSprintPipeline if sprint else SanaPipeline).from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.text_encoder.set_attn_implementation("eager")  # transformers 5.17 chooses one without Gemma-2's soft-cap
    return pipeline


def generators(params: GenerationParams) -> list[torch.Generator]:
    """One generator per image; that of image k has seed + k."""
    return [torch.Generator().manual_seed(params.seed + k) for k in range(params.n)]


def generate_reference(pipeline: SanaPipeline | SanaSprintPipeline, params: GenerationParams) -> np.ndarray:
    """Pixels of diffusers' images, uint8 [n, H, W, 3]."""
    extra: dict[str, object] = {}
    if isinstance(pipeline, SanaSprintPipeline):
        if params.num_inference_steps != 2:  # diffusers refuses any other count while its two-step angle is set
            extra["intermediate_timesteps"] = None
    else:
        extra["negative_prompt"] = params.negative_prompt
    with quiet():
        images = pipeline(
            params.prompt,
            width=params.width,
            height=params.height,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            num_images_per_prompt=params.n,
            generator=generators(params),
            use_resolution_binning=False,
            output_type="np",
            **extra,
        ).images
    return (images * 255).round().astype(np.uint8)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """|a - e| / |e| in the Euclidean norm."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())
