"""GET /v1/models and /v1/models/{id}: the one model there is."""

from fastapi import APIRouter, Request

from .images import served_model
from .schemas import ModelList, ModelObject

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    model = served_model(request.app.state.engine)
    return ModelList(data=[ModelObject(id=model.id, created=model.created)])


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(model_id: str, request: Request) -> ModelObject:
    """Clients send the slash of "org/name" as %2F or as it is."""
    model = served_model(request.app.state.engine, model_id)
    return ModelObject(id=model.id, created=model.created)
