"""Error responses written directly to the socket, if there is no ASGI request to respond to."""

from __future__ import annotations

from http import HTTPStatus

from slimq.core.errors import SlimqError
from slimq_service.http.problems import MEDIA_TYPE, problem_of, render
from slimq_service.http.request_ids import HEADER


def raw_response(error: SlimqError, headers: list[tuple[bytes, bytes]], request_id: str) -> bytes:
    """The response to bytes that did not become a request; `headers` are the server's defaults."""
    problem = problem_of(error)
    body = render(problem | {"request_id": request_id})
    status = HTTPStatus(problem["status"])
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    lines.append(f"content-type: {MEDIA_TYPE}".encode())
    lines.append(f"content-length: {len(body)}".encode())
    lines.append(HEADER + b": " + request_id.encode())
    if "retry_after" in problem:
        lines.append(f"retry-after: {problem['retry_after']}".encode())
    return b"\r\n".join([*lines, b"connection: close", b"", body])
