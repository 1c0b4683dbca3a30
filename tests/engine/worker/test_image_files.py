"""Image files, decoded again."""

import io

import numpy as np
import pytest
from PIL import Image

from engine import GenerationParams
from engine.worker.image_files import MAX_PREVIEW_BYTES, encode_image, encode_preview


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


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(64, 96, (96, 64)), (512, 512, (512, 512)), (544, 1024, (512, 272)), (1056, 64, (22, 352))],
)
def test_preview_reduced_to_512_pixels(height: int, width: int, size: tuple[int, int]) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    file, *got = encode_preview(pixels, GenerationParams("a" * 32000, width, height, 1, 1.0, seed=0), seed=0, model="m")
    assert Image.open(io.BytesIO(file)).size == tuple(got) == size


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("side", [512, 2048])
def test_preview_of_noise_bounded_in_bytes(output_format: str, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    params = GenerationParams("a" * 32000, side, side, 1, 1.0, seed=0, output_format=output_format)  # type: ignore[arg-type]
    file, width, height = encode_preview(pixels, params, seed=0, model="m")
    assert len(file) <= MAX_PREVIEW_BYTES
    image = Image.open(io.BytesIO(file))
    assert (image.format, image.size) == (output_format.upper(), (width, height))
    assert 256 <= width == height <= 512
