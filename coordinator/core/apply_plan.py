"""A plan of the reconcile loop becomes fact, as far as it still fits.

The plan was made on a snapshot. Every reservation is checked here again, against the state as it is, so that
two plans that were made at once can never promise the same resources.
"""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.apply_rollouts import record_progress, roll_back
from cloudless.coordinator.core.apply_runs import expire, may_place, take_runs
from cloudless.coordinator.core.commands import ApplyPlan, PlannedReplica
from cloudless.coordinator.core.moves import may_replace
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.port_sharing import can_share, may_share
from cloudless.coordinator.core.priority import PRIORITY_GAP
from cloudless.coordinator.core.runs import RUN_TYPES
from cloudless.coordinator.core.state import WorkloadKey, spec_of_generation
from cloudless.coordinator.core.transition import Transition
from cloudless.core.labels import is_dns_label
from cloudless.core.model import (
    FilterRejection,
    Node,
    NodeState,
    PlacementDecision,
    Replica,
    ReplicaPhase,
    ReplicaStatus,
    Severity,
    WorkloadRecord,
)
from cloudless.core.replacing import replace
from cloudless.core.spec import ResourceAmounts, WorkloadSpec
from cloudless.errors import NotFound

PREEMPTED: Final = "Preempted"  # why a replica stops that makes room


def apply_plan(t: Transition, command: ApplyPlan) -> ApplyResult:
    record = t.state.workloads.get((command.namespace, command.workload))
    if record is None:
        raise NotFound(f"workload {command.namespace}/{command.workload} does not exist", reason="WorkloadUnknown")
    before = t.state
    for replica_id in command.lost:
        _give_up(t, record, replica_id)
    if not _planned_on_another(record, command):
        _carry_out(t, record, command)
    changed = t.state is not before
    return t.accepted("updated" if changed else "unchanged", revision=None if changed else record.revision)


def _planned_on_another(record: WorkloadRecord, command: ApplyPlan) -> bool:
    """Whether people have changed the workload since the plan was made: a new spec, another number, a pause. The change
    has called for a new plan. Where neither a rollout nor runs are known, plans are applied as members of schema 2
    do."""
    known = record.rollout is not None or record.spec.type in RUN_TYPES
    return known and 0 < command.planned_at_index < record.revision


def _carry_out(t: Transition, record: WorkloadRecord, command: ApplyPlan) -> None:
    progress = command.rollout if command.rollout and command.rollout.generation == record.generation else None
    if progress is not None and not record.deleting:
        if command.roll_back:
            roll_back(t, record, progress)
            return  # the rest of the plan was for the generation that is given up
        record = record_progress(t, record, progress)
    if command.expired:
        expire(t, record)
        return
    record = take_runs(t, record, command)
    _stop(t, record, command)
    if record.deleting:
        return
    preempt(t, record, command)
    for planned in command.replicas:
        if not may_place(record, planned) or (planned.replaces and not may_replace(t.state, record, planned)):
            continue
        if planned.generation == record.generation:
            _place(t, record, planned, record.spec)
        elif progress is not None and (spec := spec_of_generation(record, planned.generation)) is not None:
            _place(t, record, planned, spec)


# -- placements -------------------------------------------------------------------------------------------


def _place(t: Transition, record: WorkloadRecord, planned: PlannedReplica, spec: WorkloadSpec) -> None:
    existing = t.state.replicas.get(planned.replica_id)
    if existing is None:
        if not is_dns_label(planned.replica_id):
            return
    elif not _is_pending_one_of(existing, record):
        return
    fragment = amounts.fragment_of(spec)
    decision = planned.placement
    if decision.node_id:
        key = (record.metadata.namespace, record.metadata.name)
        sharing = key if planned.shares_host_ports and may_share(spec) else None
        obstacle = _obstacle(t, spec, decision.node_id, fragment, sharing)
        if obstacle is not None:
            decision = replace(
                decision,
                node_id="",
                candidates=(),
                rejections=(*decision.rejections, obstacle),
                summary=f"node {planned.placement.node_id} was taken meanwhile: {obstacle.reason}",
            )
    replica = existing or Replica(
        id=planned.replica_id,
        workload=record.metadata.name,
        namespace=record.metadata.namespace,
        created_at_ms=t.now_ms,
        attempt=max(0, planned.attempt),
        run=max(0, planned.run),
        replaces=planned.replaces,
    )
    replica = replace(replica, generation=planned.generation)
    if decision.node_id:
        _assign(t, replica, decision, fragment)
        if planned.replaces:
            _tell_of_move(t, replica, decision)
    elif planned.replaces:
        return  # the other one stays where it is
    elif existing is None or existing.placement.summary != decision.summary:
        _leave_pending(t, replica, decision)


