"""The base of comparison for gRPC: a bare grpc.aio handler that runs the model.

    python serving_grpc_peer.py --policies DIR --policy NAME --responses DIR

For every call of the method `/echo/NAME`, it runs the model on the observation in the folder DIR of
responses, with the service's own ONNX Runtime session, and answers with the bytes of `NAME.bin`. It
parses and checks nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import uvloop

from slimq.core.onnx_policy import make_session
from slimq.core.qfunction import INPUT, OUTPUT
from slimq.core.repository import Repository

VARIANT = "fp32"
OBSERVATION = "observation.npy"


def make_handler(policies: Path, policy: str, folder: Path) -> grpc.GenericRpcHandler:
    """Makes a handler with a method for each response."""
    session = make_session(Repository(policies).read_model(policy, VARIANT)[1])
    observation = np.load(folder / OBSERVATION)

    def make(response: bytes) -> Any:
        async def answer(message: bytes, context: Any) -> bytes:  # noqa: ARG001
            session.run([OUTPUT], {INPUT: observation})
            return response

        return grpc.unary_unary_rpc_method_handler(answer)

    methods = {path.stem: make(path.read_bytes()) for path in folder.glob("*.bin")}
    return grpc.method_handlers_generic_handler("echo", methods)


async def serve(handler: grpc.GenericRpcHandler) -> None:
    """Serves until the process ends."""
    server = grpc.aio.server(handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo at http://127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Runs the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=Path, required=True)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--responses", type=Path, required=True)
    options = parser.parse_args()
    uvloop.run(serve(make_handler(options.policies, options.policy, options.responses)))


if __name__ == "__main__":
    main()
