"""The page: static files that draw, in the browser, what the API answers.

The files hold no data and require no key; what they fetch does. They are in `page_files`, and in
the folder that exports to the web share. Nothing is loaded from elsewhere, there is no build step,
and links are relative to the files, so that they work behind any prefix.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.responses import JSONResponse

from slimq.core.pages import SHARED
from slimq_service.api.interface import accepts_gzip
from slimq_service.api.v1.overview import Overview, make_overview
from slimq_service.http.accept import prefers_json
from slimq_service.http.forwarded import Proxies
from slimq_service.http.ranges import is_unchanged
from slimq_service.variants.catalogue import Catalogue

FOLDERS = (resources.files(__package__) / "page_files", SHARED)
INDEX = "index.html"
PREFIX_MARK = "%PREFIX%"
"""Stands in `index.html` for the path prefix of links."""
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for "
    "'script'; trusted-types 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """A static file, with its compressed form and its ETag."""

    content: bytes
    compressed: bytes
    etag: str
    media_type: str


def make_page_router(catalogue: Catalogue, proxies: Proxies, *, plays: bool = False) -> APIRouter:
    """The routes of the page, of the overview that it shows, and of its files.

    Args:
        catalogue: the policies.
        proxies: give the URL that clients use.
        plays: whether the service can play episodes.
    """
    router = APIRouter(tags=["page"])

    @router.get(
        "/",
        summary="Overview of policies and variants",
        response_class=Response,
        responses={
            200: {
                "model": Overview,
                "description": "the page, which requires no key; or its content as JSON if the "
                "Accept header prefers that",
            }
        },
    )
    async def get_page(request: Request) -> Response:
        url = proxies.url(request.scope)
        if prefers_json(request.headers.get("accept", "*/*")):
            await catalogue.refresh()
            overview = await make_overview(catalogue, str(url), plays=plays)
            return JSONResponse(overview.model_dump(mode="json"), headers={"vary": "accept"})
        file = await asyncio.to_thread(read_index, url.prefix)
        headers = {"content-security-policy": CONTENT_SECURITY_POLICY}
        return respond(request, file, {**headers, "vary": "accept, accept-encoding"})

    @router.get("/page/{name}", include_in_schema=False)
    async def get_file(request: Request, name: str) -> Response:
        file = await asyncio.to_thread(read_file, name)
        if file is None:
            raise HTTPException(404)
        return respond(request, file, {"vary": "accept-encoding"})

    return router


def respond(request: Request, file: PageFile, headers: dict[str, str]) -> Response:
    """The response with a file, compressed if the client accepts it; 304 if it has the file."""
    headers = {**HEADERS, **headers, "etag": file.etag}
    if is_unchanged(request.scope["headers"], file.etag):
        return Response(status_code=304, headers=headers)
    if accepts_gzip(request.headers.get("accept-encoding", "")):
        headers["content-encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)


def read_file(name: str) -> PageFile | None:
    """A file of the page by its name; None if there is none."""
    return _read(name) if name in file_names() else None


def read_index(prefix: str) -> PageFile:
    """The page itself.

    Args:
        prefix: path prefix of links; without one they are relative, in case of an unknown prefix.
    """
    text = _index().replace(PREFIX_MARK, escape(f"{prefix}/") if prefix else "")
    return _make(text.encode(), "text/html")


@cache
def file_names() -> frozenset[str]:
    """The names of the page's files, the page itself excluded."""
    entries = [entry for folder in FOLDERS for entry in folder.iterdir()]
    return frozenset(e.name for e in entries if e.is_file() and _suffix(e.name) in MEDIA_TYPES)


@cache
def _read(name: str) -> PageFile:
    content = next((folder / name).read_bytes() for folder in FOLDERS if (folder / name).is_file())
    return _make(content, MEDIA_TYPES[_suffix(name)])


@cache
def _index() -> str:
    return (FOLDERS[0] / INDEX).read_text(encoding="utf-8")


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _make(content: bytes, media_type: str) -> PageFile:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return PageFile(content, gzip.compress(content, mtime=0), etag, f"{media_type}; charset=utf-8")
