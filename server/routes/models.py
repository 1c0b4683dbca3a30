"""GET /v1/models and /v1/models/{id}: the served model, by its id and its aliases. Azure's clients add /openai."""

from fastapi import APIRouter, Request
from starlette.datastructures import State

from engine import MAX_IMAGES, MAX_PROMPT_CHARS, MAX_STEPS, MIN_SIDE, Engine, EngineUnavailable, ModelInfo

from ..http_errors import ModelNotFound, printable
from ..request_params import QUALITY, preset_steps, size_of_ratio
from ..schemas import ModelList, ModelObject
from ..settings import ServerConfig

router = APIRouter()
ANY_NAME = "*"
"""The alias that stands for every name."""
ASPECT_RATIOS = ((1, 1), (3, 2), (2, 3), (4, 3), (3, 4), (16, 9), (9, 16))
"""Aspect ratios of the sizes that GET /v1/models lists; all other sizes are accepted too."""


@router.get("/openai/models", include_in_schema=False)
@router.get("/openai/v1/models", include_in_schema=False)
@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """The model under its id and each alias, except *, which has no list."""
    model = served_model(request.app.state)
    names = [name for name in request.app.state.config.model_aliases if name != ANY_NAME]
    return ModelList(data=[model_object(model, name) for name in (model.id, *names)])


@router.get("/openai/models/{model_id:path}", include_in_schema=False)
@router.get("/openai/v1/models/{model_id:path}", include_in_schema=False)
@router.get("/v1/models/{model_id:path}")
async def retrieve_model(model_id: str, request: Request) -> ModelObject:
    """One model. Clients send the slash of "org/name" as %2F or as it is, so the route takes both."""
    return model_object(served_model(request.app.state, model_id), model_id)


def served_model(state: State, name: str | None = None) -> ModelInfo:
    """The model of the application with this state, by its id, an alias, None or "".

    Raises EngineUnavailable or ModelNotFound.
    """
    engine: Engine = state.engine
    model = engine.model
    if model is None:
        raise EngineUnavailable("the model is loading or the server is stopping; try again in a few seconds")
    aliases = state.config.model_aliases
    if name and name != model.id and name not in aliases and ANY_NAME not in aliases:
        shown = printable(repr(name))[:100]
        raise ModelNotFound(f"The model {shown} does not exist; this server serves '{model.id}'.")
    return model


def default_format(state: State, name: str | None) -> str:
    """The format of images for a request that names none: of the alias, of OpenAI's API for its names, or the default.

    OpenAI's own gpt-image models send b64_json only, so their clients read nothing else.
    """
    config: ServerConfig = state.config
    alias, any_name = config.model_aliases.get(name or ""), config.model_aliases.get(ANY_NAME)
    if alias and alias.response_format:
        return alias.response_format
    if name and name.startswith("gpt-image"):
        return "b64_json"
    if any_name and any_name.response_format and name not in (None, "", served_model(state).id):
        return any_name.response_format
    return config.response_format


def model_object(model: ModelInfo, name: str) -> ModelObject:
    native = "{}x{}".format(*model.default_size)
    return ModelObject(
        id=name,
        created=model.created,
        root=model.id,
        default_size=native,
        native_size=native,
        sizes=["{}x{}".format(*size_of_ratio(width, height, model)) for width, height in ASPECT_RATIOS],
        device=model.device,
        dtype=model.dtype,
        dtype_reason=model.dtype_reason,
        size_multiple=model.size_multiple,
        min_side=MIN_SIDE,
        max_side=model.max_side,
        max_n=MAX_IMAGES,
        max_prompt_chars=MAX_PROMPT_CHARS,
        default_steps=model.default_steps,
        max_steps=MAX_STEPS,
        default_guidance_scale=model.default_guidance,
        takes_images=model.takes_images,
        quality_steps={word: preset_steps(model, word) for word in QUALITY},
    )
