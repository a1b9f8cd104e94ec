"""Workloads: what people ask for.

A workload's generation counts what its replicas run: it grows when the template (`amounts.template_of`) changes
and with each restart. Changes of anything else (replicas, priority, rollout, disruption, labels, annotations)
take effect without replacing a replica.
"""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.core import amounts, rollouts, runs
from cloudless.coordinator.core.commands import DeleteWorkload, PutWorkload, RestartWorkload, ScaleWorkload
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.core.labels import is_dns_label
from cloudless.core.model import ReplicaPhase, WorkloadRecord, WorkloadRevision
from cloudless.core.replacing import replace
from cloudless.core.spec import Metadata, WorkloadSpec, WorkloadType
from cloudless.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound

REPLICAS_MAX: Final = 10_000
HISTORY_KEPT: Final = 10


def put_workload(t: Transition, command: PutWorkload) -> ApplyResult:
    metadata, spec = command.metadata, command.spec
    before = t.state.workloads.get((metadata.namespace, metadata.name))
    same_spec = before is not None and (before.spec is spec or before.spec == spec)
    if not same_spec:  # else name and spec were checked when it was put first
        _check(metadata, spec)
    _expect(before, metadata, command.expected_revision)
    resource = _resource(metadata)
    if before is None:
        first = WorkloadRevision(1, spec, t.now_ms)
        record = WorkloadRecord(
            metadata, spec, generation=1, created_at_ms=t.now_ms, updated_at_ms=t.now_ms, history=(first,)
        )
        t.put_workload(runs.scheduled_from(None, record, t.now_ms))
        t.emit("workload.created", resource, "created", namespace=metadata.namespace)
        return t.accepted("created")
    if before.deleting:
        raise FailedPrecondition(
            f"workload {metadata.namespace}/{metadata.name} is being deleted",
            reason="WorkloadDeleting",
            remedy="wait until its replicas have stopped, then create it again",
        )
    if same_spec and before.metadata == metadata:
        return t.accepted("unchanged", revision=before.revision)
    restarts = not same_spec and amounts.template_of(before.spec) != amounts.template_of(spec)
    record = replace(before, metadata=metadata, updated_at_ms=t.now_ms)
    if same_spec:
        t.put_workload(record, metadata_only=True)
    else:
        record = _next_generation(t, record, spec) if restarts else _same_generation(record, spec)
        t.put_workload(runs.scheduled_from(before, record, t.now_ms))
    t.emit("workload.updated", resource, "its replicas are replaced" if restarts else "updated in place",
           namespace=metadata.namespace)  # fmt: skip
    if restarts:
        _tell_rollout(t, metadata, before.generation + 1)
    return t.accepted("updated")


def scale_workload(t: Transition, command: ScaleWorkload) -> ApplyResult:
    before = _workload(t, command.namespace, command.name)
    if before.spec.type is WorkloadType.SYSTEM:
        raise FailedPrecondition(
            f"workload {command.namespace}/{command.name} runs once on each matching node",
            reason="SystemWorkload",
            remedy="change its placement to change where it runs",
        )
    if before.spec.type in runs.RUN_TYPES:
        raise FailedPrecondition(
            f"workload {command.namespace}/{command.name} has runs, not replicas",
            reason="HasRuns",
            remedy="change its completion.parallelism or completion.completions",
        )
    _check_replicas(command.replicas)
    if before.spec.replicas == command.replicas:
        return t.accepted("unchanged", revision=before.revision)
    spec = replace(before.spec, replicas=command.replicas)
    t.put_workload(_same_generation(replace(before, updated_at_ms=t.now_ms), spec))
    t.emit(
        "workload.scaled",
        _resource(before.metadata),
        f"from {before.spec.replicas} to {command.replicas} replicas",
        namespace=command.namespace,
    )
    return t.accepted("updated")


def restart_workload(t: Transition, command: RestartWorkload) -> ApplyResult:
    before = _workload(t, command.namespace, command.name)
    record = replace(before, updated_at_ms=t.now_ms)
    t.put_workload(_next_generation(t, record, before.spec))
    _tell_rollout(t, before.metadata, before.generation + 1)
    return t.accepted("updated")


def delete_workload(t: Transition, command: DeleteWorkload) -> ApplyResult:
    key = (command.namespace, command.name)
    record = t.state.workloads.get(key)
    if record is None:
        raise _unknown(*key)
    if record.deleting:
        return t.accepted("unchanged", revision=record.revision)
    if key not in t.state.replicas_by_workload:
        t.remove_workload(*key)
        return t.accepted("deleted")
    t.put_workload(replace(record, deleting=True, updated_at_ms=t.now_ms))
    t.emit("workload.deleting", _resource(record.metadata), "its replicas are stopping", namespace=key[0])
    for replica in t.state.replicas_of(*key):
        if not replica.node_id or replica.status.phase is ReplicaPhase.LOST:
            t.remove_replica(replica)
        elif not replica.stopping:
            t.put_replica(replace(replica, stopping=True, stop_reason="WorkloadDeleted"))
    return t.accepted("deleted")


