"""What one node shall run, as it is told."""

from __future__ import annotations

import dataclasses

from cloudless.coordinator.core.state import State
from cloudless.core.model import Assignment
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
                spec=dataclasses.replace(spec, replicas=0, rollout=Rollout()),
                stopping=replica.stopping,
                stop_reason=replica.stop_reason,
            )
        )
    return tuple(assignments)
