"""Moves of services' replicas to better nodes, which `reconcile.rebalance` begins.

A move is one more replica that says whose place it takes (`Replica.replaces`). As long as it is there to stay, the
other one is about to leave its node, and stops once enough others are available. When the new one fails or goes away,
nothing was changed: the other one is where it was.
"""

from __future__ import annotations

from cloudless.coordinator.core.commands import PlannedReplica
from cloudless.coordinator.core.state import State
from cloudless.core.model import ReplicaPhase, WorkloadRecord
from cloudless.core.spec import WorkloadType

_GONE = (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED, ReplicaPhase.LOST)


def may_replace(state: State, record: WorkloadRecord, planned: PlannedReplica) -> bool:
    """Whether the planned replica may still take the place of the one that it names: a living one of the same
    workload and generation, on another node, which nothing else replaces."""
    replaced = state.replicas.get(planned.replaces)
    if replaced is None or planned.replica_id in state.replicas or record.spec.type not in (WorkloadType.SERVICE, None):
        return False
    key = (record.metadata.namespace, record.metadata.name)
    return (
        (replaced.namespace, replaced.workload) == key
        and planned.generation == replaced.generation == record.generation
        and planned.placement.node_id not in ("", replaced.node_id)
        and bool(replaced.node_id)
        and not replaced.stopping
        and replaced.status.phase not in _GONE
        and all(other.replaces != replaced.id for other in state.replicas_of(*key))
    )
