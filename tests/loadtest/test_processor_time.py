from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slimq.loadtest.processor_time import COST_SCRAPES, ProcessorMeter

TEXT = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {}\n"


@pytest.fixture
def metrics() -> Iterator[Callable[..., str]]:
    """`metrics(answer)`: the URL of a server; `answer(count)` gives status and text."""
    servers = []

    def begin(answer: Callable[[int], tuple[int, str]]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            count = 0

            def do_GET(self) -> None:
                status, text = answer(Handler.count)
                Handler.count += 1
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/metrics"

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_a_reading_costs_is_taken_off(metrics: Any) -> None:
    meter = ProcessorMeter(metrics(lambda count: (200, TEXT.format(5 + 0.01 * count))), None, 5)
    assert meter.problem is None
    first, second = meter.read(), meter.read()
    assert first == pytest.approx(5 + 0.01 * (COST_SCRAPES + 1))
    assert meter.between(first, second) == pytest.approx(0.0, abs=1e-9)
    assert meter.between(first, first + 1) == pytest.approx(0.99)
    meter.close()


def test_a_counter_that_fell_is_no_time(metrics: Any) -> None:
    """Another process answers than before."""
    meter = ProcessorMeter(metrics(lambda count: (200, TEXT.format(1e2))), None, 5)
    assert meter.between(3.0, 2.0) is None
    assert meter.between(None, 2.0) is meter.between(2.0, None) is None
    assert meter.read() == 100.0
    meter.close()


@pytest.mark.parametrize(
    ("status", "text", "problem"),
    [
        (401, "", "401 refuses metrics to this client"),
        (200, "process_start_time_seconds 1\n", "does not report process_cpu_seconds_total"),
        (200, "process_cpu_seconds_total much\n", "reports process_cpu_seconds_total as much"),
    ],
)
def test_without_the_metric_it_says_why(metrics: Any, status: int, text: str, problem: str) -> None:
    url = metrics(lambda count: (status, text))
    meter = ProcessorMeter(url, "key", 5)
    assert meter.problem == f"{url}: {problem}"
    assert meter.read() is None
    meter.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/metrics", "http://x\udcff/metrics", "http://[/metrics", "\u00fc"]
)
def test_an_address_where_nothing_listens_is_said_so(url: str) -> None:
    meter = ProcessorMeter(url, None, 5)
    assert meter.problem is not None
    assert "cannot be read" in meter.problem
    meter.close()


def test_a_service_of_our_own_has_it(served: Any) -> None:
    url, _, _ = served
    meter = ProcessorMeter(f"{url}/metrics", None, 5)
    assert meter.problem is None
    before = meter.read()
    for _ in range(50):
        after = meter.read()
    assert before is not None
    assert after is not None
    assert after > before
    meter.close()
