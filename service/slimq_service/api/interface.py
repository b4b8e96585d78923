"""The description of the interface, with the prefix that its paths have for clients."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse, Response

from slimq_service.http.forwarded import Proxies


def make_interface_router(app: FastAPI, proxies: Proxies) -> APIRouter:
    """The routes.

    Args:
        app: whose document it is.
        proxies: say where clients find the service.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def get_openapi(request: Request) -> Response:
        prefix = proxies.url(request.scope).prefix
        servers = {"servers": [{"url": prefix}]} if prefix else {}
        return JSONResponse({**app.openapi(), **servers})

    @router.get("/docs")
    async def get_docs() -> Response:
        return get_swagger_ui_html(openapi_url="openapi.json", title=app.title)

    return router
