"""WorkloadService: what people say to rollouts, what is kept of a workload's past, and runs by hand."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

from typing import Any

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.api.v1.convert import from_proto, to_proto
from cloudless.coordinator.core.commands import ControlRollout, StartRun
from cloudless.coordinator.core.views import workload_view
from cloudless.coordinator.rpc.access import namespace_or_default
from cloudless.coordinator.rpc.services.backend import Backend, required
from cloudless.core.labels import NAME_LENGTH_MAX, is_dns_label
from cloudless.core.model import JobRun, RolloutAction, RunPhase, WorkloadRecord
from cloudless.errors import InvalidArgument, NotFound


class Rollouts:
    """Handlers of WorkloadService that concern what becomes of a workload over time."""

    _backend: Backend

    async def ControlRollout(self, request: Any, context: Any) -> Any:
        record = self._known(request)
        action = from_proto(request, ControlRollout).action
        if action is None:
            raise InvalidArgument(
                "action is required", reason="FieldRequired", remedy="say PAUSE, RESUME, PROMOTE or UNDO"
            )
        if request.to_generation < 0 or (request.to_generation and action is not RolloutAction.UNDO):
            raise InvalidArgument("to_generation is the generation that an undo returns to", reason="BadGeneration")
        namespace, name = record.metadata.namespace, record.metadata.name
        await self._backend.write(ControlRollout(namespace, name, action, request.to_generation))
        after = self._known(request)
        view = to_proto(workload_view(self._backend.state, after), types_pb2.Workload)
        return control_pb2.ControlRolloutResponse(workload=view)

    async def ListRevisions(self, request: Any, context: Any) -> Any:
        record = self._known(request)
        revisions = (to_proto(revision, types_pb2.WorkloadRevision) for revision in record.history)
        return control_pb2.ListRevisionsResponse(revisions=revisions)

    async def StartRun(self, request: Any, context: Any) -> Any:
        record = self._known(request)
        namespace, name = record.metadata.namespace, record.metadata.name
        result = await self._backend.write(StartRun(namespace, name))
        run = run_started(self._known(request), result.message)
        return control_pb2.StartRunResponse(run=to_proto(run, types_pb2.JobRun))

    def _known(self, request: Any) -> WorkloadRecord:
        namespace, name = namespace_or_default(request.namespace), required(request.name, "name")
        found = None
        if is_dns_label(namespace) and is_dns_label(name):
            found = self._backend.state.workloads.get((namespace, name))
        if found is None:
            raise NotFound(
                f"workload {name[:NAME_LENGTH_MAX]!r} was not found in namespace {namespace[:NAME_LENGTH_MAX]}",
                reason="WorkloadNotFound",
            )
        return found


def run_started(record: WorkloadRecord, number: str) -> JobRun:
    """The run of the number that the log's answer says; what is known of it where it has left the history already."""
    wanted = int(number) if number.isascii() and number.isdigit() else record.last_run
    known = next((run for run in record.runs if run.number == wanted), None)
    return known or JobRun(number=wanted, generation=record.generation, phase=RunPhase.RUNNING, manual=True)
