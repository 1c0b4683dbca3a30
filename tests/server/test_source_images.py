"""Files of every usual kind as RGB pixels, and hostile ones refused with the reason."""

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageCms, ImageDraw

from engine import InvalidParams, ModelInfo
from server.source_images import image_bytes, read_image, repaint_values

MODEL = ModelInfo("demo", (64, 64), 20, 4.5, 32, 4096, 0, "cpu", "float32")


def corner(mode: str = "RGB", size: tuple[int, int] = (80, 40)) -> Image.Image:
    """A blue image whose upper left quarter is red."""
    image = Image.new("RGB", size, (0, 0, 255))
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1] // 2 - 1), fill=(255, 0, 0))
    return image.convert(mode)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def transparent(size: tuple[int, int] = (80, 40), hole: tuple[int, int, int, int] = (40, 0, 79, 39)) -> Image.Image:
    image = corner("RGBA", size)
    ImageDraw.Draw(image).rectangle(hole, fill=(0, 0, 0, 0))
    return image


def near(pixel: Any, expected: tuple[int, ...], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=True))


@pytest.mark.parametrize(
    "data",
    [
        file(corner()),
        file(corner("P")),
        file(corner("RGBA")),
        file(corner(), "JPEG", quality=95, subsampling=0),
        file(corner(), "WEBP", lossless=True),
        file(corner(), "GIF"),
        file(corner(), "GIF", save_all=True, append_images=[Image.new("RGB", (80, 40))]),
        file(corner(), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        file(corner(), "PNG", icc_profile=b"damaged"),
    ],
    ids=["png", "palette", "rgba", "jpeg", "webp", "gif", "animation", "srgb", "damaged-profile"],
)
def test_colours_of_every_format(data: bytes) -> None:
    image = read_image(data, "image").convert("RGB")
    assert image.size == (80, 40)
    assert near(image.getpixel((5, 5)), (255, 0, 0))
    assert near(image.getpixel((60, 30)), (0, 0, 255))


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise
    image = read_image(file(corner(), "JPEG", exif=exif, quality=95, subsampling=0), "image")
    assert image.size == (40, 80)
    assert near(image.getpixel((35, 5)), (255, 0, 0))


def test_cmyk_is_converted() -> None:
    image = read_image(file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), "image")
    assert near(image.getpixel((4, 4)), (255, 0, 0), 30)


def test_16_bit_grey_is_scaled() -> None:
    image = read_image(file(Image.new("I;16", (8, 8), 32896)), "image")
    assert (image.mode, image.getpixel((4, 4))) == ("RGB", (128, 128, 128))


def test_grey_with_alpha_and_one_bit() -> None:
    assert read_image(file(Image.new("LA", (8, 8), (100, 0))), "image").getpixel((0, 0)) == (100, 100, 100, 0)
    assert read_image(file(Image.new("1", (8, 8), 1)), "image").getpixel((0, 0)) == (255, 255, 255)


