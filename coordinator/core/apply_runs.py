"""Runs of workloads of type job and cron.

The reconciler decides when a run begins and how it ended, and an entry carries it. What is checked here is what must
hold whatever a proposer believed, at whatever time its clock stood: a due time is decided once, a number is given
once, and a run that ended stays as it is. A plan that says otherwise was made on an older state and is refused as a
whole; the next one is made on the present state.
"""

from __future__ import annotations

from cloudless.coordinator.core import runs
from cloudless.coordinator.core.apply_workloads import delete_workload
from cloudless.coordinator.core.commands import ApplyPlan, DeleteWorkload, PlannedReplica, StartRun
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.core.model import JobRun, RunPhase, Severity, WorkloadRecord
from cloudless.core.replacing import replace
from cloudless.core.spec import ConcurrencyPolicy, WorkloadType
from cloudless.errors import Conflict, FailedPrecondition, NotFound


def start_run(t: Transition, command: StartRun) -> ApplyResult:
    """A run by hand, beside those that are due. The answer's message is its number, in digits: see `number_in`.

    It is one of the workload's runs in everything else: with the concurrency Forbid it is refused while another one
    is not finished, with Replace it ends that one.
    """
    record = t.state.workloads.get((command.namespace, command.name))
    what = f"workload {command.namespace}/{command.name}"
    if record is None:
        raise NotFound(f"{what} does not exist", reason="WorkloadUnknown")
    if record.deleting:
        raise FailedPrecondition(f"{what} is being deleted", reason="WorkloadDeleting")
    if record.spec.type not in runs.RUN_TYPES:
        raise FailedPrecondition(
            f"{what} has no runs", reason="NoRuns", remedy="only workloads of type job and cron have runs"
        )
    unfinished = [run for run in record.runs if runs.is_unfinished(run)]
    schedule = record.spec.schedule
    alone = schedule is None or schedule.concurrency in (None, ConcurrencyPolicy.FORBID)
    if unfinished and alone:
        raise FailedPrecondition(
            f"run {unfinished[0].number} of {what} is not finished",
            reason="RunActive",
            remedy="wait for its end, or set schedule.concurrency: Allow" if schedule else "wait for its end",
        )
    if len(unfinished) >= runs.UNFINISHED_MAX:
        raise FailedPrecondition(
            f"{len(unfinished)} runs of {what} are not finished", reason="TooManyRuns", remedy="wait for their end"
        )
    number = record.last_run + 1
    run = JobRun(number, record.generation, phase=RunPhase.RUNNING, manual=True)
    t.put_workload(replace(record, runs=runs.kept(record, (*record.runs, run)), last_run=number))
    _tell(t, record, None, run)
    return replace(t.accepted("created"), message=str(number))


def number_in(result: ApplyResult) -> int:
    """The number of the run that an accepted StartRun began."""
    return int(result.message)


def take_runs(t: Transition, record: WorkloadRecord, command: ApplyPlan) -> WorkloadRecord:
    """The record with what the plan says of its runs. Raises Conflict for a plan that does not follow from it."""
    if record.deleting or not (command.runs or command.scheduled_until_ms):
        return record
    if record.spec.type not in runs.RUN_TYPES:
        raise _outdated(record, "it has no runs any more")
    known = {run.number: run for run in record.runs}
    last = record.last_run
    for run in command.runs:
        before = known.get(run.number)
        if before is not None:
            _check_change(record, before, run)
        else:
            _check_new(record, run, command, number=last + 1)
            last = run.number
        known[run.number] = run
        if before != run:
            _tell(t, record, before, run)
    after = replace(
        record,
        runs=runs.kept(record, known.values()),
        last_run=last,
        scheduled_until_ms=max(record.scheduled_until_ms, command.scheduled_until_ms),
    )
    if after == record:
        return record
    t.put_workload(after)
    return t.state.workloads[record.metadata.namespace, record.metadata.name]


def may_place(record: WorkloadRecord, planned: PlannedReplica) -> bool:
    """Whether a planned replica has a run that goes on, or needs none."""
    if planned.run == 0:
        return record.spec.type not in runs.RUN_TYPES
    return any(run.number == planned.run and runs.is_unfinished(run) and run.started_at_ms for run in record.runs)


def expire(t: Transition, record: WorkloadRecord) -> None:
    """Deletes a job whose time after the end is over. Raises Conflict when it is not."""
    ttl_ms = runs.completion_of(record.spec).ttl_after_finished_ms
    over = (
        record.spec.type is WorkloadType.JOB
        and ttl_ms > 0
        and record.runs
        and not any(map(runs.is_unfinished, record.runs))
        and max(run.finished_at_ms for run in record.runs) + ttl_ms <= t.now_ms
    )
    if not over:
        raise _outdated(record, "its time is not over")
    if record.deleting:
        return
    namespace, name = record.metadata.namespace, record.metadata.name
    t.emit(
        "workload.expired",
        f"workload/{namespace}/{name}",
        f"ended {ttl_ms // 1000} s ago: ttlAfterFinished",
        namespace=namespace,
    )
    delete_workload(t, DeleteWorkload(namespace, name))


def _check_new(record: WorkloadRecord, run: JobRun, command: ApplyPlan, *, number: int) -> None:
    if run.number != number or run.manual:
        raise _outdated(record, f"run {run.number} is not the next one")
    if record.spec.type is WorkloadType.CRON:
        if not record.scheduled_until_ms < run.scheduled_at_ms <= command.scheduled_until_ms:
            raise _outdated(record, f"what is due at {run.scheduled_at_ms} is decided already")
    elif run.generation != record.generation or (record.runs and record.runs[-1].generation == run.generation):
        raise _outdated(record, f"generation {run.generation} has its run")


def _check_change(record: WorkloadRecord, before: JobRun, after: JobRun) -> None:
    if before == after:
        return
    same = replace(
        before,
        started_at_ms=before.started_at_ms or after.started_at_ms,
        finished_at_ms=after.finished_at_ms,
        phase=after.phase,
        succeeded=after.succeeded,
        failed=after.failed,
        reason=after.reason,
    )
    forward = before.succeeded <= after.succeeded and before.failed <= after.failed
    if not runs.is_unfinished(before) or same != after or not forward:
        raise _outdated(record, f"run {after.number} is another one or has gone on")


def _outdated(record: WorkloadRecord, why: str) -> Conflict:
    what = f"workload {record.metadata.namespace}/{record.metadata.name}"
    return Conflict(f"the plan for {what} is of another state: {why}", reason="RunsChanged")


def _tell(t: Transition, record: WorkloadRecord, before: JobRun | None, run: JobRun) -> None:
    namespace, name = record.metadata.namespace, record.metadata.name
    severity, word, text = Severity.INFO, "", ""
    if run.phase is RunPhase.SKIPPED:
        severity, word, text = Severity.WARNING, "skipped", f"run {run.number} is left out: {run.reason}"
    elif run.phase is RunPhase.SUCCEEDED:
        word, text = "succeeded", f"run {run.number} succeeded"
    elif run.phase is RunPhase.FAILED:
        severity, word, text = Severity.ERROR, "failed", f"run {run.number} failed: {run.reason}"
    elif run.started_at_ms and (before is None or not before.started_at_ms):
        word, text = "started", f"run {run.number} starts"
    elif before is None:
        word, text = "waiting", f"run {run.number} waits for its start"
    if word:
        metadata = {"run": str(run.number)} | ({"reason": run.reason} if run.reason else {})
        resource = f"workload/{namespace}/{name}"
        t.emit(f"run.{word}", resource, text, namespace=namespace, severity=severity, metadata=metadata)
