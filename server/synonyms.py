"""Names that other image APIs use: those of our fields are honoured, those that would change the image are refused."""

import re
from collections.abc import Collection
from typing import Any

from engine import InvalidParams

from .http_errors import printable
from .request_params import RANDOM, SIZE, is_default_size

SYNONYMS = {
    "num_inference_steps": (
        *("steps", "num_steps", "n_steps", "step_count", "num_inference_step", "inference_steps", "sample_steps"),
        *("sampling_steps", "num_sampling_steps", "denoising_steps", "num_denoising_steps", "diffusion_steps"),
        "ddim_steps",
    ),
    "guidance_scale": ("guidance", "cfg", "cfg_scale", "classifier_free_guidance", "unconditional_guidance_scale"),
    "n": (
        *("num_images", "num_image", "num_images_per_prompt", "num_outputs", "num_samples", "num_generations"),
        *("num_variations", "number_of_images", "number_of_results", "number_results", "images_per_prompt"),
        *("n_samples", "n_images", "n_iter", "image_count", "sample_count", "candidate_count", "batch_count"),
        *("batch_size", "count", "quantity", "samples"),
    ),
    "negative_prompt": ("negative", "neg", "neg_prompt", "negative_text", "undesired_content", "uc"),
    "seed": ("random_seed", "noise_seed", "manual_seed", "generator_seed", "initial_seed", "rng_seed", "seed_value"),
    "size": (
        *("image_size", "img_size", "output_size", "resolution", "dimensions", "aspect_ratio", "ratio", "aspect"),
        *("image_aspect_ratio", "width and height"),
    ),
    "model": (
        *("model_id", "model_name", "base_model", "checkpoint", "checkpoint_name", "ckpt_name", "engine", "engine_id"),
    ),
    "output_format": (
        *("format", "image_format", "file_format", "file_type", "image_type", "output_type"),
        *("mime_type", "output_mime_type", "response_mime_type", "image_mime_type"),
    ),
    "response_format": ("image_encoding",),
    "image": (
        *("images", "init_image", "init_images", "input_image", "input_images", "source_image", "base_image"),
        *("reference_image", "reference_images", "image_url", "image_urls", "image_file", "photo", "picture", "img"),
    ),
    "mask": ("mask_image", "mask_url", "mask_file", "inpaint_mask"),
    "strength": ("denoising_strength", "denoise", "prompt_strength", "img2img_strength"),
    "mask_feather": ("feather", "mask_blur"),
    "output_compression": ("output_quality", "image_quality", "jpeg_quality", "webp_quality", "compression_quality"),
}
"""Synonyms of each field. Its own name in another spelling, like guidanceScale, is one too."""
SIDES = ("width", "height")

REFUSED = {
    "Images are generated from text alone here; send an image to POST /v1/images/edits": (
        *("image", "img", "photo", "picture", "mask", "inpaint", "inpainting", "outpaint", "outpainting", "control"),
        *("controlnet", "reference", "ref", "redux", "pose", "depth", "canny", "ip"),
    ),
    "This server serves one model without additions": (
        *("lora", "lycoris", "adapter", "hypernetwork", "inversion", "embedding", "refiner", "vae", "weights"),
        *("override", "script", "checkpoint"),
    ),
    "The model's own solver is used; set num_inference_steps": (
        *("scheduler", "schedule", "sampler", "sampling", "sample", "solver", "sigma", "karras", "timestep", "shift"),
        *("eta", "clip", "pag", "latent", "embeds", "subseed"),
    ),
    "Send num_inference_steps": ("step",),
    "Send guidance_scale": ("guidance", "cfg"),
    "Send seed; image k uses seed + k": ("seed",),
    "Send width and height, or size, like 1024x768": (
        *("width", "height", "w", "h", "ar", "aspect", "orientation", "megapixels", "resolution"),
    ),
    "Write it into the prompt": ("style", "prompt", "negative", "palette", "color"),
    "The image is sent as it is generated": (
        *("upscale", "upscaler", "upscaling", "hires", "hr", "face", "tiling", "tile", "seamless", "background"),
        *("transparent", "transparency", "watermark", "grayscale", "sharpness"),
    ),
    "This server generates no animations and no vector graphics": ("svg", "frame", "fps", "video"),
}
"""Words in the names of what this server does not do, each with what is offered."""
WRAPPERS = ("extra_body", "extra_params", "parameters", "options", "input", "inputs")
CONTENT = ("image", "img", "photo", "picture", "reference", "ref", "prompt", "ip")
HARMLESS = (
    *("id", "ids", "name", "filename", "language", "lang", "version", "hash", "type", "title", "metadata", "user"),
    *("client", "log", "save", "store", "echo"),
)
"""Words by which a name with a word of CONTENT means no content, such as prompt_id, user_ip or log_prompts."""
BESIDE = ("cache", "callback")
"""Words of names about the work, not the image, such as cache_control and callback_steps."""
NOTHING = ("", "auto", "none", "default", "null", "false", "off", "srgb")
NEUTRAL = {"clipskip": 1}
"""Values of single names that leave their feature off."""