def _check(metadata: Metadata, spec: WorkloadSpec) -> None:
    """What the state's own invariants rest on; everything else was validated before it was proposed."""
    if not is_dns_label(metadata.name) or not is_dns_label(metadata.namespace):
        raise InvalidArgument(f"{metadata.namespace!r}/{metadata.name!r} is no workload name", reason="BadName")
    _check_replicas(spec.replicas)
    if not spec.containers:
        raise InvalidArgument("a workload has at least one container", reason="NoContainers")
    for container in spec.containers:
        for stated in (container.resources.requests, container.resources.limits):
            if amounts.has_negative(stated):
                raise InvalidArgument(
                    f"container {container.name} asks for a negative amount", reason="NegativeResources"
                )


def _check_replicas(replicas: int) -> None:
    if not 0 <= replicas <= REPLICAS_MAX:
        raise InvalidArgument(f"a workload has 0 to {REPLICAS_MAX} replicas, not {replicas}", reason="BadReplicas")


def _expect(before: WorkloadRecord | None, metadata: Metadata, expected: int | None) -> None:
    if expected is None:
        return
    actual = 0 if before is None else before.revision
    if actual != expected:
        name = f"workload {metadata.namespace}/{metadata.name}"
        story = "does not exist" if before is None else f"exists at revision {actual}"
        raise Conflict(
            f"{name} {story}, expected {'that it does not exist' if expected == 0 else f'revision {expected}'}",
            reason="RevisionMismatch",
            remedy="read it again and repeat the change",
        )


def _same_generation(record: WorkloadRecord, spec: WorkloadSpec) -> WorkloadRecord:
    newest = replace(record.history[-1], spec=spec)
    return replace(record, spec=spec, history=(*record.history[:-1], newest))


def revert_workload(t: Transition, record: WorkloadRecord, to: WorkloadRevision, *, cause: str) -> WorkloadRecord:
    """The spec of an earlier revision becomes a new generation, which this returns as it was put.

    Replicas that still run that revision are of the new generation from now on: they run what it asks for, and going
    back must not restart what works.
    """
    spec = rollouts.spec_as_of(record, to)
    after = _next_generation(t, replace(record, updated_at_ms=t.now_ms), spec, cause=cause)
    t.put_workload(after)
    for replica in t.state.replicas_of(record.metadata.namespace, record.metadata.name):
        if replica.generation == to.generation and not replica.stopping:
            t.put_replica(replace(replica, generation=after.generation))
    return after


def _next_generation(t: Transition, record: WorkloadRecord, spec: WorkloadSpec, *, cause: str = "") -> WorkloadRecord:
    """The record with one more generation; of the old ones stay those that replicas run, the newest, and the one that
    a rollout goes back to."""
    generation = record.generation + 1
    in_use = {replica.generation for replica in t.state.replicas_of(record.metadata.namespace, record.metadata.name)}
    if record.rollout is not None:
        in_use.add(record.rollout.stable_generation)
    recent = {revision.generation for revision in record.history[-(HISTORY_KEPT - 1) :]}
    kept = tuple(r for r in record.history if r.generation in in_use or r.generation in recent)
    return replace(
        record,
        spec=spec,
        generation=generation,
        history=(*kept, WorkloadRevision(generation, spec, t.now_ms, cause)),
    )


def _workload(t: Transition, namespace: str, name: str) -> WorkloadRecord:
    record = t.state.workloads.get((namespace, name))
    if record is None:
        raise _unknown(namespace, name)
    if record.deleting:
        raise FailedPrecondition(f"workload {namespace}/{name} is being deleted", reason="WorkloadDeleting")
    return record


def _unknown(namespace: str, name: str) -> NotFound:
    return NotFound(f"workload {namespace}/{name} does not exist", reason="WorkloadUnknown")


def _resource(metadata: Metadata) -> str:
    return f"workload/{metadata.namespace}/{metadata.name}"


def _tell_rollout(t: Transition, metadata: Metadata, generation: int) -> None:
    t.emit(
        "workload.rollout_started",
        _resource(metadata),
        f"replicas are replaced by generation {generation}",
        namespace=metadata.namespace,
        metadata={"generation": str(generation)},
    )
