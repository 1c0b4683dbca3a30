"""One line of a batch: its request generated in the background, and its line of the output or error file."""

import json
import logging
import secrets
import time
from dataclasses import replace

from starlette.datastructures import State

from engine import EngineUnavailable, Finished, GenerationParams, InvalidParams, ModelInfo, RequestCancelled

from ..file_store import new_name
from ..http_errors import error_body, kind_of
from ..responses import describe_images, json_length
from ..routes.images import collect, to_params
from ..routes.models import default_format, served_model
from ..s3_store import S3Store
from ..schemas import ImageGenerationRequest, parse_generation
from ..writing import OutputError
from .input_lines import body_of
from .queue import Line, Result

log = logging.getLogger("sana.batches")
MAX_OUTPUT_BYTES = 8 << 30
"""Size of an output file beyond which further images in base64 are refused; images behind URLs are not in it."""
PASSING_ERRORS = (EngineUnavailable, RequestCancelled, OutputError)
"""Errors of a server that stops or cannot store files: the line is tried again. All others are the line's result."""


async def generate_line(line: Line, state: State) -> Result:
    """The result of a line, which may be an error. Raises PASSING_ERRORS.

    Args:
        state: of the application, with its engine, settings and file store.
    """
    try:
        return await generate(line, state)
    except PASSING_ERRORS:
        raise
    except Exception as error:
        if kind_of(error) is kind_of(Exception()):
            log.exception("%s failed", line.request_id, extra={"request_id": line.request_id})
        output = output_line(line, kind_of(error).status, error_body(error))
        return Result(line, False, output, len(output))


async def generate(line: Line, state: State) -> Result:
    started = time.monotonic()
    body, _ = parse_generation(body_of(line.body), state.config.strict_params)
    if body.stream:
        raise InvalidParams("stream must be false in a batch", "stream")
    model = served_model(state, body.model)
    params = background_params(body, model, line.tenant)
    by_url = (body.response_format or default_format(state, body.model)) == "url"
    if not by_url and line.output_bytes > MAX_OUTPUT_BYTES:
        message = f"the output file of a batch must not exceed {MAX_OUTPUT_BYTES} bytes; set response_format to url"
        raise InvalidParams(message, "response_format")
    # Unique, since this server may have lost the line and got it again while its first try still runs.
    images = await collect(state.engine.generate(params, f"{line.request_id}/{secrets.token_hex(4)}"))
    state.metrics.count_images(params)
    return await result_of(line, state, params, model, images, by_url, time.monotonic() - started)


def background_params(body: ImageGenerationRequest, model: ModelInfo, tenant: str) -> GenerationParams:
    """The request without a timeout, which would start when the line leaves the queue."""
    return replace(to_params(body, model, tenant), background=True, timeout=None)


async def result_of(
    line: Line,
    state: State,
    params: GenerationParams,
    model: ModelInfo,
    images: list[Finished],
    by_url: bool,
    seconds: float,
) -> Result:
    """The output line, with the images that are stored with it."""
    urls: list[str] | None = None
    kept: list[tuple[str | None, bytes]] = [(None, image.image) for image in images]
    if by_url and isinstance(state.files, S3Store):
        urls, kept = [await state.files.save(image.image, params.output_format) for image in images], []
    elif by_url:
        kept = [(new_name(params.output_format), image.image) for image in images]
        urls = [f"{line.base_url}/files/{name}" for name, _ in kept]
    frame = describe_images(params, model, images, urls, seconds).model_dump_json(exclude_none=True).encode()
    output = output_line(line, 200, frame)
    inline = [] if by_url else [image.image for image in images]
    return Result(line, True, output, json_length(output, inline), kept)


def output_line(line: Line, status: int, body: bytes) -> bytes:
    """A line of the output or error file, around the body of the response."""
    request_id, custom_id = line.request_id.encode(), json.dumps(line.custom_id).encode()
    response = b'{"status_code": %d, "request_id": "%b", "body": %b}' % (status, request_id, body)
    return b'{"id": "%b", "custom_id": %b, "response": %b, "error": null}\n' % (request_id, custom_id, response)
