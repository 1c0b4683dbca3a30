"""Fields of other image APIs: honoured, refused by name, or ignored where they ask for nothing."""

from typing import Any

import pytest

from engine import InvalidParams
from server.schemas import parse_generation

HONOURED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"width": 640, "height": 480}, {"size": "640x480"}),
    ({"width": 640.0, "height": 480.0}, {"size": "640x480"}),
    ({"Width": 640, "Height": 480}, {"size": "640x480"}),
    ({"width": 640, "height": 480, "size": "auto"}, {"size": "640x480"}),
    ({"width": 640, "height": 480, "size": "640*480"}, {"size": "640*480"}),
    ({"image_size": "640x480"}, {"size": "640x480"}),
    ({"aspect_ratio": "16:9"}, {"size": "16:9"}),
    ({"steps": 9}, {"num_inference_steps": 9}),
    ({"steps": 9, "num_inference_steps": 9}, {"num_inference_steps": 9}),
    ({"num_steps": 9.0}, {"num_inference_steps": 9}),
    ({"sample_steps": 9}, {"num_inference_steps": 9}),
    ({"numInferenceSteps": 9}, {"num_inference_steps": 9}),
    ({"cfg_scale": 3}, {"guidance_scale": 3.0}),
    ({"cfgScale": 3}, {"guidance_scale": 3.0}),
    ({"guidance": 3.5}, {"guidance_scale": 3.5}),
    ({"guidance-scale": 3.5}, {"guidance_scale": 3.5}),
    ({"num_images": 2}, {"n": 2}),
    ({"num_images_per_prompt": 2}, {"n": 2}),
    ({"numberOfImages": 2}, {"n": 2}),
    ({"batch_size": 2, "num_outputs": 2}, {"n": 2}),
    ({"negative": "grey"}, {"negative_prompt": "grey"}),
    ({"negativePrompt": "grey"}, {"negative_prompt": "grey"}),
    ({"noise_seed": 2**64 - 1}, {"seed": 2**64 - 1}),
    ({"outputFormat": "webp"}, {"output_format": "webp"}),
    ({"model_name": "demo"}, {"model": "demo"}),
    ({"base_model": "demo"}, {"model": "demo"}),
    ({"image_size": {"width": 640, "height": 480}}, {"size": "640x480"}),
    ({"num_inference_step": 9}, {"num_inference_steps": 9}),
    ({"ddim_steps": 9}, {"num_inference_steps": 9}),
    ({"numSamplingSteps": 9}, {"num_inference_steps": 9}),
    ({"sampleCount": 2}, {"n": 2}),
    ({"quantity": 2}, {"n": 2}),
    ({"num_generations": 2}, {"n": 2}),
    ({"initialSeed": 7}, {"seed": 7}),
    ({"outputMimeType": "image/jpeg"}, {"output_format": "jpeg"}),
    ({"output_quality": 70}, {"output_compression": 70}),
    ({"size": {"width": 640, "height": 480}}, {"size": "640x480"}),
    ({"image_type": "webp"}, {"output_format": "webp"}),
    ({"image_mime_type": "image/webp"}, {"output_format": "webp"}),
    ({"image_encoding": "base64"}, {"response_format": "b64_json"}),
]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"image": "data:image/png;base64,AA=="}, "image", "from text alone"),
    ({"images": ["AA=="]}, "images", "from text alone"),
    ({"init_image": "AA=="}, "init_image", "from text alone"),
    ({"inputImage": "AA=="}, "inputImage", "from text alone"),
    ({"mask": "AA=="}, "mask", "from text alone"),
    ({"controlnet": {"model": "canny"}}, "controlnet", "from text alone"),
    ({"ip_adapter": "x"}, "ip_adapter", "from text alone"),
    ({"loras": [{"path": "x"}]}, "loras", "one model"),
    ({"lora": "x"}, "lora", "one model"),
    ({"refiner": "x"}, "refiner", "one model"),
    ({"scheduler": "euler"}, "scheduler", "solver"),
    ({"sampler_name": "DPM++ 2M"}, "sampler_name", "solver"),
    ({"clip_skip": 2}, "clip_skip", "solver"),
    ({"style_preset": "anime"}, "style_preset", "prompt"),
    ({"prompt_upsampling": True}, "prompt_upsampling", "prompt"),
    ({"hires_fix": True}, "hires_fix", "as it is generated"),
    ({"tiling": True}, "tiling", "as it is generated"),
    ({"extra_body": {"seed": 1}}, "extra_body", "beside the prompt"),
    ({"svg": {"model": "x"}}, "svg", "no vector graphics"),
    ({"referenceImages": ["AA=="]}, "referenceImages", "from text alone"),
    ({"first_image": "AA=="}, "first_image", "from text alone"),
    ({"init_img": "AA=="}, "init_img", "from text alone"),
    ({"inpaint_mask": "AA=="}, "inpaint_mask", "from text alone"),
    ({"IPAdapterScale": 0.5}, "IPAdapterScale", "from text alone"),
    ({"controlnet_conditioning_scale": 0.5}, "controlnet_conditioning_scale", "from text alone"),
    ({"hf_lora": "x"}, "hf_lora", "one model"),
    ({"textual_inversions": ["x"]}, "textual_inversions", "one model"),
    ({"use_karras_sigmas": True}, "use_karras_sigmas", "solver"),
    ({"scheduler_type": "euler"}, "scheduler_type", "solver"),
    ({"refinementSteps": 3}, "refinementSteps", "num_inference_steps"),
    ({"guidance_end": 0.5}, "guidance_end", "guidance_scale"),
    ({"seeds": [1, 2]}, "seeds", "image k uses seed"),
    ({"image_width": 640}, "image_width", "width and height"),
    ({"w": 640, "h": 480}, "w", "width and height"),
    ({"orientation": "landscape"}, "orientation", "width and height"),
    ({"styles": ["anime"]}, "styles", "prompt"),
    ({"positive_prompt": "sharp"}, "positive_prompt", "prompt"),
    ({"negative_prompts": ["grey"]}, "negative_prompts", "prompt"),
    ({"color_palette": ["#fff"]}, "color_palette", "prompt"),
    ({"enable_upscale": True}, "enable_upscale", "as it is generated"),
    ({"background_color": "#fff"}, "background_color", "as it is generated"),
    ({"input": {"seed": 1}}, "input", "beside the prompt"),
    ({"width": 640}, "width", "width and height"),
    ({"height": 640, "size": "640x640"}, "height", "width and height"),
    ({"color_space": "adobe-rgb"}, "color_space", "prompt"),
    ({"reference_url": "https://example.org/a.png"}, "reference_url", "from text alone"),
    ({"options": {"wait_for_model": True, "scheduler": "euler"}}, "options", "beside the prompt"),
    ({"inputs": "a cat"}, "inputs", "beside the prompt"),
]
NOTHING: list[dict[str, Any]] = [
    {"image": ""},
    {"images": []},
    {"controlnet": {}},
    {"loras": []},
    {"tiling": False},
    {"scheduler": "default"},
    {"sampler": "none"},
    {"clip_skip": 0},
    {"subseed": -1},
    {"hr_upscaler": "None"},
    {"control_images": [""]},
    {"controlnet": {"enabled": False}},
]
HARMLESS: list[dict[str, Any]] = [
    {"send_images": True},
    {"save_images": True},
    {"prompt_strength": 0.8},
    {"prompt_cache_key": "x"},
    {"cache_control": {"type": "ephemeral"}},
    {"image_name": "cat.png"},
    {"max_images": 4},
    {"enable_safety_checker": True},
    {"stream_options": {"include_usage": True}},
    {"generation_id": "x"},
    {"webhook": "https://example.org"},
    {"iterations": 1},
    {"client_reference_id": "x"},
    {"reference_id": "x"},
    {"image_ids": ["x"]},
    {"user_ip": "203.0.113.7"},
    {"client_ip": "203.0.113.7"},
    {"prompt_version": "3"},
    {"prompt_hash": "ab"},
    {"prompt_lang": "de"},
    {"image_title": "cat"},
    {"image_metadata": {"a": "b"}},
    {"log_prompts": True},
    {"save_prompt": True},
    {"store_prompts": True},
    {"callback_steps": 1},
    {"clip_skip": 1},
    {"color_space": "sRGB"},
    {"options": {"wait_for_model": True, "use_cache": False}},
]
CONTRADICTIONS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"steps": 9, "num_inference_steps": 10}, "num_inference_steps", ["steps", "num_inference_steps"]),
    ({"cfg_scale": 9, "guidance": 10}, "guidance_scale", ["cfg_scale", "guidance"]),
    ({"negative": "grey", "negative_prompt": "red"}, "negative_prompt", ["negative ", "negative_prompt"]),
    ({"num_images": 1, "n": 2}, "n", ["num_images", "n "]),
    ({"width": 640, "height": 480, "size": "480x640"}, "size", ["width and height", "size"]),
    ({"aspect_ratio": "1:1", "size": "480x640"}, "size", ["aspect_ratio", "size"]),
]


