"""OpenAI's images API as types: what may be sent, refused by name where it cannot be honoured, and what is answered."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from engine import InvalidParams

from .errors import printable

UNSUPPORTED = ("svg", "frame_count", "frame_duration_ms")  # they belong to gif and svg: no picture of ours honours them


class ImageGenerationRequest(BaseModel):
    """Body of POST /v1/images/generations. Strict: "2", true and 1.0 are no integers. None is "not given".

    A field that cannot change what the client sees is accepted and ignored; one that would falsify the answer is
    refused. Ranges that depend on the model are left to the engine.
    """

    model_config = ConfigDict(strict=True)

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None

    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None

    # accepted and ignored
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["auto", "low"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    user: str | None = None
    safety_identifier: str | None = None

    @field_validator("stream")
    @classmethod
    def check_stream(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("Invalid value: true. This server does not stream; send false or leave it out.")
        return value

    @field_validator("output_compression")
    @classmethod
    def check_compression(cls, value: int | None) -> int | None:
        if value not in (None, 100):
            raise ValueError(f"Invalid value: {value}. PNG is lossless; send 100 or leave it out.")
        return value


class ImageData(BaseModel):
    """One image. `seed` (our extension) draws it again."""

    b64_json: str
    seed: int


class StageTimings(BaseModel):
    """Seconds per stage; `total` is the server's clock from the request's first byte read to its last image."""

    queue: float
    encode: float
    denoise: float
    decode: float
    total: float


class ImagesResponse(BaseModel):
    """Body of a 200. `timings` is our extension."""

    created: int
    data: list[ImageData]
    size: str
    quality: Literal["low", "medium", "high"]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png"] = "png"
    timings: StageTimings


class ModelObject(BaseModel):
    """One entry of GET /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "sana-serve"


class ModelList(BaseModel):
    """Body of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorObject(BaseModel):
    """What an error says; all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Body of every answer of 400 and above."""

    error: ErrorObject


def parse_generation(body: dict[str, Any]) -> tuple[ImageGenerationRequest, list[str]]:
    """The request, and the names in the body that it does not know. Raises InvalidParams for the first fault."""
    for name in UNSUPPORTED:
        if name in body:
            raise InvalidParams(f"Unknown parameter: '{name}'. This server draws PNG only.", name, "unknown_parameter")
    known = {name: value for name, value in body.items() if name in ImageGenerationRequest.model_fields}
    try:
        return ImageGenerationRequest.model_validate(known), [name for name in body if name not in known]
    except ValidationError as error:
        raise invalid_params(error.errors()[0]) from None


def invalid_params(fault: ErrorDetails) -> InvalidParams:
    """pydantic's words for one fault in OpenAI's."""
    name, kind, value = str(fault["loc"][0]), fault["type"], fault["input"]
    context = fault.get("ctx", {})
    shown = printable(repr(value))[:60]
    if kind == "missing":
        return InvalidParams(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if kind == "value_error":
        return InvalidParams(f"{name}: {context['error']}", name)
    if kind == "greater_than_equal":
        return InvalidParams(f"{name} is {shown}; the least is {context['ge']}", name, "integer_below_min_value")
    if kind == "less_than_equal":
        return InvalidParams(f"{name} is {shown}; the most is {context['le']}", name, "integer_above_max_value")
    if kind == "literal_error" and isinstance(value, str):
        supported = context["expected"].replace(" or ", ", ")
        return InvalidParams(f"Invalid value: {shown}. Supported values are: {supported}.", name)
    if kind == "string_unicode":
        return InvalidParams(f"{name} holds half of a surrogate pair; send whole characters", name)
    wanted = {"int_type": "an integer", "float_type": "a number", "bool_type": "a boolean"}.get(kind, "a string")
    message = f"Invalid type for '{name}': expected {wanted}, but got {json_type(value)} instead."
    return InvalidParams(message, name, "invalid_type")


def json_type(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")
