"""What nodes report of their replicas."""

from __future__ import annotations

from cloudless.coordinator.core import amounts, lifecycle, runs
from cloudless.coordinator.core.commands import ReportedReplica, ReportReplicas
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.core.model import Replica, ReplicaPhase, ReplicaStatus, Severity
from cloudless.core.replacing import replace
from cloudless.errors import NotFound


def report_replicas(t: Transition, command: ReportReplicas) -> ApplyResult:
    """Takes over each status that its replica's lifecycle allows; ignores the rest and says why in the answer.

    A node learns what is true from its assignments, not from this answer, so that nothing here is refused.
    """
    node = t.state.nodes.get(command.node_id)
    if node is None:
        raise NotFound(f"node {command.node_id} does not exist", reason="NodeUnknown")
    before = t.state
    ignored = [why for report in command.replicas if (why := _report(t, command.node_id, report))]
    changed = t.state is not before
    result = t.accepted("updated" if changed else "unchanged", revision=None if changed else node.revision)
    if not ignored:
        return result
    return replace(result, message=f"{len(ignored)} report(s) ignored: {ignored[0]}")


def _report(t: Transition, node_id: str, report: ReportedReplica) -> str:
    """Why the report is ignored; empty when it is not."""
    replica = t.state.replicas.get(report.replica_id)
    if replica is None:
        return f"replica {report.replica_id} is not known"
    if replica.node_id != node_id:
        return f"replica {replica.id} belongs to node {replica.node_id or '(none)'}"
    if report.gone:
        return _gone(t, replica)
    was, phase = replica.status.phase, report.status.phase
    if phase is None or was is None:
        return f"replica {replica.id} is reported without a phase"
    if not lifecycle.replica_may(was, phase):
        return f"replica {replica.id} cannot go from {was} to {phase}"
    if report.status == replica.status:
        return ""
    t.put_replica(
        replace(
            replica,
            status=report.status,
            phase_since_ms=replica.phase_since_ms if phase is was else t.now_ms,
            fragment=amounts.NOTHING if replica.run and phase in runs.ENDED else replica.fragment,
        )
    )
    _tell(t, replica, report.status)
    return ""


def _gone(t: Transition, replica: Replica) -> str:
    if not replica.stopping:
        return f"replica {replica.id} is still assigned"
    t.emit(
        "replica.stopped",
        f"replica/{replica.id}",
        f"nothing of it is left on {replica.node_id}",
        namespace=replica.namespace,
        metadata={"node": replica.node_id, "reason": replica.stop_reason},
    )
    t.remove_replica(replica)
    return ""


def _tell(t: Transition, replica: Replica, status: ReplicaStatus) -> None:
    was, now = replica.status, status
    resource, node = f"replica/{replica.id}", replica.node_id
    if now.restart_count > was.restart_count:
        why = next((c.last_reason for c in now.containers if c.last_reason), now.reason) or "exited"
        t.emit(
            "replica.restarted",
            resource,
            f"restarted on {node} ({why}), {now.restart_count} time(s) in all",
            namespace=replica.namespace,
            severity=Severity.WARNING,
            metadata={"node": node, "reason": why},
        )
    if now.phase is was.phase:
        return
    if now.phase in (ReplicaPhase.RUNNING, ReplicaPhase.READY):
        word = now.phase.lower()
        lost_it = now.phase is ReplicaPhase.RUNNING and was.phase is ReplicaPhase.READY
        t.emit(
            "replica.unready" if lost_it else f"replica.{word}",
            resource,
            f"is no longer ready on {node}" if lost_it else f"is {word} on {node}",
            namespace=replica.namespace,
            severity=Severity.WARNING if lost_it else Severity.INFO,
            metadata={"node": node},
        )
    elif now.phase in (ReplicaPhase.FAILED, ReplicaPhase.SUCCEEDED):
        failed = now.phase is ReplicaPhase.FAILED
        t.emit(
            "replica.failed" if failed else "replica.succeeded",
            resource,
            f"{'failed' if failed else 'ended'} on {node}: {now.message or now.reason or 'no reason given'}",
            namespace=replica.namespace,
            severity=Severity.ERROR if failed else Severity.INFO,
            metadata={"node": node, "reason": now.reason},
        )
