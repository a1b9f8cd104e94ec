"""What one node shall run, as it is told."""

from __future__ import annotations

from collections.abc import Iterable

from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.state import State
from cloudless.core.model import Assignment, Replica
from cloudless.core.replacing import replace
from cloudless.core.spec import Rollout, WorkloadSpec


def assignments_for(state: State, node_id: str) -> tuple[Assignment, ...]:
    """Every replica of the node by id, with the spec of the generation that it runs.

    Stopping replicas are among them, lost ones too, so that a node that returns stops them in good order; what a
    node runs beyond its assignments it stops as well. Of the spec, the number of replicas and the rollout are
    left out: they concern no node, and scaling a workload must not change what its nodes are told.
    """
    assignments = []
    for replica in state.replicas_on(node_id):
        spec = state.spec_of(replica) or WorkloadSpec()
        assignments.append(
            Assignment(
                replica_id=replica.id,
                workload=replica.workload,
                namespace=replica.namespace,
                generation=replica.generation,
                spec=replace(spec, replicas=0, rollout=Rollout()),
                stopping=replica.stopping,
                stop_reason=replica.stop_reason,
            )
        )
    return tuple(assignments)


def nodes_to_tell(before: State, after: State, changes: Iterable[Change]) -> tuple[str, ...]:
    """The nodes, by id, whose assignments may differ between two states. Reports of what runs change none."""
    nodes: set[str] = set()
    for change in changes:
        if change.kind == "replica":
            old, new = before.replicas.get(change.key), after.replicas.get(change.key)
            if not _same_assignment(old, new):
                nodes.update(replica.node_id for replica in (old, new) if replica is not None)
        elif change.kind == "workload":
            for replica_id in after.replicas_by_workload.get((change.namespace, change.key), ()):
                nodes.add(after.replicas[replica_id].node_id)
    return tuple(sorted(nodes - {""}))


def _same_assignment(before: Replica | None, after: Replica | None) -> bool:
    """Whether a change of a replica leaves what its node is told as it is."""
    if before is None or after is None:
        return before is after
    return (before.node_id, before.generation, before.stopping, before.stop_reason) == (
        after.node_id,
        after.generation,
        after.stopping,
        after.stop_reason,
    )
