"""The OpenAPI document, and a documentation page that loads nothing from other sites.

The page is Swagger UI. Its files are those of npm's `swagger-ui-dist`, compressed, in `swagger_ui`;
its links are relative, so that it works behind any prefix.
"""

from __future__ import annotations

import asyncio
import gzip
from importlib import resources

from fastapi import APIRouter, FastAPI, HTTPException, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from slimq_service.http.forwarded import Proxies

SWAGGER_UI_VERSION = "5.35.0"
FILES = resources.files(__package__) / "swagger_ui"
SCRIPT, STYLE, START = "swagger-ui-bundle.js", "swagger-ui.css", "start.js"
MEDIA_TYPES = {SCRIPT: "text/javascript", STYLE: "text/css", START: "text/javascript"}
COMPRESSED = (SCRIPT, STYLE)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><title>slimq</title>'
    '<link rel="icon" href="data:,">'
    f'<link rel="stylesheet" href="docs/{STYLE}?{SWAGGER_UI_VERSION}">'
    '</head><body><div id="swagger-ui"></div>'
    f'<script src="docs/{SCRIPT}?{SWAGGER_UI_VERSION}"></script>'
    f'<script src="docs/{START}"></script></body></html>'
)
IMMUTABLE = "public, max-age=31536000, immutable"
"""Cache-Control of files with their version in the URL."""


def make_interface_router(app: FastAPI, proxies: Proxies) -> APIRouter:
    """The routes of the document and the page.

    Args:
        app: the application to document.
        proxies: gives the URL that clients use.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def get_openapi(request: Request) -> Response:
        prefix = proxies.url(request.scope).prefix
        servers = {"servers": [{"url": prefix}]} if prefix else {}
        return JSONResponse({**app.openapi(), **servers})

    @router.get("/docs")
    async def get_docs() -> Response:
        return HTMLResponse(PAGE, headers={"content-security-policy": CONTENT_SECURITY_POLICY})

    @router.get("/docs/{name}")
    async def get_file(request: Request, name: str) -> Response:
        if name not in MEDIA_TYPES:
            raise HTTPException(404)
        headers = {"x-content-type-options": "nosniff", "cache-control": "no-cache"}
        if name not in COMPRESSED:
            content = await asyncio.to_thread((FILES / name).read_bytes)
            return Response(content, headers=headers, media_type=MEDIA_TYPES[name])
        headers |= {"cache-control": IMMUTABLE, "vary": "accept-encoding"}
        content = await asyncio.to_thread((FILES / f"{name}.gz").read_bytes)
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
        else:
            content = await asyncio.to_thread(gzip.decompress, content)
        return Response(content, headers=headers, media_type=MEDIA_TYPES[name])

    return router


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    for part in accept_encoding.lower().split(","):
        name, _, parameter = part.replace(" ", "").partition(";")
        if name in ("gzip", "x-gzip", "*"):
            return parameter.rstrip("0.") != "q="
    return False
