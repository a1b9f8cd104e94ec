"""What people see of workloads of type job and cron: how far their runs are, and when the next one is due.

Phases: Pending before the first replica of a run has a place; Progressing while a run goes on; Available when all that
is wanted has been done: the newest run of a job succeeded, or a cron waits for the next; Failed when a job's newest
run failed; Degraded when a cron's did.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudless.coordinator.core import runs
from cloudless.coordinator.core.state import State
from cloudless.core.cron import in_words, next_due
from cloudless.core.model import (
    JobRun,
    NodeState,
    Replica,
    ReplicaPhase,
    RunPhase,
    WorkloadPhase,
    WorkloadRecord,
    WorkloadStatus,
)
from cloudless.core.replacing import replace
from cloudless.core.spec import WorkloadType

_GO_ON = (ReplicaPhase.RUNNING, ReplicaPhase.READY)


def runs_view(state: State, record: WorkloadRecord) -> tuple[JobRun, ...]:
    """The runs that are kept, oldest first, with what their replicas have done so far."""
    if not any(map(runs.is_unfinished, record.runs)):
        return record.runs
    replicas = _replicas(state, record)
    shown = []
    for run in record.runs:
        succeeded, failed = runs.tally(run, replicas)
        shown.append(replace(run, succeeded=succeeded, failed=failed))
    return tuple(shown)


def next_run_at_ms(record: WorkloadRecord) -> int:
    """When a cron is due next; 0: never, as it is on hold, or no cron."""
    schedule = record.spec.schedule
    if record.deleting or record.spec.type is not WorkloadType.CRON or schedule is None or schedule.suspend:
        return 0
    return next_due(schedule, record.scheduled_until_ms or record.created_at_ms) or 0


def run_status(state: State, record: WorkloadRecord) -> WorkloadStatus:
    """Counts the replicas that runs want and have now; what ended counts in its run alone."""
    kept = [r for r in _replicas(state, record) if not r.stopping and not runs.is_result(r)]
    shown = runs_view(state, record)
    active = [run for run in shown if runs.is_unfinished(run) and run.started_at_ms]
    completion = runs.completion_of(record.spec)
    wanted = sum(min(completion.parallelism, max(0, completion.completions - run.succeeded)) for run in active)
    return WorkloadStatus(
        phase=_phase(record, shown, kept),
        desired=0 if record.deleting else wanted,
        ready=sum(r.status.phase is ReplicaPhase.READY and _reachable(state, r) for r in kept),
        running=sum(r.status.phase in _GO_ON for r in kept),
        pending=sum(not r.node_id for r in kept),
        updated=sum(r.generation == record.generation for r in kept),
        message=_message(record, shown, kept),
    )


def _replicas(state: State, record: WorkloadRecord) -> list[Replica]:
    return state.replicas_of(record.metadata.namespace, record.metadata.name)


def _reachable(state: State, replica: Replica) -> bool:
    node = state.nodes.get(replica.node_id)
    return node is not None and node.state is NodeState.READY


def _newest(shown: Sequence[JobRun]) -> JobRun | None:
    """The newest run that was not left out."""
    return next((run for run in reversed(shown) if run.phase is not RunPhase.SKIPPED), None)


def _phase(record: WorkloadRecord, shown: Sequence[JobRun], kept: Sequence[Replica]) -> WorkloadPhase:
    if record.deleting:
        return WorkloadPhase.TERMINATING
    newest, is_cron = _newest(shown), record.spec.type is WorkloadType.CRON
    if any(map(runs.is_unfinished, shown)):
        placed = not kept or any(r.node_id for r in kept)
        return WorkloadPhase.PROGRESSING if placed else WorkloadPhase.PENDING
    if newest is None or (not is_cron and newest.generation != record.generation):
        return WorkloadPhase.AVAILABLE if is_cron else WorkloadPhase.PENDING
    if newest.phase is RunPhase.FAILED:
        return WorkloadPhase.DEGRADED if is_cron else WorkloadPhase.FAILED
    return WorkloadPhase.AVAILABLE


def _message(record: WorkloadRecord, shown: Sequence[JobRun], kept: Sequence[Replica]) -> str:
    """How far the newest run is, what holds it up, and when the next one is due."""
    parts = []
    if newest := _newest(shown):
        parts.append(_run_in_words(newest, runs.completion_of(record.spec).completions))
    pending = [r for r in kept if not r.node_id]
    if pending:
        parts.append(f"{len(pending)} pending: {pending[0].placement.summary or 'not placed yet'}")
    schedule = record.spec.schedule
    if record.spec.type is WorkloadType.CRON and schedule is not None and not record.deleting:
        due_ms = next_run_at_ms(record)
        parts.append(f"next run at {in_words(schedule, due_ms)}" if due_ms else "on hold")
    return "; ".join(parts)


def _run_in_words(run: JobRun, completions: int) -> str:
    if run.phase is RunPhase.SUCCEEDED:
        return f"run {run.number} succeeded"
    failures = f", {run.failed} failed" if run.failed else ""
    how_far = f"{run.succeeded} of {completions} completed{failures}"
    if run.phase is RunPhase.FAILED:
        return f"run {run.number} failed ({run.reason}): {how_far}"
    return f"run {run.number}: {how_far}" if run.started_at_ms else f"run {run.number} waits for the one before"
