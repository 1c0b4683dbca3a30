"""OpenAI's images API as types: the request, refused by name where it cannot be honoured, and the responses."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from engine import LIMITS, MAX_TIMEOUT_SECONDS, ImageFormat, InvalidParams, Priority, check_limits

from .http_errors import printable
from .request_params import RANDOM
from .synonyms import fold, refuse_unsupported, replace_synonyms, synonyms_of

Quality = Literal["low", "medium", "high", "xhigh", "max"]


def limited(name: str, **limits: int) -> Any:
    """Field annotation that shows the engine's limits in the OpenAPI document. The engine checks them, not pydantic."""
    low, high = LIMITS[name]
    return Field(json_schema_extra={"minimum": low, "maximum": high, **limits})


def whole(value: object) -> object:
    """A float without fraction as the integer it is: clients whose numbers are doubles send 4.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]


def word(value: object) -> object:
    """A word of a fixed set in lower case, by its usual name: HD, jpg, image/png, base64."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower().removeprefix("image/").removeprefix(".")
    return {"jpg": "jpeg", "base64": "b64_json", "b64": "b64_json"}.get(text, text)


Word = BeforeValidator(word)


class ImageGenerationRequest(BaseModel):
    """Body of POST /v1/images/generations. Types are strict: "2", true and 1.5 are no integers. None and ""
    mean "not given".

    A field that cannot change what the client sees is accepted and ignored; one that would falsify the response is
    refused. The engine checks ranges.
    """

    model_config = ConfigDict(strict=True)

    prompt: str
    model: str | None = None
    n: Annotated[Whole, limited("n")] | None = None
    size: str | None = None
    quality: Annotated[Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"], Word] | None = None
    response_format: Annotated[Literal["b64_json", "url"], Word] | None = None
    output_format: Annotated[ImageFormat, Word] | None = None
    output_compression: Annotated[Whole, limited("output_compression")] | None = None
    background: Annotated[Literal["auto", "opaque"], Word] | None = None
    stream: bool | None = None
    partial_images: Annotated[Whole, limited("partial_images")] | None = None

    # not OpenAI's
    seed: Annotated[Whole, limited("seed", minimum=RANDOM)] | None = None
    num_inference_steps: Annotated[Whole, limited("num_inference_steps")] | None = None
    guidance_scale: Annotated[float, limited("guidance_scale")] | None = None
    negative_prompt: str | None = None
    priority: Annotated[Priority, Word] | None = None
    timeout: (
        Annotated[float, Field(json_schema_extra={"exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_SECONDS})] | None
    ) = None
    embed_params: bool | None = None

    # accepted and ignored
    style: Annotated[Literal["vivid", "natural"], Word] | None = None
    complexity: Annotated[Literal["low", "medium", "high"], Word] | None = None
    moderation: Any = None
    user: Any = None
    safety_identifier: Any = None
    max_tokens: Any = None  # of chat; LiteLLM's health check adds it


class ImageEditRequest(ImageGenerationRequest):
    """Body of POST /v1/images/edits. In a form all values are texts, and images are files."""

    image: Any
    mask: Any = None

    # not OpenAI's
    strength: Annotated[float, limited("strength")] | None = None
    mask_feather: Annotated[Whole, limited("mask_feather")] | None = None

    # accepted and ignored
    input_fidelity: Any = None


class ImageVariationRequest(ImageEditRequest):
    """Body of POST /v1/images/variations: an edit that may do without a prompt."""

    prompt: str = ""


Request = TypeVar("Request", bound=ImageGenerationRequest)


class TokenDetails(BaseModel):
    """Tokens of the input or of the output, by kind."""

    text_tokens: int
    image_tokens: int


class Usage(BaseModel):
    """Tokens of a request: one per 32 x 32 pixels, and one per text token the transformer reads, without <bos>."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: TokenDetails
    output_tokens_details: TokenDetails


class ImageData(BaseModel):
    """One image, in base64 or by URL. `seed`, our extension, generates it again."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class StageTimings(BaseModel):
    """Seconds per stage; `total` runs from the start of the request to its last image."""

    queue: float
    encode: float
    denoise: float
    decode: float
    total: float


class Echo(BaseModel):
    """The settings of the images in OpenAI's terms, part of every response and every streamed event."""

    size: str
    quality: Quality
    background: Literal["opaque"] = "opaque"
    output_format: ImageFormat


class ImagesResponse(Echo):
    """Body of a 200. The last four fields are our extensions."""

    created: int
    data: list[ImageData]
    usage: Usage
    model: str
    num_inference_steps: int
    guidance_scale: float
    timings: StageTimings


class PartialImageEvent(Echo):
    """A preview. `image_index`, our extension, is the index of its image among the n images."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    b64_json: str
    partial_image_index: int
    image_index: int
    created_at: int


class CompletedEvent(Echo):
    """One finished image. The last four fields are our extensions."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    b64_json: str
    created_at: int
    usage: Usage
    image_index: int
    seed: int
    num_inference_steps: int
    timings: StageTimings


class ModelObject(BaseModel):
    """One entry of GET /v1/models: OpenAI's four fields, then the limits and defaults of the model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "sana-serve"
    root: str
    default_size: str
    native_size: str
    sizes: list[str]
    device: str
    dtype: str
    dtype_reason: str
    size_multiple: int
    min_side: int
    max_side: int
    max_n: int
    max_prompt_chars: int
    default_steps: int
    max_steps: int
    default_guidance_scale: float
    quality_steps: dict[str, int]
    takes_images: bool


class ModelList(BaseModel):
    """Body of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorObject(BaseModel):
    """One error; all four keys are always present."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Body of every response of 400 and above."""

    error: ErrorObject


def parse_generation(body: dict[str, Any], strict: bool = False) -> tuple[ImageGenerationRequest, list[str]]:
    """The request, and the unknown names in the body. Raises InvalidParams for the first error.

    Args:
        strict: unknown names are errors, synonyms of fields included.
    """
    return parse_request(ImageGenerationRequest, body, strict)


def parse_request(kind: type[Request], body: dict[str, Any], strict: bool) -> tuple[Request, list[str]]:
    """As `parse_generation`, for a kind of request."""
    fields = kind.model_fields
    refuse_unsupported(body, fields)
    for name in body:
        if strict and name not in fields:
            shown = printable(name)[:60]
            synonym = synonyms_of(fields).get(fold(name))
            near = [synonym] if synonym else difflib.get_close_matches(shown, fields, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise InvalidParams(f"Unknown parameter: {shown!r}.{hint}", shown, "unknown_parameter")
    body, sent = replace_synonyms(body, fields)
    known = {name: value for name, value in body.items() if name in fields and (name == "prompt" or not blank(value))}
    try:
        request = kind.model_validate(known)
    except ValidationError as error:
        raise invalid_params(error.errors()[0], sent) from None
    if request.partial_images is not None:  # without `stream` the engine never sees it
        check_limits("partial_images", request.partial_images)
    return request, [name for name in body if name not in fields]


def blank(value: object) -> bool:
    """Whether a value is an empty text, which forms send for a field that was not filled in."""
    return isinstance(value, str) and not value.strip()


def invalid_params(fault: ErrorDetails, sent: Mapping[str, str]) -> InvalidParams:
    """OpenAI's error for one of pydantic's. `sent` has the names of fields that were sent by a synonym."""
    name, kind, value = str(fault["loc"][0]), fault["type"], fault["input"]
    name = printable(sent.get(name, name))
    shown = printable(repr(value))[:60]
    if kind == "missing":
        return InvalidParams(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if kind == "literal_error" and isinstance(value, str):
        supported = fault["ctx"]["expected"].replace(" or ", ", ")
        return InvalidParams(f"Invalid value: {shown}. Supported values are: {supported}.", name)
    if kind == "string_unicode":
        return InvalidParams(f"{name} must be valid Unicode, got half of a surrogate pair", name)
    wanted = {"int_type": "an integer", "float_type": "a number", "bool_type": "a boolean"}.get(kind, "a string")
    message = f"Invalid type for '{name}': expected {wanted}, but got {json_type(value)} instead."
    return InvalidParams(message, name, "invalid_type")


def json_type(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")
