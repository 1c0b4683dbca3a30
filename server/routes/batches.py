"""/v1/batches: OpenAI's Batch API. server/batches/runner.py does the work."""

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Depends, Request

from engine import InvalidParams

from ..auth import limit
from ..batches.objects import BatchList, BatchObject
from ..body import read_json
from ..http_errors import NoSuchBatchObject, printable
from .uploads import enabled, expiry, listing, make_room, no_such_file, page_limit

router = APIRouter()
BODY_SCHEMA = {"requestBody": {"required": True, "content": {"application/json": {"schema": {
    "type": "object",
    "required": ["input_file_id", "endpoint", "completion_window"],
    "properties": {
        "input_file_id": {"type": "string"},
        "endpoint": {"enum": ["/v1/images/generations"]},
        "completion_window": {"type": "string"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}}}}}  # fmt: skip


@router.post("/v1/batches", response_model=BatchObject, openapi_extra=BODY_SCHEMA, dependencies=[Depends(limit)])
async def create_batch(request: Request) -> Any:
    """Queues a batch of the requests in an uploaded file, which is validated afterwards."""
    batches = enabled(request)
    from ..batches.jobs import ENDPOINTS, check_metadata

    body = await read_json(request, request.app.state.config.max_body_bytes)
    for name in ("input_file_id", "endpoint", "completion_window"):
        if name not in body:
            raise InvalidParams(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        if not isinstance(body[name], str):
            raise InvalidParams(f"Invalid type for '{name}': expected a string.", name, "invalid_type")
    if body["endpoint"] not in ENDPOINTS:
        shown, supported = printable(repr(body["endpoint"]))[:60], ", ".join(map(repr, ENDPOINTS))
        raise InvalidParams(f"Invalid value: {shown}. Supported values are: {supported}.", "endpoint")
    after = body.get("output_expires_after", {})
    if not isinstance(after, dict):
        raise InvalidParams("Invalid type for 'output_expires_after': expected an object.", "output_expires_after")
    tenant, file_id = request.state.tenant, body["input_file_id"]
    file = await asyncio.to_thread(batches.files.find, tenant, file_id)
    if file is None:
        raise no_such_file(file_id)
    if file.purpose != "batch":
        raise InvalidParams("input_file_id must be a file of purpose 'batch'", "input_file_id")
    await asyncio.to_thread(make_room, batches, file.bytes)  # validation copies the lines
    batch = await asyncio.to_thread(
        batches.jobs.create,
        tenant,
        file_id,
        body["completion_window"],
        check_metadata(body.get("metadata")),
        endpoint=body["endpoint"],
        output_seconds=expiry(after.get("anchor"), after.get("seconds")),
        base_url=(request.app.state.config.public_url or str(request.base_url)).rstrip("/"),
    )
    batches.wake()
    return batch_object(batch)


@router.get("/v1/batches", response_model=BatchList)
def list_batches(request: Request, after: str | None = None, limit: str | None = None) -> Any:
    rows, more = enabled(request).jobs.page(request.state.tenant, after, page_limit(limit, 20, 100))
    return {**listing(rows, more), "data": [batch_object(row) for row in rows]}


@router.get("/v1/batches/{batch_id}", response_model=BatchObject)
def retrieve_batch(batch_id: str, request: Request) -> Any:
    batch = enabled(request).jobs.find(request.state.tenant, batch_id)
    if batch is None:
        raise NoSuchBatchObject(f"No batch found with id '{printable(batch_id)[:100]}'.")
    return batch_object(batch)


@router.post("/v1/batches/{batch_id}/cancel", response_model=BatchObject)
def cancel_batch(batch_id: str, request: Request) -> Any:
    """Ends the batch: its generated images stay in the output file, and the other lines go to the error file."""
    enabled(request).jobs.cancel(request.state.tenant, batch_id)
    return retrieve_batch(batch_id, request)


def batch_object(row: Any) -> dict[str, Any]:
    """OpenAI's batch object from a row of the database."""
    return {
        **row._mapping,
        "errors": json.loads(row.errors) if row.errors else None,
        "metadata": json.loads(row.metadata) if row.metadata else None,
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
    }
