"""What people see: the state's objects with what follows from them."""

from __future__ import annotations

from collections.abc import Sequence

from cloudless.coordinator.core import amounts, run_views
from cloudless.coordinator.core.runs import RUN_TYPES
from cloudless.coordinator.core.scheduler.kinds import eligible_nodes, matching_nodes
from cloudless.coordinator.core.state import State
from cloudless.core.model import (
    NodeState,
    Replica,
    ReplicaPhase,
    Workload,
    WorkloadPhase,
    WorkloadRecord,
    WorkloadStatus,
)
from cloudless.core.spec import ResourceAmounts, WorkloadType

_RUNS = (ReplicaPhase.RUNNING, ReplicaPhase.READY)


def workload_view(state: State, record: WorkloadRecord) -> Workload:
    """The workload as the API shows it, with its status as of `state`."""
    return Workload(
        metadata=record.metadata,
        spec=record.spec,
        generation=record.generation,
        revision=record.revision,
        created_at_ms=record.created_at_ms,
        updated_at_ms=record.updated_at_ms,
        deleting=record.deleting,
        status=workload_status(state, record),
        rollout=record.rollout,
        runs=run_views.runs_view(state, record) if record.runs else (),
        next_run_at_ms=run_views.next_run_at_ms(record),
    )


def node_reserved(state: State, node_id: str) -> ResourceAmounts:
    """The sum of the fragments that replicas hold on the node."""
    return state.reserved.get(node_id, amounts.NOTHING)


def wanted(state: State, record: WorkloadRecord) -> int:
    """How many replicas the workload should have: as many as it says, or one on each matching node that
    takes work or has one already."""
    if record.deleting:
        return 0
    if record.spec.type is WorkloadType.SYSTEM:
        namespace, name = record.metadata.namespace, record.metadata.name
        matching = set(matching_nodes(state, record.spec))
        present = {r.node_id for r in state.replicas_of(namespace, name) if not r.stopping and r.node_id in matching}
        return len(present.union(eligible_nodes(state, record.spec, namespace=record.metadata.namespace)))
    return record.spec.replicas


def workload_status(state: State, record: WorkloadRecord) -> WorkloadStatus:
    """Counts what is wanted, placed, running and ready. A replica on a node that is out of reach counts as
    running and not as ready: nobody knows."""
    if record.spec.type in RUN_TYPES:
        return run_views.run_status(state, record)
    replicas = [r for r in state.replicas_of(record.metadata.namespace, record.metadata.name) if not r.stopping]
    desired = wanted(state, record)
    running = sum(r.status.phase in _RUNS for r in replicas)
    ready = sum(r.status.phase is ReplicaPhase.READY and _reachable(state, r) for r in replicas)
    pending = sum(not r.node_id for r in replicas)
    updated = sum(r.generation == record.generation for r in replicas)
    return WorkloadStatus(
        phase=_phase(record, replicas, desired=desired, ready=ready, updated=updated),
        desired=desired,
        ready=ready,
        running=running,
        pending=pending,
        updated=updated,
        message="; ".join(words for words in (_rollout(record), _message(state, replicas)) if words),
    )


def _rollout(record: WorkloadRecord) -> str:
    """How the rollout stands, where that is not plain from the counts."""
    progress = record.rollout
    if record.deleting or progress is None or progress.generation != record.generation:
        return ""
    return progress.message


def _reachable(state: State, replica: Replica) -> bool:
    node = state.nodes.get(replica.node_id)
    return node is not None and node.state is NodeState.READY


def _drains(state: State, replica: Replica) -> bool:
    node = state.nodes.get(replica.node_id)
    return node is not None and node.draining


def _phase(
    record: WorkloadRecord, replicas: Sequence[Replica], *, desired: int, ready: int, updated: int
) -> WorkloadPhase:
    if record.deleting:
        return WorkloadPhase.TERMINATING
    if ready >= desired and updated >= desired and updated == len(replicas):
        return WorkloadPhase.AVAILABLE
    if replicas and not any(r.node_id for r in replicas):
        return WorkloadPhase.PENDING
    if any(r.status.phase is ReplicaPhase.FAILED for r in replicas) and not ready:
        return WorkloadPhase.FAILED
    if ready and ready < desired and updated >= desired and not any(_on_its_way(r) for r in replicas):
        return WorkloadPhase.DEGRADED
    return WorkloadPhase.PROGRESSING


def _on_its_way(replica: Replica) -> bool:
    return replica.status.phase in (ReplicaPhase.ASSIGNED, ReplicaPhase.PREPARING, ReplicaPhase.STARTING)


def _message(state: State, replicas: Sequence[Replica]) -> str:
    """What keeps it from being available, the most telling cause first; empty when nothing does."""
    failed = [r for r in replicas if r.status.phase is ReplicaPhase.FAILED]
    if failed:
        why = failed[0].status.message or failed[0].status.reason or "no reason given"
        return f"{len(failed)} failed: {why}"
    pending = [r for r in replicas if not r.node_id]
    if pending:
        leaving = sorted({r.node_id for r in replicas if r.node_id and _drains(state, r)})
        whose = f" in place of what is on {', '.join(leaving[:5])}, to be drained" if leaving else ""
        return f"{len(pending)} pending{whose}: {pending[0].placement.summary or 'not placed yet'}"
    away = [r for r in replicas if not _reachable(state, r)]
    if away:
        nodes = sorted({r.node_id for r in away})
        return f"{len(away)} out of reach on {', '.join(nodes[:5])}{' ...' if len(nodes) > 5 else ''}"
    waiting = [r for r in replicas if r.status.reason and r.status.phase is not ReplicaPhase.READY]
    if waiting:
        return f"{waiting[0].id}: {waiting[0].status.message or waiting[0].status.reason}"
    return ""
