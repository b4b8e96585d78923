"""What an endpoint answers, and how it is sent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from starlette.types import Send

from slimq_service.problems import Problem


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    status: int
    media_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


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
