"""What a workload's status says of it: whether it is as wanted, has come to its end, or will not get there."""

from __future__ import annotations

from typing import Any, Final

from cloudless.ctl.output import field_word
from cloudless.errors import CloudlessError, FailedPrecondition

RUN_TYPES: Final = ("job", "cron")


def has_runs(workload: Any) -> bool:
    """Whether it is of type job or cron."""
    return field_word(workload.spec, "type") in RUN_TYPES


def newest_run(workload: Any) -> Any | None:
    """The newest run that was not left out."""
    return next((run for run in reversed(workload.runs) if field_word(run, "phase") != "Skipped"), None)


def is_available(workload: Any) -> bool:
    """Every replica that is wanted is of the present generation and ready, and none of an older one is left. Of a job:
    its run succeeded. A cron is there to be due, whatever its runs do.

    That is for the coordinator to say: its counts mix the generations, so that a ready replica of the old one could
    stand for a new one that is not.
    """
    if workload.deleting:
        return False
    return field_word(workload.spec, "type") == "cron" or field_word(workload.status, "phase") == "Available"


def is_complete(workload: Any) -> bool:
    """Whether the newest run of a job or cron succeeded, and none goes on."""
    run = newest_run(workload)
    return run is not None and field_word(run, "phase") == "Succeeded" and _stands(workload)


def _stands(workload: Any) -> bool:
    """Whether no run goes on or is to come for what was applied last."""
    return field_word(workload.status, "phase") not in ("Pending", "Progressing", "Terminating")


def failure(workload: Any, *, since_generation: int = 0, of_runs: bool = False) -> CloudlessError | None:
    """Why waiting for it makes no sense any more; None while it does.

    `since_generation` is what it was when the waiting began: a generation that came later by itself took its place.
    With `of_runs`, the failed run of a cron is one, too.
    """
    name = workload.metadata.name
    if has_runs(workload):
        run = newest_run(workload)
        counts = of_runs or field_word(workload.spec, "type") == "job"
        if run is not None and counts and field_word(run, "phase") == "Failed" and _stands(workload):
            return FailedPrecondition(
                f"workload/{name} failed: {workload.status.message or f'run {run.number} failed'}",
                reason="RunFailed",
                remedy=f"`cloudlessctl logs workload/{name}` shows what it printed; `cloudlessctl run {name}` tries it "
                "again",
            )
        return None
    return _rollout_failure(workload, since_generation)


def _rollout_failure(workload: Any, since_generation: int) -> CloudlessError | None:
    name, progress = workload.metadata.name, workload.rollout
    if progress.generation != workload.generation:
        return None  # of an earlier one: how this one goes is not known yet
    phase = field_word(progress, "phase")
    why = f": {progress.message}" if progress.message else ""
    if phase == "Failed":
        return FailedPrecondition(
            f"the rollout of workload/{name} failed{why}",
            reason="RolloutFailed",
            remedy=f"`cloudlessctl describe workload {name}` tells more; `cloudlessctl rollout undo {name}` goes back",
        )
    goes_on = progress.stable_generation != progress.generation
    later = bool(since_generation) and workload.generation > since_generation
    if phase == "RolledBack" and (goes_on or later):
        return FailedPrecondition(
            f"workload/{name} was rolled back{why}",
            reason="RolledBack",
            remedy=f"`cloudlessctl rollout history {name}` lists its generations",
        )
    return None


def status(workload: Any) -> str:
    """One word, or a few: the phase, in the words that fit a job or a cron."""
    phase = field_word(workload.status, "phase")
    kind = field_word(workload.spec, "type")
    if kind not in RUN_TYPES:
        return phase
    if phase == "Progressing":
        return "Running"
    if kind == "cron" and phase in ("Available", "Degraded"):
        where = "Suspended" if workload.spec.schedule.suspend else "Scheduled"
        return where if phase == "Available" else f"{where},LastFailed"
    return "Complete" if phase == "Available" else phase


def ready(workload: Any) -> str:
    """`2/3`: replicas that are ready, of a job or cron those of its newest run that succeeded, and how many there
    shall be."""
    if not has_runs(workload):
        return f"{workload.status.ready}/{workload.status.desired}"
    run = newest_run(workload)
    wanted = max(1, workload.spec.completion.completions)
    return "-" if run is None else f"{run.succeeded}/{wanted}"
