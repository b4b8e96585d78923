from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from slimq_service.server.logs import configure_logs

WILD = 'x\n{"event": "forged"}\r\x1b[2J\x07'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_what_comes_from_outside_neither_breaks_a_line_nor_steers_a_terminal(
    monkeypatch: pytest.MonkeyPatch, kind: type[io.StringIO]
) -> None:
    stream = kind()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs(logging.INFO)
    structlog.get_logger().info("seen", path=WILD)
    logging.getLogger("uvicorn.error").warning("seen %s", WILD)
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    for sequence in ("\x1b[2J", "\x07", "\r"):
        assert sequence not in text
    assert "forged" in text


def test_a_traceback_of_a_terminal_keeps_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs(logging.INFO)
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    assert len(stream.getvalue().splitlines()) > 3
    assert "ZeroDivisionError" in stream.getvalue()


def test_records_are_json_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logs(logging.INFO)
    structlog.get_logger().info("seen", value=1)
    structlog.get_logger().debug("unseen")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line).items() >= {"event": "seen", "value": 1, "level": "info"}.items()
