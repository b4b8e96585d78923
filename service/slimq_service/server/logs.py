"""Structured logs on stderr: one JSON object per line, coloured text on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from slimq_service.http.request_ids import add_request_id


def current_level() -> int:
    """The log level set by `configure_logs`."""
    return logging.getLogger("uvicorn").getEffectiveLevel()


def configure_logs(level: int = logging.INFO) -> None:
    """Sends records of structlog and of `logging` (uvicorn) to stderr in the same format."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_request_id,
    ]
    renderers: list[Processor] = (
        [escape_controls, structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name == "uvicorn" else []
        logger.setLevel(level)
        logger.propagate = name != "uvicorn"


def escape_controls(logger: Any, method: str, event: EventDict) -> EventDict:  # noqa: ARG001
    """A structlog processor that escapes line breaks and control characters in values.

    JSON does not need it, since it escapes them itself.
    """
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key != "exception":
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event
