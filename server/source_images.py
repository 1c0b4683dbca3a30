"""Images that clients send, as RGB pixels of the size of the answer, and their masks. Slow: call it in a thread.

A file is read only after its format, its bytes and its sides are known to be within bounds.
"""

import base64
import contextlib
import io
import re
from typing import TYPE_CHECKING, Any

from engine import InvalidParams, ModelInfo, SourceImage, check_size

from .request_params import is_default_size, resolve_size

if TYPE_CHECKING:
    from PIL import Image

MAX_IMAGE_BYTES = 50_000_000
MAX_IMAGE_SIDE = 8192
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
DEFAULT_STRENGTH = 0.6
"""Share of the steps without a mask, as in diffusers; with a mask nothing of what it marks is kept."""
OPAQUE = 128
"""Alpha from which a pixel stays as it is, and brightness from which a mask without alpha marks a pixel."""
DATA_URL = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)


def repaint_values(
    model: ModelInfo, image: object, mask: object, size: str | None, strength: float | None
) -> dict[str, Any]:
    """Arguments of `resolve_params` for a request that repaints an image. Raises InvalidParams.

    Args:
        image, mask: files as bytes, or as JSON has them; mask may be None.
        size: size of the request; by default that of the image, reduced to about the model's native pixels.
    """
    source = read_image(image, "image")
    repainted = read_mask(source, mask)
    width, height = resolve_size(size or "", model) if not is_default_size(size or "") else own_size(source, model)
    check_size(width, height, model)  # before memory is taken for it
    pixels = without_holes(fitted(source, (width, height))).tobytes()
    marked = None if repainted is None else fitted(repainted, (width, height)).point(binary).tobytes()
    if strength is None:
        strength = DEFAULT_STRENGTH if marked is None else 1.0
    return {"size": f"{width}x{height}", "image": SourceImage(pixels, marked), "strength": strength}


def own_size(source: "Image.Image", model: ModelInfo) -> tuple[int, int]:
    """Size of the image, with its ratio, at no more than about the model's native pixels and its longest side."""
    native = model.default_size[0] * model.default_size[1]
    width, height = source.size
    scale = min(1.0, (native / (width * height)) ** 0.5, model.max_side / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)


def read_image(value: object, param: str) -> "Image.Image":
    """The first frame, upright, in sRGB, as RGB or RGBA with eight bits. Raises InvalidParams naming `param`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = image_bytes(value, param)
    Image.MAX_IMAGE_PIXELS = None  # this function knows better limits
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            if max(file.size) > MAX_IMAGE_SIDE:
                raise InvalidParams(
                    f"{param} must have at most {MAX_IMAGE_SIDE} pixels on each side, got {file.width}x{file.height}",
                    param,
                )
            file.load()
            with contextlib.suppress(Exception):  # a damaged EXIF block turns nothing
                ImageOps.exif_transpose(file, in_place=True)
            return in_srgb(file)
    except InvalidParams:
        raise
    except UnidentifiedImageError:
        raise InvalidParams(f"{param} must be a PNG, JPEG, WebP or GIF file", param) from None
    except Exception as error:  # decoders raise anything for damaged files
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise InvalidParams(f"{param} is damaged and cannot be read: {reason}", param) from None


def image_bytes(value: object, param: str) -> bytes:
    """The file of an image: sent as such, in base64, as a data: URL, or as an object or a list of one of these."""
    if isinstance(value, list) and len(value) == 1:
        return image_bytes(value[0], param)
    if isinstance(value, list) and value:
        message = f"{param} must be one image, got {len(value)}: the model repaints one; compose them into one first"
        raise InvalidParams(message, param)
    if isinstance(value, dict):
        inner = next((value[name] for name in ("image_url", "url", "b64_json", "data") if value.get(name)), None)
        if inner is None or isinstance(inner, list):
            message = f"{param} must hold the image in image_url as a data: URL; this server keeps no files of images"
            raise InvalidParams(message, param)
        return image_bytes(inner, param)
    if isinstance(value, bytes) and not value.startswith(b"data:"):
        data = value
    elif isinstance(value, str | bytes):
        data = decode_base64(value if isinstance(value, str) else value.decode("latin-1"), param)
    else:
        raise InvalidParams(f"{param} must be an image file, in JSON as base64 or a data: URL", param, "invalid_type")
    if not 0 < len(data) <= MAX_IMAGE_BYTES:
        raise InvalidParams(f"{param} must have between 1 and {MAX_IMAGE_BYTES} bytes, got {len(data)}", param)
    return data


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of base64 text or of a data: URL. Raises InvalidParams for others: the server fetches nothing."""
    if re.match("https?:", text, re.IGNORECASE):
        raise InvalidParams(f"{param} must hold the image itself, as base64 or a data: URL, not its address", param)
    start = found.end() if (found := DATA_URL.match(text)) else 0
    try:
        return base64.b64decode("".join(text[start:].split()), validate=True)
    except ValueError:
        raise InvalidParams(f"{param} must be base64 or a data: URL with base64", param) from None