def _is_pending_one_of(replica: Replica, record: WorkloadRecord) -> bool:
    return (
        replica.workload == record.metadata.name
        and replica.namespace == record.metadata.namespace
        and not replica.node_id
    )


def _obstacle(
    t: Transition, spec: WorkloadSpec, node_id: str, fragment: ResourceAmounts, sharing: WorkloadKey | None
) -> FilterRejection | None:
    """Why the node cannot take a replica now; None when it can. `sharing`: the workload whose host ports are free for
    it where the node can share them. Only the entry says so: software that knows nothing of it applies entries that do
    not say it, and must do the same with them."""
    node = t.state.nodes.get(node_id)
    found = _node_obstacle(node)
    if found is None and node is not None:
        used = amounts.plus(t.state.reserved.get(node_id, amounts.NOTHING), fragment)
        over = amounts.exceeded(used, node.device.capacity)
        if over:
            found = over[0].partition("_")[0], f"insufficient {', '.join(name.partition('_')[0] for name in over)}"
        elif wanted := amounts.host_ports_of(spec):
            taken = sorted(wanted & t.state.host_ports_on(node_id, sharing=sharing if can_share(node) else None))
            if taken:
                found = "host_ports", f"host port {taken[0][0]}/{taken[0][1]} is taken"
    return None if found is None else FilterRejection(found[0], found[1], (node_id,), 1)


def _node_obstacle(node: Node | None) -> tuple[str, str] | None:
    if node is None:
        return "ready", "the node was removed"
    if node.state is not NodeState.READY:
        return "ready", f"node is {node.state}"
    if node.draining:
        return "cordoned", "draining"
    if node.cordoned:
        return "cordoned", "cordoned"
    return None


def _assign(t: Transition, replica: Replica, decision: PlacementDecision, fragment: ResourceAmounts) -> None:
    t.put_replica(
        replace(
            replica,
            node_id=decision.node_id,
            status=ReplicaStatus(phase=ReplicaPhase.ASSIGNED, since_ms=t.now_ms),
            phase_since_ms=t.now_ms,
            placement=decision,
            fragment=fragment,
            assigned_at_ms=t.now_ms,
        )
    )
    t.emit(
        "scheduling.decision",
        f"replica/{replica.id}",
        decision.summary or f"placed on {decision.node_id}",
        namespace=replica.namespace,
        metadata={"node": decision.node_id, "workload": replica.workload},
    )


def _tell_of_move(t: Transition, replica: Replica, decision: PlacementDecision) -> None:
    replaced = t.state.replicas[replica.replaces]
    t.emit(
        "scheduling.rebalanced",
        f"replica/{replica.id}",
        f"takes the place of {replaced.id} on {replaced.node_id}: {decision.summary}",
        namespace=replica.namespace,
        metadata={
            "workload": replica.workload,
            "replaces": replaced.id,
            "from": replaced.node_id,
            "to": decision.node_id,
        },
    )


def _leave_pending(t: Transition, replica: Replica, decision: PlacementDecision) -> None:
    t.put_replica(
        replace(
            replica,
            status=ReplicaStatus(
                phase=ReplicaPhase.PENDING,
                reason="Unplaceable",
                message=decision.summary,
                since_ms=replica.status.since_ms or t.now_ms,
            ),
            phase_since_ms=replica.phase_since_ms or t.now_ms,
            placement=decision,
        )
    )
    t.emit(
        "scheduling.placement_failed",
        f"replica/{replica.id}",
        decision.summary or "no node fits",
        namespace=replica.namespace,
        severity=Severity.WARNING,
        metadata={"workload": replica.workload},
    )


# -- stops ------------------------------------------------------------------------------------------------