def fold(name: str) -> str:
    """The name in lower case without separators: guidanceScale, guidance-scale and guidance_scale are the same."""
    return re.sub("[_ -]", "", name).lower()


FOLDED = {field: [fold(name) for name in (field, *names)] for field, names in SYNONYMS.items()}
WRAPPED = {fold(name) for name in WRAPPERS}
OFFERS = {word: offer for offer, words in REFUSED.items() for word in words}


def synonyms_of(fields: Collection[str]) -> dict[str, str]:
    """{folded name: field} for the names of these fields."""
    return {name: field for field in fields for name in FOLDED.get(field, [fold(field)])}


def refuse_unsupported(body: dict[str, Any], fields: Collection[str]) -> None:
    """Raises InvalidParams for what would change the image and cannot be honoured."""
    known = {*synonyms_of(fields), *SIDES}
    for name, value in body.items():
        if fold(name) in known or asks_nothing(value):
            continue
        offer = offer_beside(value, known) if fold(name) in WRAPPED else offer_instead(name, value)
        if offer:
            shown = printable(name)[:60]
            raise InvalidParams(f"Unknown parameter: '{shown}'. {offer}.", shown, "unknown_parameter")


def offer_beside(value: object, known: Collection[str]) -> str | None:
    """What to do instead of wrapping fields; None if no entry would change the image, as in {"use_cache": false}."""
    if isinstance(value, dict) and not any(
        fold(name) in known or (not asks_nothing(entry) and offer_instead(name, entry)) for name, entry in value.items()
    ):
        return None
    return "Send its entries beside the prompt"


def asks_nothing(value: object) -> bool:
    """Whether a value leaves its feature off: false, 0, -1 for a random seed, "none", or a list of these."""
    if isinstance(value, dict | list):
        return all(map(asks_nothing, value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        return value.strip().lower() in NOTHING
    return value in (0, RANDOM, None)


def offer_instead(name: str, value: object) -> str | None:
    """What to do instead of sending a field that would change the image; None for one that would not."""
    if value == NEUTRAL.get(fold(name)):
        return None
    words = [word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name[:200])]
    if any(word in BESIDE for word in words):
        return None
    for word in words:
        stem = word if word in OFFERS else word.removesuffix("s")
        if stem in CONTENT and not carries_content(stem, words, value):
            continue
        if stem in OFFERS:
            return OFFERS[stem]
    return None


def carries_content(stem: str, words: list[str], value: object) -> bool:
    """Whether a field named after an image or a prompt holds one, unlike send_images=true or prompt_strength=0.8."""
    if stem == "ip" and "adapter" in words:  # a kind of reference image, not an address
        return True
    switch = isinstance(value, bool) and stem != "prompt"  # enhance_prompt=true changes the prompt
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not (switch or number or any(word in HARMLESS for word in words))


def replace_synonyms(body: dict[str, Any], fields: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The body with synonyms replaced by their fields, and for each of these fields the name that was sent.

    Raises InvalidParams for a synonym that contradicts its field.
    """
    targets = synonyms_of(fields)
    body = join_sides(body)
    replaced = {name: value for name, value in body.items() if name in fields}
    sent: dict[str, str] = {}
    others = {name: value for name, value in body.items() if name not in fields}
    for name, value in others.items():
        field = targets.get(fold(name), name)
        if field not in replaced or (field == "size" and is_default_size(replaced[field])):
            replaced[field] = value
            sent[field] = name
        elif not same(replaced[field], value):
            names = f"{sent.get(field, field)} and {printable(name)}"
            raise InvalidParams(f"{names} are the same parameter but differ; send one of them", field)
    return replaced, sent


def join_sides(body: dict[str, Any]) -> dict[str, Any]:
    """The body with `width` and `height` as one size. Raises InvalidParams for one of them without the other."""
    for name, value in body.items():  # fal's image_size is an object
        if fold(name) in FOLDED["size"] and isinstance(value, dict) and value.keys() == set(SIDES):
            return join_sides({key: entry for key, entry in body.items() if key != name} | value)
    sides = {fold(name): value for name, value in body.items() if fold(name) in SIDES}
    if not sides:
        return body
    for name, value in sides.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
            raise InvalidParams(f"{name} must be an integer, got {printable(repr(value))[:60]}", name, "invalid_type")
    if len(sides) == 1:
        (name,) = sides
        message = f"Unknown parameter: '{name}' alone. Send width and height, or size, like 1024x768."
        raise InvalidParams(message, name, "unknown_parameter")
    rest = {name: value for name, value in body.items() if fold(name) not in SIDES}
    return {**rest, "width and height": f"{int(sides['width'])}x{int(sides['height'])}"}


def same(value: Any, other: Any) -> bool:
    """Whether two values of a field mean the same; the default of `size` leaves the choice to the other."""
    if isinstance(value, str) and isinstance(other, str):
        first, second = (match.groups() if (match := SIZE.fullmatch(text)) else text for text in (value, other))
        return first == second or is_default_size(other)
    return bool(value == other)
