"""WorkloadService: writes, reads and watches of workloads. Replicas and their streams are mixed in."""

# ruff: noqa: N802 (gRPC names the handlers)

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, Final

from cloudless.api.v1 import control_pb2, spec_pb2, types_pb2
from cloudless.api.v1.convert import fill, from_proto, to_proto
from cloudless.coordinator.core import commands, machine
from cloudless.coordinator.core.commands import (
    DeleteWorkload,
    PutWorkload,
    RestartWorkload,
    ScaleWorkload,
)
from cloudless.coordinator.core.state import State
from cloudless.coordinator.core.views import workload_view
from cloudless.coordinator.rpc import listing, watching
from cloudless.coordinator.rpc.access import namespace_or_default
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.rpc.kinds import WORKLOADS
from cloudless.coordinator.rpc.services.backend import Backend, refuse_violations, required
from cloudless.core import defaults, validation
from cloudless.core.labels import NAME_LENGTH_MAX, is_dns_label
from cloudless.core.model import WorkloadRecord
from cloudless.core.spec import Metadata, WorkloadSpec
from cloudless.core.validation import Violation
from cloudless.errors import AlreadyExists, CloudlessError, Conflict, InvalidArgument, NotFound, from_code

BATCH_MAX: Final = 500
# Of one workload. A node is told all that it shall run in one message (`identity.channel`), and ten generations are
# kept in memory.
WORKLOAD_BYTES_MAX: Final = 256 * 2**10
_KEPT_SPECS: Final = 512
_KEPT_BYTES_MAX: Final = 4096


class Workloads:
    """Handlers of WorkloadService that concern workloads."""

    _backend: Backend

    async def CreateWorkload(self, request: Any, context: Any) -> Any:
        metadata, spec = _workload(request)
        try:
            await self._backend.write(PutWorkload(metadata, spec, expected_revision=0))
        except Conflict:
            raise AlreadyExists(
                f"workload {metadata.name!r} exists in namespace {metadata.namespace}",
                reason="WorkloadExists",
                remedy="update or apply it, or choose another name",
            ) from None
        return self._showing(control_pb2.CreateWorkloadResponse(), metadata.namespace, metadata.name)

    async def UpdateWorkload(self, request: Any, context: Any) -> Any:
        metadata, spec = _workload(request)
        self._record(metadata.namespace, metadata.name)
        expected = request.expected_revision if request.HasField("expected_revision") else None
        await self._backend.write(PutWorkload(metadata, spec, expected_revision=expected))
        return self._showing(control_pb2.UpdateWorkloadResponse(), metadata.namespace, metadata.name)

    async def ApplyWorkloads(self, request: Any, context: Any) -> Any:
        puts = puts_of(request)
        if request.dry_run:
            outcomes = _dry_run(self._backend, puts)
        else:
            outcomes = await asyncio.gather(*(self._apply(put, suffix=f"/{number}") for number, put in enumerate(puts)))
        return control_pb2.ApplyWorkloadsResponse(outcomes=outcomes)

    async def DeleteWorkload(self, request: Any, context: Any) -> Any:
        namespace, name = _named(request)
        await self._backend.write(DeleteWorkload(namespace=namespace, name=name))
        return control_pb2.DeleteWorkloadResponse()

    async def ScaleWorkload(self, request: Any, context: Any) -> Any:
        namespace, name = _named(request)
        refuse_violations(validation.validate_replicas(request.replicas, "replicas"))
        await self._backend.write(ScaleWorkload(namespace=namespace, name=name, replicas=request.replicas))
        return self._showing(control_pb2.ScaleWorkloadResponse(), namespace, name)

    async def RestartWorkload(self, request: Any, context: Any) -> Any:
        namespace, name = _named(request)
        await self._backend.write(RestartWorkload(namespace=namespace, name=name))
        return self._showing(control_pb2.RestartWorkloadResponse(), namespace, name)

    async def GetWorkload(self, request: Any, context: Any) -> Any:
        return self._showing(control_pb2.GetWorkloadResponse(), *_named(request))

    async def ListWorkloads(self, request: Any, context: Any) -> Any:
        snapshot = self._backend.store.snapshot
        page = listing.page(
            WORKLOADS,
            snapshot.state,
            index=snapshot.index,
            query=listing.query(current(), request.options),
            page_size=request.options.page_size,
            page_token=request.options.page_token,
            render=lambda record: _to_proto(snapshot.state, record),
        )
        return control_pb2.ListWorkloadsResponse(
            workloads=page.items,
            next_page_token=page.next_page_token,
            revision=page.revision,
        )

    async def WatchWorkloads(self, request: Any, context: Any) -> AsyncIterator[Any]:
        name = request.name
        query = listing.query(current(), request.options, where=lambda r: not name or r.metadata.name == name)
        messages = watching.watch(self._backend.store, WORKLOADS, query, from_revision=request.from_revision)
        async for message in messages:
            answer = control_pb2.WatchWorkloadsResponse(revision=message.revision)
            if isinstance(message, watching.Present):
                answer.workload.CopyFrom(_to_proto(message.state, message.item))
            elif isinstance(message, watching.Gone):
                answer.deleted_namespace, answer.deleted_name = message.key  # type: ignore[str-unpack]
            else:
                answer.synced = True
            yield answer

    async def _apply(self, put: PutWorkload, *, suffix: str) -> Any:
        try:
            result = await self._backend.write(put, suffix=suffix)
        except CloudlessError as error:
            return _refused(put, error)
        return _accepted(put, result)

    def _record(self, namespace: str, name: str) -> WorkloadRecord:
        return _find(self._backend.state, namespace, name)

    def _showing(self, answer: Any, namespace: str, name: str) -> Any:
        """`answer` with the workload as it is now."""
        state = self._backend.state
        fill(workload_view(state, _find(state, namespace, name)), answer.workload)
        return answer


