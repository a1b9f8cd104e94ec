"""Which workloads need another look after a change."""

from __future__ import annotations

from collections.abc import Iterable

from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.runs import is_result
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.core.annotation_rules import rebalances
from cloudless.core.model import ReplicaPhase


def dirty_keys(changes: Iterable[Change], state: State) -> set[WorkloadKey]:
    """(namespace, name) of each workload for which `reconcile` may now plan something else.

    `state` is the one that the changes led to. A workload or one of its replicas: that workload. A node: the
    workloads of its replicas, every system workload, and those that wait for a place. A replica that frees its
    fragment: those that wait for a place. Other labels and annotations matter where a place is chosen, that is to a
    workload that waits for one, or asks to be moved to better ones. The cost is that of the answer, not of the number
    of workloads.
    """
    keys: set[WorkloadKey] = set()
    room = False  # whether a place may have become free
    for change in changes:
        if change.kind == "workload":
            key = (change.namespace, change.key)
            record = state.workloads.get(key)
            if not change.metadata_only or key in state.pending or (record and rebalances(record.metadata)):
                keys.add(key)
        elif change.kind == "replica":
            keys.add((change.namespace, change.workload))
            replica = state.replicas.get(change.key)
            room = room or replica is None or replica.status.phase is ReplicaPhase.LOST or is_result(replica)
        elif change.kind == "node":
            room = True
            keys.update(state.system_workloads)
            for replica_id in state.replicas_by_node.get(change.key, ()):
                held = state.replicas[replica_id]
                keys.add((held.namespace, held.workload))
    if room:
        keys.update(state.pending)
    return {key for key in keys if key in state.workloads}


def in_order(keys: Iterable[WorkloadKey], state: State) -> list[WorkloadKey]:
    """The order in which workloads are looked at: by falling priority, so that room goes to whom it was made for."""

    def rank(key: WorkloadKey) -> tuple[int, WorkloadKey]:
        record = state.workloads.get(key)
        return 0 if record is None else -record.spec.priority, key

    return sorted(keys, key=rank)
