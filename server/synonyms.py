"""Names that other image APIs use: those of our fields are honoured, those that would change the image are refused."""

import re
from collections.abc import Collection
from typing import Any

from engine import InvalidParams

from .http_errors import printable
from .request_params import SIZE, is_default_size

SYNONYMS = {
    "num_inference_steps": ("steps", "num_steps", "n_steps", "inference_steps", "sample_steps", "sampling_steps"),
    "guidance_scale": ("guidance", "cfg", "cfg_scale", "classifier_free_guidance", "unconditional_guidance_scale"),
    "n": (
        *("num_images", "num_images_per_prompt", "num_outputs", "num_samples", "n_samples", "n_images", "n_iter"),
        *("number_of_images", "number_of_results", "image_count", "batch_size"),
    ),
    "negative_prompt": ("negative", "neg_prompt", "negative_text", "undesired_content", "uc"),
    "seed": ("random_seed", "noise_seed", "manual_seed", "generator_seed"),
    "size": ("image_size", "resolution", "dimensions", "aspect_ratio", "ratio", "width and height"),
    "model": ("model_id", "model_name", "checkpoint", "ckpt_name"),
    "output_format": ("format", "image_format", "file_format"),
}
"""Synonyms of each field. Its own name in another spelling, like guidanceScale, is one too."""
SIDES = ("width", "height")

REFUSED = {
    "This server generates images from text alone": (
        *("image", "images", "image_url", "image_urls", "image_prompt", "image_prompts", "image_base64", "img_url"),
        *("init_image", "init_images", "input_image", "input_images", "start_image", "source_image", "base_image"),
        *("reference_image", "reference_images", "ref_image", "ref_images", "subject_reference", "style_reference"),
        *("mask", "masks", "mask_image", "mask_url", "control_image", "control_images", "controlnet", "controlnets"),
        *("control_net", "controlnet_conditioning_scale", "ip_adapter", "ip_adapters", "ip_adapter_image"),
    ),
    "This server serves one model without additions": (
        *("lora", "loras", "lora_weights", "lora_url", "lora_urls", "lora_path", "lora_scale", "lora_scales"),
        *("adapters", "adapter", "hypernetwork", "textual_inversion", "embeddings", "refiner", "refiner_checkpoint"),
        *("vae", "sd_model_checkpoint", "override_settings", "alwayson_scripts", "script_name"),
    ),
    "The model's own solver is used; set num_inference_steps": (
        *("scheduler", "sampler", "sampler_name", "sampler_index", "sampling_method", "sample_method", "solver"),
        *("sigmas", "timesteps", "shift", "flow_shift", "eta", "clip_skip", "guidance_rescale", "true_cfg_scale"),
        *("pag_scale", "variation_seed", "subseed", "subseed_strength", "latents", "prompt_embeds"),
    ),
    "Write it into the prompt": (
        *("style_preset", "style_id", "styles", "style_type", "prompt_2", "prompt_3", "prompts", "text_prompts"),
        *("enhance_prompt", "prompt_enhancer", "prompt_extend", "prompt_upsampling", "magic_prompt"),
    ),
    "The image is sent as it is generated": (
        *("upscale", "upscaler", "upscale_factor", "enable_hr", "hires_fix", "hr_scale", "hr_upscaler", "face_fix"),
        *("restore_faces", "tiling", "remove_background", "transparent_background", "watermark", "grayscale"),
    ),
    "This server generates no animations and no vector graphics": (
        *("svg", "frame_count", "frame_duration_ms", "num_frames", "fps"),
    ),
    "Send its entries beside the prompt": ("extra_body", "extra_params", "parameters", "options"),
}
"""Names of what this server does not do, each with what is offered; a value that asks for nothing is ignored."""
NOTHING = ("", "auto", "none", "default")


def fold(name: str) -> str:
    """The name in lower case without separators: guidanceScale, guidance-scale and guidance_scale are the same."""
    return re.sub("[_ -]", "", name).lower()


FIELDS = {fold(name): field for field, names in SYNONYMS.items() for name in (field, *names)}
OFFERS = {fold(name): offer for offer, names in REFUSED.items() for name in names}


def refuse_unsupported(body: dict[str, Any]) -> None:
    """Raises InvalidParams for what would change the image and cannot be honoured."""
    for name, value in body.items():
        nothing = not value or (isinstance(value, str) and value.strip().lower() in NOTHING)
        if fold(name) in OFFERS and not nothing:
            raise InvalidParams(f"Unknown parameter: '{name}'. {OFFERS[fold(name)]}.", name, "unknown_parameter")


def replace_synonyms(body: dict[str, Any], fields: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The body with synonyms replaced by their fields, and for each of these fields the name that was sent.

    Raises InvalidParams for a synonym that contradicts its field.
    """
    targets = FIELDS | {fold(field): field for field in fields}
    replaced = {name: value for name, value in body.items() if name in fields}
    sent: dict[str, str] = {}
    others = {name: value for name, value in join_sides(body).items() if name not in fields}
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
