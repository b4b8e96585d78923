"""The model file of a variant, for clients that act in their own process."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from slimq_service.decoding.observations import RAW
from slimq_service.http.ranges import is_unchanged, selected_range
from slimq_service.variants.catalogue import Catalogue
from slimq_service.variants.model_files import ModelFile

PART_BYTES = 256 * 1024
"""Bytes that are sent at a time; between them, other requests are served."""
HEADERS = {
    "If-None-Match": "ETags; the response is 304 if one is that of the current file",
    "Range": "one range of bytes, such as `bytes=1000-` or `bytes=-100`; several are answered with "
    "the whole file",
    "If-Range": "the ETag of a file fetched in part; if the file has changed, the response is all "
    "of it",
}
_BINARY = {RAW: {"schema": {"type": "string", "format": "binary"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file; its ETag is the SHA-256 in hexadecimal", "content": _BINARY},
    206: {"description": "The bytes of the range", "content": _BINARY},
    304: {"description": "The client has the current file"},
    416: {"description": "The file has none of the bytes; Content-Range has its length"},
}


def make_model_router(catalogue: Catalogue) -> APIRouter:
    """The route; it scans the repository first, so that new versions are served at once."""
    router = APIRouter(prefix="/v1/policies", tags=["policies"])

    @router.get(
        "/{policy}/variants/{variant}/model",
        summary="A variant's model, as an ONNX file that describes itself",
        response_class=Response,
        responses=RESPONSES,
        openapi_extra={"parameters": [_header(*row) for row in HEADERS.items()]},
    )
    async def get_model(request: Request, policy: str, variant: str) -> Response:
        await catalogue.refresh()
        file = await catalogue.model_files.read(catalogue.scan, (policy, variant))
        return respond(file, request.scope["headers"])

    return router


def respond(file: ModelFile, request_headers: list[tuple[bytes, bytes]]) -> Response:
    """The response with a file, a part of it, or nothing if the client has it.

    Raises:
        RangeNotSatisfiableError: the file has none of the bytes of the range.
    """
    etag, size = f'"{file.sha256}"', len(file.content)
    headers = {"etag": etag, "cache-control": "no-cache", "accept-ranges": "bytes"}
    if is_unchanged(request_headers, etag):
        return Response(status_code=304, headers=headers)
    selected = selected_range(request_headers, etag, size)
    first, end = selected or (0, size)
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
    headers |= {
        "content-length": str(end - first),
        "content-disposition": f'attachment; filename="{file.name}"',
        "repr-digest": f"sha-256=:{digest}:",
    }
    if selected is not None:
        headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
    status = 200 if selected is None else 206
    return StreamingResponse(_parts(file, first, end), status, headers, RAW)


async def _parts(file: ModelFile, first: int, end: int) -> AsyncIterator[bytes]:
    for start in range(first, end, PART_BYTES):
        yield file.content[start : min(end, start + PART_BYTES)]
        await asyncio.sleep(0)


def _header(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": description,
    }
