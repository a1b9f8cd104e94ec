"""structlog set-up: one JSON object a line on stderr, or text for people, with secrets taken out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from opentelemetry import trace

from cloudless.config import LogConfig
from cloudless.errors import InvalidArgument

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SECRET_KEY = re.compile(r"(token|jwt|password|secret|private_key|key_pem|authorization)$", re.IGNORECASE)
_JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
_REDACTED = "[redacted]"
_DEPTH_MAX = 4


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Takes out values under secret-looking keys, JWTs inside any text, and private keys, at any depth."""
    for key, value in event.items():
        event[key] = _REDACTED if _SECRET_KEY.search(key) else _cleaned(value)
    return event


def _cleaned(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        if "PRIVATE KEY" in value:
            return _REDACTED
        return _JWT.sub(_REDACTED, value) if "eyJ" in value else value
    if depth < _DEPTH_MAX:
        if isinstance(value, Mapping):
            return {
                key: _REDACTED if _SECRET_KEY.search(str(key)) else _cleaned(item, depth + 1)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [_cleaned(item, depth + 1) for item in value]
    return value


def add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Ties the line to the span that is being recorded, if one is."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def configure(config: LogConfig, component: str, *, stream: TextIO | None = None) -> None:
    """Sets up logging for this process. Raises InvalidArgument for an unknown level or format."""
    if config.level not in _LEVELS:
        raise InvalidArgument(
            f"log.level {config.level!r} is not a level", reason="BadSetting", remedy=f"use {', '.join(_LEVELS)}"
        )
    if config.format not in ("json", "text"):
        raise InvalidArgument(f"log.format {config.format!r} is not a format", remedy="use json or text")
    out = stream or sys.stderr

    def add_component(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("component", component)
        return event

    final: list[Any] = (
        [structlog.processors.JSONRenderer()]
        if config.format == "json"
        else [structlog.dev.ConsoleRenderer(colors=out.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_component,
            add_trace,
            structlog.processors.format_exc_info,  # before secrets are taken out: an error may quote one
            redact,
            *final,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
