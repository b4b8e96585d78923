"""The applications with which the service is compared, each in its own process.

    python serving_peers.py ceiling --policies DIR

`echo` only reads requests and writes answers. `ceiling` computes in a bare ASGI application on the
event loop, without routes, checks, limits or metrics. `plain` is a typical implementation: FastAPI,
a pydantic model and a sync handler. The last two have the service's own ONNX Runtime sessions. All
answer `/POLICY/FORM`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from slimq.core.onnx_policy import make_session
from slimq.core.qfunction import INPUT, OUTPUT
from slimq.core.repository import Repository
from slimq_service.server.sockets import bind, url_of

POLICIES = ("cartpole", "pong")
VARIANT = "fp32"

Array = npt.NDArray[Any]
Compute = Callable[[Array], Array]


def load(root: Path, name: str) -> tuple[Compute, np.dtype[Any], tuple[int, ...]]:
    """A function that computes Q-values, and dtype and shape of an observation."""
    repository = Repository(root)
    spec = repository.policy(name).observation
    session = make_session(repository.read_model(name, VARIANT)[1])

    def compute(observations: Array) -> Array:
        q_values: Array = session.run([OUTPUT], {INPUT: observations})[0]
        return q_values

    return compute, spec.numpy_dtype, spec.shape


def make_ceiling(root: Path) -> ASGIApp:
    """Makes the bare application."""
    answers: dict[str, Callable[[bytes], bytes]] = {}
    for name in POLICIES:
        compute, dtype, shape = load(root, name)
        answers[f"/{name}/json"] = _from_json(compute, dtype)
        answers[f"/{name}/raw"] = _from_bytes(compute, dtype, shape)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        content = answers[scope["path"]](body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


def make_echo(root: Path) -> ASGIApp:
    """Makes the bare application without inference, which answers with zeros."""
    sizes = {name: len(Repository(root).policy(name).actions) for name in POLICIES}
    contents = {
        name: _render(np.zeros((1, actions), np.float32)) for name, actions in sizes.items()
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message["more_body"]:
            message = await receive()
        content = contents[scope["path"].split("/")[1]]
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


def _from_json(compute: Compute, dtype: np.dtype[Any]) -> Callable[[bytes], bytes]:
    def answer(body: bytes) -> bytes:
        return _render(compute(np.array(orjson.loads(body)["observations"], dtype)))

    return answer


def _from_bytes(
    compute: Compute, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Callable[[bytes], bytes]:
    def answer(body: bytes) -> bytes:
        return _render(compute(np.frombuffer(body, dtype).reshape(-1, *shape)))

    return answer


def _render(q_values: Array) -> bytes:
    answer = {"actions": q_values.argmax(axis=1), "q_values": q_values}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


class Act(BaseModel):
    """The request body of the plain application."""

    observations: list[Any]


def make_plain(root: Path) -> FastAPI:
    """Makes the plain application."""
    loaded = {name: load(root, name) for name in POLICIES}
    app = FastAPI()

    @app.post("/{policy}/json")
    def act(policy: str, body: Act) -> dict[str, Any]:
        compute, dtype, _ = loaded[policy]
        q_values = compute(np.array(body.observations, dtype))
        return {"actions": q_values.argmax(axis=1).tolist(), "q_values": q_values.tolist()}

    return app


PEERS: dict[str, Callable[[Path], ASGIApp]] = {
    "ceiling": make_ceiling,
    "plain": make_plain,
    "echo": make_echo,
}


def main() -> None:
    """Serves one of them on a free port, announced as `slimq serve` does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--policies", type=Path, required=True)
    options = parser.parse_args()
    bound = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        PEERS[options.peer](options.policies),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    print(f"{options.peer} at {url_of(bound)}", flush=True)
    uvicorn.Server(config).run(sockets=[bound])


if __name__ == "__main__":
    main()