def _find(state: State, namespace: str, name: str) -> WorkloadRecord:
    record = state.workloads.get((namespace, name))
    if record is None:
        raise _not_found(namespace, name)
    return record


def _not_found(namespace: str, name: str) -> NotFound:
    return NotFound(f"workload {name!r} was not found in namespace {namespace}", reason="WorkloadNotFound")


def _to_proto(state: State, record: WorkloadRecord) -> Any:
    return to_proto(workload_view(state, record), types_pb2.Workload)


def _named(request: Any) -> tuple[str, str]:
    """Namespace and name. Raises NotFound for what no workload can be called, however long: such a text must not get
    into the log, nor into the answers that it keeps."""
    namespace, name = namespace_or_default(request.namespace), required(request.name, "name")
    if not is_dns_label(namespace) or not is_dns_label(name):
        raise _not_found(namespace[:NAME_LENGTH_MAX], name[:NAME_LENGTH_MAX])
    return namespace, name


def _workload(request: Any) -> tuple[Metadata, WorkloadSpec]:
    """The workload of a request with its defaults, validated. Raises InvalidArgument that lists every violation."""
    metadata, spec, violations = _read(request)
    refuse_violations(violations)
    return metadata, spec


def _read(message: Any) -> tuple[Metadata, WorkloadSpec, tuple[Violation, ...]]:
    """What a message with `metadata` and `spec` asks for, its defaults filled in, and all that is wrong with it."""
    metadata = defaults.metadata_of(from_proto(message.metadata, Metadata))
    data = message.spec.SerializeToString()
    spec, spec_violations = (_spec_kept if len(data) <= _KEPT_BYTES_MAX else _spec)(data)
    violations = (*validation.validate_metadata(metadata), *spec_violations)
    size_bytes = message.metadata.ByteSize() + len(data)
    if size_bytes > WORKLOAD_BYTES_MAX:
        large = Violation("spec", f"the workload has {size_bytes} bytes", f"use at most {WORKLOAD_BYTES_MAX}")
        violations = (large, *violations)
    return metadata, spec, violations


def _spec(data: bytes) -> tuple[WorkloadSpec, tuple[Violation, ...]]:
    """The spec of these bytes with its defaults, and what is wrong with it."""
    spec = defaults.spec_of(from_proto(spec_pb2.WorkloadSpec.FromString(data), WorkloadSpec))
    return spec, validation.validate_spec(spec)


# Workloads are often written with a spec that another one has, or that they have already.
_spec_kept = lru_cache(_KEPT_SPECS)(_spec)


def puts_of(request: Any) -> list[PutWorkload]:
    """Every workload of a batch; one that is not well formed refuses them all, before anything is proposed."""
    if len(request.workloads) > BATCH_MAX:
        raise InvalidArgument(
            f"{len(request.workloads)} workloads in one call; at most {BATCH_MAX}",
            reason="BatchTooLarge",
            remedy="split it",
        )
    puts: list[PutWorkload] = []
    violations: list[Violation] = []
    for number, workload in enumerate(request.workloads):
        metadata, spec, found = _read(workload)
        violations += (Violation(f"workloads[{number}].{v.path}", v.message, v.remedy) for v in found)
        puts.append(PutWorkload(metadata, spec))
    names = Counter((put.metadata.namespace, put.metadata.name) for put in puts)
    violations += (
        Violation("workloads", f"{namespace}/{name} is given {times} times", "give each workload once")
        for (namespace, name), times in names.items()
        if times > 1
    )
    refuse_violations(violations)
    return puts


def _dry_run(backend: Backend, puts: list[PutWorkload]) -> list[Any]:
    """What the log would answer: the same apply, on the present state, kept by nobody."""
    snapshot = backend.store.snapshot
    now_ms, actor = backend.clock.now_ms(), current().caller.actor
    outcomes = []
    for put in puts:
        entry = commands.Entry(commands.SCHEMA, "", now_ms, actor, put)
        applied = machine.apply(snapshot.state, commands.encode(entry), index=snapshot.index + 1, term=snapshot.term)
        result = applied.result
        if result.accepted:
            outcomes.append(_accepted(put, result))
        else:
            refusal = from_code(result.code, result.message, reason=result.reason, remedy=result.remedy)
            outcomes.append(_refused(put, refusal))
    return outcomes


def _accepted(put: PutWorkload, result: Any) -> Any:
    return control_pb2.ApplyOutcome(
        namespace=put.metadata.namespace, name=put.metadata.name, changed=result.changed, revision=result.revision
    )


def _refused(put: PutWorkload, error: CloudlessError) -> Any:
    return control_pb2.ApplyOutcome(
        namespace=put.metadata.namespace,
        name=put.metadata.name,
        error_code=error.code,
        error_message=error.message,
        error_reason=error.reason,
        error_remedy=error.remedy,
    )