def test_profile_is_converted_to_srgb() -> None:
    """A profile with the channels of red and green exchanged, made from that of sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[p : p + 4]): p for p in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    name = bytes(profile).find("sRGB".encode("utf-16-be"))
    profile[name : name + 2] = "t".encode("utf-16-be")  # else its name would say that it is sRGB
    image = read_image(file(corner(), icc_profile=bytes(profile)), "image")
    assert near(image.getpixel((5, 5)), (0, 255, 0))


PNG = file(corner())
BOMB = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in [
        (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"0")),
    ]
)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "between 1 and"),
        (b"not an image", "PNG, JPEG, WebP or GIF"),
        (file(corner(), "BMP"), "PNG, JPEG, WebP or GIF"),
        (PNG[:-40], "damaged"),
        (PNG[:60], "damaged"),
        (file(corner(), "JPEG")[:400], "damaged"),
        (BOMB, "at most 8192 pixels on each side, got 30000x30000"),
        (b"x" * 50_000_001, "between 1 and 50000000 bytes"),
        ("https://example.org/a.png", "not its address"),
        ("data:image/png;base64,A", "base64"),
        ("%%%", "base64"),
        (7, "an image file"),
        ([], "an image file"),
        ([PNG, PNG], "one image, got 2"),
        ({"file_id": "file-1"}, "keeps no files of images"),
        ({"image_url": {"url": "http://x"}}, "not its address"),
    ],
    ids=range(16),
)
def test_bad_images_are_refused(value: object, message: str) -> None:
    with pytest.raises(InvalidParams, match=message) as refused:
        read_image(value, "image")
    assert refused.value.param == "image"


def test_every_truncation_is_refused_or_read() -> None:
    """No cut file raises anything but InvalidParams."""
    for data in (PNG, file(corner(), "JPEG"), file(corner(), "WEBP"), file(corner(), "GIF")):
        for end in range(1, len(data), 7):
            try:
                read_image(data[:end], "image")
            except InvalidParams:
                continue


def test_json_forms_are_the_same_image() -> None:
    text = base64.b64encode(PNG).decode()
    forms = [
        text,
        f"data:image/png;base64,{text}",
        [{"image_url": f"data:image/png;base64,{text}"}],
        {"b64_json": text},
    ]
    assert {image_bytes(form, "image") for form in [*forms, {"image_url": {"url": text}}, PNG]} == {PNG}


def test_own_size_is_reduced_to_native_pixels() -> None:
    values = {
        size: repaint_values(MODEL, file(corner(size=size)), None, "auto", None) for size in [(80, 40), (800, 200)]
    }
    assert [value["size"] for value in values.values()] == ["80x40", "128x32"]
    assert values[80, 40]["image"].pixels == corner().tobytes()
    assert (values[80, 40]["image"].mask, values[80, 40]["strength"]) == (None, 0.6)


def test_given_size_covers_and_crops() -> None:
    values = repaint_values(MODEL, file(corner(size=(80, 40))), None, "40x40", 0.3)
    image = Image.frombytes("RGB", (40, 40), values["image"].pixels)
    assert near(image.getpixel((5, 5)), (255, 0, 0))
    assert (near(image.getpixel((30, 5)), (0, 0, 255)), values["strength"]) == (True, 0.3)
    with pytest.raises(InvalidParams, match="nearest valid size"):
        repaint_values(MODEL, PNG, None, "999999999x32", None)


def test_transparent_pixels_are_repainted_and_filled() -> None:
    values = repaint_values(MODEL, file(transparent()), None, None, None)
    mask = Image.frombytes("L", (80, 40), values["image"].mask)
    assert (mask.getbbox(), mask.getextrema(), values["strength"]) == ((40, 0, 80, 40), (0, 255), 1.0)
    pixels = Image.frombytes("RGB", (80, 40), values["image"].pixels)
    assert pixels.crop((0, 0, 40, 40)).tobytes() == corner().crop((0, 0, 40, 40)).tobytes()
    assert sum(pixels.getpixel((41, 30))) > 200  # type: ignore[arg-type]  # not the black below the transparency


def test_mask_by_transparency_or_by_white() -> None:
    white = Image.new("L", (80, 40))
    ImageDraw.Draw(white).rectangle((40, 0, 79, 39), fill=255)
    opaque = white.convert("RGBA")
    masks = [
        repaint_values(MODEL, PNG, file(mask), None, None)["image"].mask for mask in (transparent(), white, opaque)
    ]
    assert masks == [white.tobytes()] * 3


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (80, 40)), "marks no pixel"),
        (Image.new("L", (20, 20), 255), "size of the image, 80x40, got 20x20"),
    ],
)
def test_bad_masks_are_refused(mask: Image.Image, message: str) -> None:
    with pytest.raises(InvalidParams, match=message) as refused:
        repaint_values(MODEL, PNG, file(mask), None, None)
    assert refused.value.param == "mask"


def test_opaque_alpha_is_no_mask() -> None:
    assert repaint_values(MODEL, file(corner("RGBA")), None, None, None)["image"].mask is None
