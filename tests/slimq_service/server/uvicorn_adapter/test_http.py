"""The parts of uvicorn that the adapter overrides or relies on are those that it was written for.

Where one of these fails, read what uvicorn changed, change the adapter if need be, run the tests of
`server`, and state the new digest; then raise the bound in pyproject.toml.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from places import ROOT
from slimq_service.server.uvicorn_adapter.http import HttpConnection
from slimq_service.server.uvicorn_adapter.keep_alive import KeepAliveConnection
from slimq_service.server.uvicorn_adapter.server import Server
from slimq_service.server.uvicorn_adapter.websocket import WebSocketConnection

# fmt: off
DIGESTS: list[tuple[type[Any], str, str]] = [
    (HttpToolsProtocol, "__init__", "4f0899941034"),
    (HttpToolsProtocol, "connection_made", "6efb565ff3d3"),
    (HttpToolsProtocol, "connection_lost", "c91a4c9bf2e2"),
    (HttpToolsProtocol, "eof_received", "5652627579a0"),
    (HttpToolsProtocol, "data_received", "010a7ae59a5d"),
    (HttpToolsProtocol, "on_headers_complete", "1ea8589acfad"),
    (HttpToolsProtocol, "on_message_complete", "1fbad42dc31f"),
    (HttpToolsProtocol, "on_message_begin", "96d377fdc7c2"),
    (HttpToolsProtocol, "on_url", "37be44e962b0"),
    (HttpToolsProtocol, "on_header", "65d62c044f61"),
    (HttpToolsProtocol, "on_body", "dba9c32aeba3"),
    (HttpToolsProtocol, "on_response_complete", "64e254f28e38"),
    (HttpToolsProtocol, "handle_websocket_upgrade", "179c4f769386"),
    (HttpToolsProtocol, "send_400_response", "ae5a4a3782b6"),
    (HttpToolsProtocol, "shutdown", "d7351fa33f00"),
    (HttpToolsProtocol, "timeout_keep_alive_handler", "8b53bf5f2e20"),
    (HttpToolsProtocol, "pause_writing", "17a8fd215d96"),
    (HttpToolsProtocol, "resume_writing", "7844bbaa8cce"),
    (HttpToolsProtocol, "_start_asgi_task", "9c08c2571ae9"),
    (HttpToolsProtocol, "_unset_keepalive_if_required", "00a6a4e47214"),
    (RequestResponseCycle, "__init__", "4d2f220910c3"),
    (RequestResponseCycle, "run_asgi", "0f33f2449a44"),
    (RequestResponseCycle, "send", "abdd8601b326"),
    (RequestResponseCycle, "receive", "8124ae006be7"),
    (WebSocketsSansIOProtocol, "__init__", "631dcd744eab"),
    (WebSocketsSansIOProtocol, "data_received", "c89d394077d8"),
    (WebSocketsSansIOProtocol, "send", "d4919ed760ce"),
    (uvicorn.Server, "__init__", "c150b55284f7"),
    (uvicorn.Server, "startup", "2aa1d70a244b"),
    (uvicorn.Server, "shutdown", "9b33c5056299"),
    (uvicorn.Server, "handle_exit", "553276efa26e"),
    (uvicorn.Server, "on_tick", "60ea49b06ccf"),
    (uvicorn.Server, "run", "239e0133d430"),
    (uvicorn.Server, "serve", "112ef41af521"),
]
# fmt: on
ADAPTERS = (
    (HttpConnection, HttpToolsProtocol),
    (KeepAliveConnection, HttpToolsProtocol),
    (WebSocketConnection, WebSocketsSansIOProtocol),
    (Server, uvicorn.Server),
)


@pytest.mark.parametrize(("kind", "method", "digest"), DIGESTS)
def test_a_method_is_the_one_that_the_adapter_was_written_for(
    kind: type[Any], method: str, digest: str
) -> None:
    source = inspect.getsource(getattr(kind, method))
    found = hashlib.sha256(source.encode()).hexdigest()[:12]
    assert found == digest, f"{kind.__name__}.{method} has changed in uvicorn:\n{source}"


@pytest.mark.parametrize(("adapter", "base"), ADAPTERS)
def test_every_method_that_is_overridden_is_watched(adapter: type[Any], base: type[Any]) -> None:
    overridden = {
        name
        for name, value in vars(adapter).items()
        if callable(value) and getattr(base, name, None) is not None
    }
    overridden -= {name for name in overridden if hasattr(object, name) and name != "__init__"}
    watched = {method for kind, method, _ in DIGESTS if kind is base}
    assert overridden <= watched


def test_the_version_has_an_upper_bound_that_includes_the_tested_one() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bound = re.search(r'"uvicorn>=[\d.]+,<0\.(\d+)"', project)
    assert bound is not None
    assert int(uvicorn.__version__.split(".")[1]) + 1 == int(bound[1])
