"""What happened to replicas, said aloud: one line of the log and a metric for each announcement of the core."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from cloudless.agent import metrics
from cloudless.agent.core import model as m
from cloudless.core.model import Assignment

log = structlog.get_logger(__name__)


def labels_of(replica_id: str, assignment: Assignment | None) -> dict[str, str]:
    """What names a replica in the log."""
    if assignment is None:
        return {"replica": replica_id}
    return {"replica": replica_id, "workload": assignment.workload, "namespace": assignment.namespace}


def announce(announcement: m.Announcement, labels: dict[str, str]) -> None:
    match announcement:
        case m.AnnouncePhase(before, after, reason, message):
            step = f"{before.value}->{after.value}"
            log.info(f"replica.{after.name.lower()}", transition=step, reason=reason, message=message, **labels)
        case m.AnnounceEnd(container, attempt, reason, exit_code, restarts, delay_ms):
            if restarts:
                metrics.RESTARTS.labels(reason).inc()
            log.info(
                "container.exited",
                container=container,
                attempt=attempt,
                reason=reason,
                exit_code=exit_code,
                restart_in_ms=delay_ms if restarts else None,
                **labels,
            )
        case m.AnnouncePreStop(container, ok, detail):
            level = log.info if ok else log.warning
            level("container.pre_stop", container=container, ok=ok, cause="" if ok else detail, **labels)
        case m.AnnounceProbeFailure(container, kind, detail):
            metrics.PROBE_FAILURES.labels(kind.value).inc()
            log.debug("probe.failed", container=container, probe=kind.value, cause=detail, **labels)


def count_containers(states: Iterable[m.ReplicaState]) -> None:
    """Sets the gauges to what there is now."""
    counts = dict.fromkeys(m.Stage, 0)
    for state in states:
        for track in state.containers:
            counts[track.stage] += 1
    for stage, count in counts.items():
        metrics.CONTAINERS.labels(stage.value).set(count)
