"""The outermost interceptor: request id, log context, span and metrics of each call."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import Any

import structlog
from opentelemetry import propagate, trace
from prometheus_client import Counter, Histogram

from cloudless.coordinator.rpc.call import Call
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.identity.channel import REQUEST_ID_METADATA
from cloudless.observe import tracing

REQUEST_ID_LENGTH_MAX = 128

REQUESTS = Counter("cloudless_grpc_requests_total", "gRPC calls that ended.", ["method", "code"])
DURATION = Histogram(
    "cloudless_grpc_request_duration_seconds",
    "Time from the first byte of a unary gRPC call to its answer.",
    ["method"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

log = structlog.get_logger(__name__)
tracer = trace.get_tracer("cloudless.rpc")

# What the operator should hear of; the rest is the caller's business and logged at debug.
_SERVER_FAULTS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE"})
_REFUSALS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"})


def valid_request_id(text: str) -> bool:
    """1 to 128 printable ASCII characters without spaces."""
    return 0 < len(text) <= REQUEST_ID_LENGTH_MAX and text.isascii() and text.isprintable() and " " not in text


class Observation:
    """Gives the call an id (the caller's where it is well-formed, so that even a refusal of a bad one can be
    found in the log), and says how it ended."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], Any] = {}
        # Ids have to differ, not to be secret: asking the operating system for each would cost ten times as much.
        self._random = random.Random(secrets.randbits(256))  # noqa: S311
        self._durations: dict[str, Any] = {}
        self._log = log.bind()  # once: calls that are not logged then cost nothing

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        started = time.perf_counter()
        given = call.metadata.get(REQUEST_ID_METADATA)
        if isinstance(given, str) and valid_request_id(given):
            call.request_id = given
        else:
            call.request_id = f"{self._random.getrandbits(96):024x}"
        structlog.contextvars.bind_contextvars(request_id=call.request_id, method=call.method)
        try:
            if tracing.on():
                return await self._traced(call, request, proceed)
            return await proceed(call, request)  # an empty span would still cost its share
        except asyncio.CancelledError:
            call.code = "CANCELLED"
            raise
        except BaseException:
            if call.code == "OK":
                call.code = "UNKNOWN"
            raise
        finally:
            self._finish(call, time.perf_counter() - started)

    async def _traced(self, call: Call, request: Any, proceed: Proceed) -> Any:
        """One span for the call, below the caller's where it names one."""
        parent = propagate.extract(call.metadata) if "traceparent" in call.metadata else None
        with tracer.start_as_current_span(
            call.method.lstrip("/"), context=parent, kind=trace.SpanKind.SERVER, record_exception=False
        ) as span:
            try:
                return await proceed(call, request)
            finally:
                span.set_attributes({"rpc.grpc.status": call.code, "request_id": call.request_id})

    def _finish(self, call: Call, seconds: float) -> None:
        counter = self._requests.get((call.method, call.code))
        if counter is None:
            counter = self._requests[call.method, call.code] = REQUESTS.labels(call.method, call.code)
        counter.inc()
        if not call.streaming:
            histogram = self._durations.get(call.method)
            if histogram is None:
                histogram = self._durations[call.method] = DURATION.labels(call.method)
            histogram.observe(seconds)
        caller = call.principal.actor if call.principal else ""
        if call.code in _SERVER_FAULTS and call.reason != "ShuttingDown":
            self._log.warning(
                "rpc.failed", code=call.code, reason=call.reason, caller=caller, duration_ms=round(seconds * 1000, 1)
            )
        elif call.code in _REFUSALS:
            self._log.info("rpc.refused", code=call.code, reason=call.reason, caller=caller)
        else:
            self._log.debug("rpc.finished", code=call.code, caller=caller, duration_ms=round(seconds * 1000, 1))
