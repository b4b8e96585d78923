"""Error handlers of the FastAPI routes: problem documents, or the error format of `/v2`."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from slimq.core.errors import InvalidInputError, SlimqError
from slimq_service.errors import RangeNotSatisfiableError
from slimq_service.http.error_responses import error_response
from slimq_service.http.problems import (
    Problem,
    explain,
    internal_problem,
    make_problem,
    no_such_path,
    problem_of,
)
from slimq_service.metrics.codes import METHOD_NOT_ALLOWED, UPGRADE_REQUIRED
from slimq_service.metrics.service import Metrics

CODES = {405: METHOD_NOT_ALLOWED, 426: UPGRADE_REQUIRED}


def add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Registers handlers for slimq's errors, the framework's, and unexpected exceptions."""
    log = structlog.get_logger(component="http")

    def respond(
        request: Request, problem: Problem, headers: dict[str, str] | None = None
    ) -> Response:
        metrics.http_error(problem["code"])
        encoded = error_response(request.scope["path"], problem)
        found = {name.decode(): value.decode() for name, value in encoded.headers}
        media_type = encoded.media_type.decode()
        return Response(encoded.body, encoded.status, {**found, **(headers or {})}, media_type)

    async def on_slimq(request: Request, error: Exception) -> Response:
        headers = error.headers() if isinstance(error, RangeNotSatisfiableError) else None
        return respond(request, explain(error), headers)

    async def on_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        path, headers = request.scope["path"], dict(getattr(error, "headers", None) or {})
        if "Allow" in headers:
            headers["Allow"] = allowed_methods(headers["Allow"])
        if status == 404:
            detail = f"no such path: {path!r}; see /docs"
            return respond(request, no_such_path(path, detail), headers)
        problem = make_problem(
            status,
            CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "-")),
            _describe(status, request.method, path, headers),
            field="method" if status == 405 else "path",
            limit=headers.get("Allow") or headers.get("Upgrade") or "the paths in /docs",
            received=request.method if status == 405 else path,
        )
        return respond(request, problem, headers)

    async def on_validation(request: Request, error: Exception) -> Response:
        found = error.errors()[0] if isinstance(error, RequestValidationError) else {}
        field = ".".join(str(part) for part in found.get("loc", ("request",)))
        received = repr(found.get("input"))
        problem = problem_of(InvalidInputError(field, str(found.get("msg")), received))
        return respond(request, problem)

    async def on_unexpected(request: Request, error: Exception) -> Response:
        log.error("request failed", path=request.scope["path"], exc_info=error)
        return respond(request, internal_problem())

    app.add_exception_handler(SlimqError, on_slimq)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_unexpected)


def allowed_methods(allow: str) -> str:
    """The value of an Allow header, with HEAD added to GET."""
    methods = set(allow.replace(" ", "").split(","))
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _describe(status: int, method: str, path: str, headers: dict[str, str]) -> str:
    if status == 405:
        return f"{method} is not allowed at {path!r}; allowed: {headers.get('Allow', 'see /docs')}"
    if status == 426:
        return f"{path!r} is a WebSocket endpoint; connect with ws:// or wss://"
    return f"{method} {path!r}: {HTTPStatus(status).phrase}"
