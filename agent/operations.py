"""Carries one operation of the core out on the runtime, bounded in number and time, and says how it went."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from opentelemetry import trace

from cloudless.agent import metrics
from cloudless.agent.core import model as m
from cloudless.agent.runtime.base import Runtime, Sandbox
from cloudless.core.model import Assignment
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, NotFound

log = structlog.get_logger(__name__)
_tracer = trace.get_tracer("cloudless.agent")

_TIMEOUT_S: Final = 120.0
# Waiting for a container to end costs nothing, so stops do not take the slots of starts.
_STOPS_AT_ONCE: Final = 64


def _sandbox(assignment: Assignment) -> Sandbox:
    return Sandbox(
        assignment.replica_id, assignment.namespace, assignment.workload, assignment.generation, assignment.spec
    )


class Operator:
    """Runs operations; at most `operations_at_once` that work, and a fixed number of stops, at a time."""

    def __init__(self, runtime: Runtime, *, operations_at_once: int) -> None:
        self._runtime = runtime
        self._slots = asyncio.Semaphore(operations_at_once)
        self._stops = asyncio.Semaphore(_STOPS_AT_ONCE)

    async def run(self, replica_id: str, operation: m.Operation, assignment: Assignment | None) -> m.Event:
        """The event that answers the operation. Never raises but for cancellation."""
        name = {
            m.EnsureSandbox: "prepare",
            m.StartContainer: "start",
            m.StopContainer: "stop",
            m.RemoveSandbox: "remove",
        }[type(operation)]
        container = operation.container if isinstance(operation, m.StartContainer | m.StopContainer) else ""
        slots, timeout_s = self._slots, _TIMEOUT_S
        if isinstance(operation, m.StopContainer):
            slots, timeout_s = self._stops, _TIMEOUT_S + operation.grace_ms / 1000
        attributes = {"replica": replica_id, "container": container}
        async with slots:
            started_s = time.perf_counter()
            with _tracer.start_as_current_span(f"container.{name}", attributes=attributes) as span:
                try:
                    async with asyncio.timeout(timeout_s):
                        event = await self._call(replica_id, operation)
                except Exception as error:
                    event = _failure(error, operation, container)
                    span.set_attribute("error", str(error))
            metrics.OPERATION_SECONDS.labels(name).observe(time.perf_counter() - started_s)
        failed = isinstance(event, m.OperationFailed)
        metrics.OPERATIONS.labels(name, "failed" if failed else "ok").inc()
        labels = {"replica": replica_id, "workload": assignment.workload if assignment else "", "container": container}
        if isinstance(event, m.OperationFailed):
            log.warning(f"container.{name}_failed", reason=event.reason, cause=event.message, **labels)
        elif isinstance(operation, m.StartContainer):
            log.info("container.started", attempt=operation.attempt, **labels)
        elif isinstance(operation, m.StopContainer):
            log.info("container.stopped", reason=operation.cause, **labels)
        return event

    async def _call(self, replica_id: str, operation: m.Operation) -> m.Event:
        runtime = self._runtime
        match operation:
            case m.EnsureSandbox(assignment):
                return m.SandboxReady(await runtime.ensure_sandbox(_sandbox(assignment)))
            case m.StartContainer(assignment, name, attempt):
                container = next(c for c in assignment.spec.containers if c.name == name)
                view = await runtime.start_container(_sandbox(assignment), container, attempt=attempt)
                return m.ContainerStarted(view)
            case m.StopContainer(name, grace_ms, _):
                await runtime.stop_container(replica_id, name, grace_ms=grace_ms)
                return m.ContainerStopped(name)
            case m.RemoveSandbox():
                await runtime.remove_sandbox(replica_id)
                return m.SandboxRemoved()


def _failure(error: Exception, operation: m.Operation, container: str) -> m.Event:
    if isinstance(error, NotFound) and isinstance(operation, m.StopContainer):
        return m.ContainerStopped(container)  # nothing to stop; the look that follows says the rest
    if isinstance(error, CloudlessError):
        permanent = isinstance(error, InvalidArgument) and not isinstance(operation, m.StopContainer | m.RemoveSandbox)
        definite = isinstance(error, FailedPrecondition | InvalidArgument)
        return m.OperationFailed(container, error.reason, error.message, permanent, ambiguous=not definite)
    if isinstance(error, TimeoutError):
        return m.OperationFailed(container, "RuntimeTimeout", "the runtime did not answer in time")
    log.error("operation.broke", operation=type(operation).__name__, container=container, exc_info=error)
    return m.OperationFailed(container, "RuntimeError", f"{type(error).__name__}: {error}")
