"""What an endpoint answers, and how it is sent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from starlette.types import Receive, Send

from slimq_service.http.bodies import drain
from slimq_service.http.problems import MEDIA_TYPE, Problem, render

DRAIN_SECONDS = 1.0
"""How long a client may go on sending a body that is already refused."""


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    status: int
    media_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def problem_answer(problem: Problem) -> Answer:
    """A problem document as the answer."""
    return Answer(problem["status"], MEDIA_TYPE.encode(), render(problem))


def with_retry(answer: Answer, problem: Problem) -> Answer:
    """The answer with the header that says when to come again, where the problem does."""
    if "retry_after" not in problem:
        return answer
    header = (b"retry-after", str(problem["retry_after"]).encode())
    return replace(answer, headers=(*answer.headers, header))


async def send_answer(
    send: Send, answer: Answer, *, close: bool = False, kind: str = "http.response"
) -> None:
    """Sends an answer; where the connection is to close after it, one empty part is still to come.

    Args:
        send: the ASGI channel.
        answer: what to send.
        close: whether the connection is to close.
        kind: what the ASGI messages are called.
    """
    length = (b"content-length", str(len(answer.body)).encode())
    headers = [(b"content-type", answer.media_type), length, *answer.headers]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": answer.body, "more_body": close})


async def send_last(receive: Receive, send: Send, answer: Answer, *, close: bool) -> None:
    """Sends the answer to a request; where the connection closes, once the client has seen it.

    Args:
        receive: the ASGI channel of the request.
        send: that of the answer.
        answer: what to send.
        close: whether what is left of the body is dropped with the connection.
    """
    await send_answer(send, answer, close=close)
    if close:
        await drain(receive, DRAIN_SECONDS)
        await send({"type": "http.response.body", "body": b""})