@pytest.mark.parametrize(("sent", "expected"), HONOURED, ids=str)
def test_synonyms_honoured(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    request, ignored = parse_generation({"prompt": "a cat", **sent})
    assert request.model_dump(exclude_none=True) == {"prompt": "a cat", **expected}
    assert ignored == []


@pytest.mark.parametrize(("sent", "name", "words"), REFUSED, ids=str)
def test_unsupported_fields_refused_by_name(sent: dict[str, Any], name: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words) as caught:
        parse_generation({"prompt": "a cat", **sent})
    assert (caught.value.param, caught.value.code) == (name, "unknown_parameter")
    assert name in str(caught.value)


@pytest.mark.parametrize("sent", NOTHING + HARMLESS, ids=str)
def test_fields_that_change_no_image_ignored(sent: dict[str, Any]) -> None:
    _, ignored = parse_generation({"prompt": "a cat", **sent})
    assert ignored == list(sent)


@pytest.mark.parametrize(("sent", "param", "names"), CONTRADICTIONS, ids=str)
def test_contradicting_synonyms_refused(sent: dict[str, Any], param: str, names: list[str]) -> None:
    with pytest.raises(InvalidParams, match="differ") as caught:
        parse_generation({"prompt": "a cat", **sent})
    assert caught.value.param == param
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ({"steps": "9"}, "steps"),
        ({"cfg_scale": [3]}, "cfg_scale"),
        ({"resolution": 1024}, "resolution"),
        ({"width": "640", "height": 480}, "width"),
        ({"width": 640, "height": True}, "height"),
        ({"width": 640.5, "height": 480}, "width"),
        ({"width": float("nan"), "height": 480}, "width"),
    ],
    ids=str,
)
def test_wrong_type_of_synonym_named(sent: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidParams, match=name) as caught:
        parse_generation({"prompt": "a cat", **sent})
    assert (caught.value.param, caught.value.code) == (name, "invalid_type")


@pytest.mark.parametrize(("name", "field"), [("steps", "num_inference_steps"), ("cfgScale", "guidance_scale")])
def test_strict_refuses_synonym_and_names_field(name: str, field: str) -> None:
    with pytest.raises(InvalidParams, match=f"Did you mean '{field}'") as caught:
        parse_generation({"prompt": "a cat", name: 3}, strict=True)
    assert caught.value.param == name
