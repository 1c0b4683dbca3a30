"""Routes for operators: /health (is the process alive?), /ready (can it generate?) and /metrics."""

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

from engine import Engine, EngineUnavailable

from ..metrics import Metrics
from .models import served_model

router = APIRouter()
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/health")
async def health() -> dict[str, str]:
    """200 while this process answers: a liveness probe should restart it only if it hangs."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """200 if the engine can generate; 503 while it loads, drains or restarts: for load balancers and Docker."""
    engine: Engine = request.app.state.engine
    model = served_model(request.app.state)
    if not engine.ready:
        raise EngineUnavailable("the server is stopping" if engine.draining else "the engine is restarting")
    answer = {"status": "ready", "model": model.id}
    if request.app.state.batches is not None:
        answer["batches"] = "paused; see the log" if request.app.state.batches.reason else "running"
    return answer


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    kept: Metrics = request.app.state.metrics
    return PlainTextResponse(await run_in_threadpool(kept.render), media_type=PROMETHEUS)
