"""Runs of jobs and crons: what follows from a workload's record, for those who plan, apply and show.

A run that is not finished has the phase Running; while `started_at_ms` is 0 it waits for an earlier one to be gone.
While it runs, its `succeeded` and `failed` count the replicas that are forgotten already; `tally` adds those that are
there. Once it is finished they count all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cloudless.core.job_rules import RUN_RETRIES
from cloudless.core.model import JobRun, Replica, ReplicaPhase, RunPhase, WorkloadRecord
from cloudless.core.replacing import replace
from cloudless.core.spec import Completion, WorkloadSpec, WorkloadType

RUN_TYPES: Final = (WorkloadType.JOB, WorkloadType.CRON)
ENDED: Final = (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED)
UNFINISHED_MAX: Final = 100  # runs of one workload that run or wait
HISTORY_KEPT: Final = 3  # finished runs of a job, and skipped ones of a cron
# How far a leader's clock may be ahead. Due times that are decided further ahead than this were a clock's mistake, and
# a changed schedule does not wait for them to pass.
CLOCK_TOLERANCE_MS: Final = 3_600_000
# With these reasons a device ends a replica for its own sake or its owner's, or because nobody renewed what it may run:
# that is not the replica's failure.
_OF_THE_DEVICE: Final = frozenset(
    {"Evicted", "OwnerTerms", "OwnerTermsUnreadable", "Paused", "OutsideHours", "BatteryLow", "LeaseExpired"}
)


def completion_of(spec: WorkloadSpec) -> Completion:
    """What a run is, where an entry left it unstated."""
    stated = spec.completion or Completion()
    return replace(stated, parallelism=max(1, stated.parallelism), completions=max(1, stated.completions))


def retries_of(spec: WorkloadSpec) -> int:
    """How many failures a run survives."""
    return spec.restart_policy.max_retries or RUN_RETRIES


def is_unfinished(run: JobRun) -> bool:
    return run.phase is RunPhase.RUNNING


def is_result(replica: Replica) -> bool:
    """Whether a replica is what is left of a run: it ended, holds no resources, and is kept for its logs."""
    return replica.run > 0 and replica.status.phase in ENDED and not replica.stopping


def failures_of(replica: Replica) -> int:
    """How often a replica failed: its containers' restarts, and its end, unless that was its device's own doing."""
    failed = replica.status.phase is ReplicaPhase.FAILED and replica.status.reason not in _OF_THE_DEVICE
    return replica.status.restart_count + failed


def tally(run: JobRun, replicas: Iterable[Replica]) -> tuple[int, int]:
    """How many replicas of the run succeeded and how many failures it had, so far; `replicas` are the workload's."""
    if not is_unfinished(run):
        return run.succeeded, run.failed
    mine = [r for r in replicas if r.run == run.number and not r.stopping]
    succeeded = sum(r.status.phase is ReplicaPhase.SUCCEEDED for r in mine)
    return run.succeeded + succeeded, run.failed + sum(map(failures_of, mine))


def kept(record: WorkloadRecord, runs: Iterable[JobRun]) -> tuple[JobRun, ...]:
    """Of the runs those that the record keeps, by number: all that are unfinished, and the newest of the others."""
    ordered = sorted(runs, key=lambda run: run.number)
    skipped = [run.number for run in ordered if run.phase is RunPhase.SKIPPED]
    finished = [run.number for run in ordered if run.phase in (RunPhase.SUCCEEDED, RunPhase.FAILED)]
    history = record.spec.schedule.history if record.spec.schedule else 0
    gone = {*skipped[:-HISTORY_KEPT], *finished[: -(history or HISTORY_KEPT)]}
    return tuple(run for run in ordered if run.number not in gone)


def scheduled_from(before: WorkloadRecord | None, after: WorkloadRecord, now_ms: int) -> WorkloadRecord:
    """The record of a workload that was put: a schedule that is new, changed or taken up again counts from now, and
    what is no job or cron any more has no runs."""
    if after.spec.type not in RUN_TYPES and after.runs:
        return replace(after, runs=())
    if after.spec.type is not WorkloadType.CRON:
        return after
    if before is None:
        return replace(after, scheduled_until_ms=now_ms)
    if before.spec.type is WorkloadType.CRON and _due_alike(before.spec, after.spec):
        return after
    decided_ms = before.scheduled_until_ms
    if decided_ms > now_ms + CLOCK_TOLERANCE_MS:
        decided_ms = 0
    return replace(after, scheduled_until_ms=max(now_ms, decided_ms))


def _due_alike(left: WorkloadSpec, right: WorkloadSpec) -> bool:
    if left.schedule is None or right.schedule is None:
        return left.schedule is right.schedule
    ours, theirs = left.schedule, right.schedule
    return (ours.cron, ours.time_zone, ours.suspend) == (theirs.cron, theirs.time_zone, theirs.suspend)
