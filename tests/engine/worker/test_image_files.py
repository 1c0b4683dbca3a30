"""Image files, decoded again."""

import io
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from engine import GenerationParams, ImageFormat
from engine.worker.image_files import MAX_PREVIEW_BYTES, encode_image, encode_preview

PARAMS = GenerationParams("猫 & <b>", 64, 32, 20, 4.5, seed=2**40, negative_prompt="blurry")


def random_pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def params_of(width: int, height: int, output_format: ImageFormat = "png") -> GenerationParams:
    return GenerationParams("a cat", width, height, 20, 4.5, seed=1, output_format=output_format)


def png_file(params: GenerationParams, metadata: str = "sana") -> bytes:
    return encode_image(random_pixels(32, 64), params, 2**64 - 1, "m", metadata)


def text_chunks(file: bytes) -> dict[str, str]:
    """Keywords and kinds of the text chunks, read from the file's bytes as ComfyUI's workflow import reads them."""
    found, position = {}, 8
    while position < len(file):
        length, kind = struct.unpack(">I4s", file[position : position + 8])
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            found[file[position + 8 : position + 8 + length].partition(b"\0")[0].decode()] = kind.decode()
        position += length + 12
    return found


@pytest.mark.parametrize("shape", [(32, 64), (96, 32)])
def test_png_keeps_pixels_and_parameters(shape: tuple[int, int]) -> None:
    pixels = random_pixels(*shape)
    params = GenerationParams("猫 & <b>", shape[1], shape[0], 20, 4.5, seed=2**40, negative_prompt="blurry")
    image = Image.open(io.BytesIO(encode_image(pixels, params, seed=2**40 + 1, model="m")))
    assert np.array_equal(np.asarray(image), pixels)
    settings = json.loads(image.text["sana-serve"])
    assert settings.pop("version")
    assert settings == {
        "prompt": "猫 & <b>",
        "negative_prompt": "blurry",
        "seed": 2**40 + 1,
        "num_inference_steps": 20,
        "guidance_scale": 4.5,
        "size": f"{shape[1]}x{shape[0]}",
        "model": "m",
    }


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


@pytest.mark.parametrize(("width", "height"), [(64, 32), (33, 32), (50, 31), (1, 1)])
@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_file_is_centre_of_pixels(width: int, height: int, output_format: ImageFormat) -> None:
    whole = random_pixels(32, 64)
    top, left = (32 - height) // 2, (64 - width) // 2
    centre = np.ascontiguousarray(whole[top : top + height, left : left + width])
    params = params_of(width, height, output_format)
    file = encode_image(whole, params, 1, "m")
    assert file == encode_image(centre, params, 1, "m")
    assert Image.open(io.BytesIO(file)).size == (width, height)


@pytest.mark.parametrize(("quality", "error"), [(100, 6), (95, 40), (50, 255)])
def test_jpeg_of_high_quality_keeps_colours(quality: int, error: int) -> None:
    """Red lines one pixel wide on blue: with half of the colour's resolution they are off by more than 180."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :, 2] = 255
    pixels[:, ::4] = (255, 0, 0)
    params = replace(params_of(64, 32, "jpeg"), output_compression=quality)
    decoded = np.asarray(Image.open(io.BytesIO(encode_image(pixels, params, 1, "m")))).astype(int)
    largest = np.abs(decoded - pixels).max()
    assert largest <= error
    assert quality > 50 or largest > 180


def test_png_has_one_chunk_of_our_own_name() -> None:
    """ComfyUI imports `prompt`, `workflow` and `parameters` as graphs and fails on text that is none."""
    assert text_chunks(png_file(PARAMS)) == {"sana-serve": "iTXt"}


def test_png_without_embedded_params_keeps_seed_and_model() -> None:
    file = png_file(GenerationParams("secret", 64, 32, 20, 4.5, 1, "hidden", embed_params=False), "a1111")
    assert text_chunks(file) == {"sana-serve": "iTXt"}
    settings = json.loads(Image.open(io.BytesIO(file)).text["sana-serve"])
    assert settings.keys() == {"seed", "model", "version"}


def test_png_metadata_none_writes_no_text() -> None:
    assert text_chunks(png_file(PARAMS, "none")) == {}


@pytest.mark.parametrize(
    ("prompt", "negative", "kind", "text"),
    [
        ("a cat", "", "tEXt", "a cat\nSteps: 20, CFG scale: 4.5, Seed: 18446744073709551615, Size: 64x32, Model: m, "),
        ("a cat", "grey", "tEXt", "a cat\nNegative prompt: grey\nSteps: 20, CFG scale: 4.5, "),
        ("猫", "", "iTXt", "猫\nSteps: 20, "),
    ],
)
def test_png_metadata_a1111_adds_parameters(prompt: str, negative: str, kind: str, text: str) -> None:
    file = png_file(GenerationParams(prompt, 64, 32, 20, 4.5, 1, negative), "a1111")
    assert text_chunks(file) == {"parameters": kind, "sana-serve": "iTXt"}
    assert Image.open(io.BytesIO(file)).text["parameters"].startswith(text)