def in_srgb(source: "Image.Image") -> "Image.Image":
    """The image as RGB or RGBA in sRGB, with eight bits per value."""
    from PIL import ImageCms

    profile = source.info.get("icc_profile")
    if source.mode in ("RGB", "RGBA") and source.has_transparency_data == (source.mode == "RGBA") and not profile:
        return source  # the usual case: each copy of 8192 x 8192 pixels takes 256 MiB
    if source.mode.startswith("I"):  # 16-bit grey, which `convert` would clip
        source = source.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    alpha = source.convert("RGBA").getchannel("A") if source.has_transparency_data else None
    if source.mode not in ("RGB", "L", "CMYK"):
        source = source.convert("RGB")
    if profile:
        with contextlib.suppress(Exception):  # a damaged profile, or of another kind of image
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" not in ImageCms.getProfileDescription(embedded).lower():
                target = ImageCms.createProfile("sRGB")
                source = ImageCms.profileToProfile(source, embedded, target, outputMode="RGB") or source
    colours = source.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def read_mask(source: "Image.Image", mask: object) -> "Image.Image | None":
    """Where the image is repainted, 255 in mode L: where the mask is transparent, or white if it has no transparency.

    Without a mask, where the image is transparent itself; None if it is nowhere. Raises InvalidParams.
    """
    if mask is None:
        holes = source.getchannel("A").point(lambda alpha: 255 * (alpha < OPAQUE)) if source.mode == "RGBA" else None
        return holes if holes is not None and holes.getbbox() else None
    given = read_image(mask, "mask")
    if given.size != source.size:
        sizes = "{}x{}".format(*source.size), "{}x{}".format(*given.size)
        raise InvalidParams(f"mask must have the size of the image, {sizes[0]}, got {sizes[1]}", "mask")
    if given.mode == "RGBA" and given.getchannel("A").getextrema()[0] < OPAQUE:  # type: ignore[operator]
        marked = given.getchannel("A").point(lambda alpha: 255 * (alpha < OPAQUE))
    else:
        marked = given.convert("L").point(binary)
    if not marked.getbbox():
        message = "mask marks no pixel: make those to repaint transparent, or white in a mask without transparency"
        raise InvalidParams(message, "mask")
    return marked


def binary(value: int) -> int:
    return 255 * (value >= OPAQUE)


def without_holes(source: "Image.Image") -> "Image.Image":
    """The image in RGB, transparent pixels filled with blurred colours of those around them: black ones would spread.

    Each level is half as large, with the mean of the visible colours; what is transparent is taken from the next.
    """
    from PIL import Image

    if source.mode == "RGB":
        return source
    alpha = source.getchannel("A")
    if alpha.getextrema()[0] == 255 or max(source.size) == 1:
        return source.convert("RGB")
    below = without_holes(source.reduce(2)).resize(source.size, Image.Resampling.BILINEAR)
    return Image.composite(source.convert("RGB"), below, alpha)


def fitted(source: "Image.Image", size: tuple[int, int]) -> "Image.Image":
    """The image scaled to cover `size`, and cropped centrally."""
    from PIL import Image, ImageOps

    return source if source.size == size else ImageOps.fit(source, size, Image.Resampling.LANCZOS)
