"""What operators ask: GET /health."""

from fastapi import APIRouter, Request

from engine import EngineClient, EngineUnavailable

from .images import served_model

router = APIRouter()


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """200 while the engine can draw; 503 while it loads and when it is gone: Docker's HEALTHCHECK reads the status."""
    engine: EngineClient = request.app.state.engine
    model = served_model(engine)
    if not engine.ready:
        raise EngineUnavailable("no engine process answers, or the server is stopping")
    return {"status": "ok", "model": model.id}