def _stop(t: Transition, record: WorkloadRecord, command: ApplyPlan) -> None:
    namespace, name = record.metadata.namespace, record.metadata.name
    stale = command.stops and lost_availability_since(t, record, command.planned_at_index)
    for planned in command.stops:
        replica = t.state.replicas.get(planned.replica_id)
        if replica is None or (replica.namespace, replica.workload) != (namespace, name) or replica.stopping:
            continue
        if not replica.node_id:
            t.remove_replica(replica)
            continue
        if stale and replica.status.phase is ReplicaPhase.READY:
            continue  # planned on an availability that is no more; the next plan decides again
        t.put_replica(replace(replica, stopping=True, stop_reason=planned.reason))
        t.emit(
            "scheduling.reschedule",
            f"replica/{replica.id}",
            f"stops on {replica.node_id}: {planned.reason}",
            namespace=namespace,
            metadata={"node": replica.node_id, "reason": planned.reason},
        )


def preempt(t: Transition, record: WorkloadRecord, command: ApplyPlan) -> None:
    """Stops replicas of other workloads, of clearly lower priority, whose room the planned ones need."""
    for planned in command.preemptions:
        victim = t.state.replicas.get(planned.replica_id)
        if victim is None or victim.stopping or not victim.node_id:
            continue
        key = victim.namespace, victim.workload
        other = t.state.workloads.get(key)
        if other is None or key == (record.metadata.namespace, record.metadata.name):
            continue
        if record.spec.priority - other.spec.priority < PRIORITY_GAP:
            continue
        ready = victim.status.phase is ReplicaPhase.READY
        if ready and lost_availability_since(t, other, command.planned_at_index, whoever_stopped=True):
            continue  # what it costs is more than when it was planned; the next plan decides again
        t.put_replica(replace(victim, stopping=True, stop_reason=PREEMPTED))
        t.emit(
            "scheduling.preempted",
            f"replica/{victim.id}",
            f"makes room on {victim.node_id} for {record.metadata.namespace}/{record.metadata.name}, whose priority is "
            f"{record.spec.priority} against {other.spec.priority}",
            namespace=victim.namespace,
            severity=Severity.WARNING,
            metadata={
                "node": victim.node_id,
                "workload": victim.workload,
                "by": f"{record.metadata.namespace}/{record.metadata.name}",
            },
        )


def lost_availability_since(
    t: Transition, record: WorkloadRecord, index: int, *, whoever_stopped: bool = False
) -> bool:
    """Whether a replica of the workload may have ceased to be available after the log index of a plan. What another
    workload's plan took counts; what the workload's own plans stopped, only with `whoever_stopped`."""
    if index <= 0:
        return False
    for replica in t.state.replicas_of(record.metadata.namespace, record.metadata.name):
        counts = replica.stopping and (whoever_stopped or replica.stop_reason == PREEMPTED)
        if counts and index < replica.revision < t.index:
            return True
        if replica.stopping or replica.status.phase in (ReplicaPhase.PENDING, ReplicaPhase.ASSIGNED):
            continue  # was not available before either
        node = t.state.nodes.get(replica.node_id)
        ready = replica.status.phase is ReplicaPhase.READY
        if index < replica.revision < t.index and not ready:
            return True
        if ready and node is not None and node.state is not NodeState.READY and node.revision > index:
            return True
    return False


# -- giving up --------------------------------------------------------------------------------------------


def _give_up(t: Transition, record: WorkloadRecord, replica_id: str) -> None:
    """Frees what a replica on an unreachable node held. It is remembered, so that the node, if it returns, is
    told to stop it; with a deleted workload nothing is left to remember, and the node stops what it is not
    assigned."""
    replica = t.state.replicas.get(replica_id)
    if (
        replica is None
        or (replica.namespace, replica.workload) != (record.metadata.namespace, record.metadata.name)
        or not replica.node_id
        or (replica.status.phase is ReplicaPhase.LOST and not record.deleting)
    ):
        return
    node = t.state.nodes.get(replica.node_id)
    if node is not None and node.state in (NodeState.READY, NodeState.ENROLLING):
        return
    t.emit(
        "replica.lost",
        f"replica/{replica.id}",
        f"given up: node {replica.node_id} is gone",
        namespace=replica.namespace,
        severity=Severity.WARNING,
        metadata={"node": replica.node_id},
    )
    if record.deleting:
        t.remove_replica(replica)
        return
    t.put_replica(
        replace(
            replica,
            stopping=True,
            stop_reason=replica.stop_reason or "NodeLost",
            fragment=amounts.NOTHING,
            status=replace(
                replica.status, phase=ReplicaPhase.LOST, reason="NodeLost", message=f"node {replica.node_id} is gone"
            ),
            phase_since_ms=t.now_ms,
        )
    )
