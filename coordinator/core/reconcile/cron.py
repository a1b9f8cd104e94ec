"""Which runs of a cron are due, and what becomes of those that could not start in time.

A due time is decided once: `scheduled_until_ms` of the record is the last one that was. What is due when the loop looks
is on time for `ON_TIME_MS`; anything older was missed, because nobody led or the fabric was down. `missed` says what
becomes of it, then `concurrency` what becomes of a run while another one is not finished:

    missed       Skip      what was missed is left out; what is on time runs
                 RunOnce   one run, for the newest due time, stands for all of them
                 RunAll    one run for each, oldest first, the newest hundred at most
    concurrency  Allow     it runs beside the others
                 Forbid    it is left out; with RunAll and several due times each waits for the one before
                 Replace   the others are ended, and it starts once they are gone
"""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.core import runs
from cloudless.coordinator.core.reconcile.census import Deadlines
from cloudless.core.cron import due_between, next_due
from cloudless.core.model import JobRun, RunPhase, WorkloadRecord
from cloudless.core.spec import ConcurrencyPolicy, MissedRuns, Schedule

ON_TIME_MS: Final = 60_000


def due_runs(record: WorkloadRecord, deadlines: Deadlines) -> tuple[list[JobRun], int]:
    """New runs, skipped ones among them, and the last due time that is decided with them; 0: nothing is due.

    Waits (by `deadlines`) for the next due time. A clock that went back waits until it has caught up.
    """
    schedule = record.spec.schedule
    if schedule is None or schedule.suspend:
        return [], 0
    since_ms = record.scheduled_until_ms or record.created_at_ms
    due = due_between(schedule, since_ms, deadlines.now_ms, runs.UNFINISHED_MAX)
    coming_ms = next_due(schedule, max(since_ms, deadlines.now_ms))
    if coming_ms is not None:
        deadlines.passed(coming_ms)
    if not due:
        return [], 0
    return _decide(record, schedule, due, deadlines.now_ms), due[-1]


def _decide(record: WorkloadRecord, schedule: Schedule, due: tuple[int, ...], now_ms: int) -> list[JobRun]:
    newest = due[-1]
    missed = due[:-1] if now_ms - newest <= ON_TIME_MS else due
    made_up = schedule.missed is MissedRuns.RUN_ALL and schedule.concurrency is not ConcurrencyPolicy.REPLACE
    skipped: list[tuple[int, str]] = []
    if made_up:
        starting = list(due)
    elif schedule.missed is MissedRuns.SKIP:
        skipped = [(at_ms, "Missed") for at_ms in missed[-runs.HISTORY_KEPT :]]
        starting = [at_ms for at_ms in due if at_ms not in missed]
    else:
        starting = [newest]
    unfinished = sum(map(runs.is_unfinished, record.runs))
    waits = made_up and bool(missed)
    if unfinished and schedule.concurrency in (None, ConcurrencyPolicy.FORBID) and not waits:
        skipped += [(at_ms, "Forbidden") for at_ms in starting]
        starting = []
    room = max(0, runs.UNFINISHED_MAX - unfinished)
    if len(starting) > room:
        over = starting[: len(starting) - room]
        skipped += [(at_ms, "TooManyRuns") for at_ms in over[-runs.HISTORY_KEPT :]]
        starting = starting[len(over) :]
    decided = sorted([*skipped, *((at_ms, "") for at_ms in starting)])
    return [
        JobRun(
            number=record.last_run + position,
            generation=record.generation,
            scheduled_at_ms=at_ms,
            finished_at_ms=now_ms if reason else 0,
            phase=RunPhase.SKIPPED if reason else RunPhase.RUNNING,
            reason=reason,
        )
        for position, (at_ms, reason) in enumerate(decided, 1)
    ]
