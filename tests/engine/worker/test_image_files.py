"""Image files, decoded again."""

import io

import numpy as np
import pytest
from PIL import Image

from engine import GenerationParams
from engine.worker.image_files import encode_image


@pytest.mark.parametrize("shape", [(32, 64, 3), (96, 32, 3)])
def test_png_keeps_pixels_and_parameters(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    params = GenerationParams("猫 & <b>", shape[1], shape[0], 20, 4.5, seed=2**40, negative_prompt="blurry")
    image = Image.open(io.BytesIO(encode_image(pixels, params, seed=2**40 + 1, model="m")))
    assert np.array_equal(np.asarray(image), pixels)
    expected = {
        "prompt": "猫 & <b>",
        "negative_prompt": "blurry",
        "seed": str(2**40 + 1),
        "num_inference_steps": "20",
        "guidance_scale": "4.5",
        "size": f"{shape[1]}x{shape[0]}",
        "model": "m",
    }
    assert expected.items() <= image.text.items()
    assert image.text["software"].startswith("sana-serve ")
