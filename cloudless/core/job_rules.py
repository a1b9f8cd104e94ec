"""Rules of workloads that run to an end: type job and type cron.

What belongs to replicas that run for ever (`replicas`, `rollout`, the restart policy Always) is refused for them,
and `schedule` and `completion` are refused for all others: nothing that a manifest says is ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from cloudless.core.spec import (
    Completion,
    ConcurrencyPolicy,
    MissedRuns,
    RestartPolicyKind,
    Rollout,
    Schedule,
    WorkloadSpec,
    WorkloadType,
)
from cloudless.core.violations import Violation, bounded, duration

COMPLETIONS_MAX: Final = 10_000
PARALLELISM_MAX: Final = 1_000
HISTORY_MAX: Final = 50
RUN_RETRIES: Final = 6  # failures that a run survives, where restartPolicy.maxRetries is not stated
RUN_TYPES: Final = (WorkloadType.JOB, WorkloadType.CRON)


def job_violations(spec: WorkloadSpec) -> Iterator[Violation]:
    """What is wrong with the parts of a spec that have to do with runs, whatever its type."""
    if spec.schedule is not None and spec.type is not WorkloadType.CRON:
        yield Violation("spec.schedule", "only the type cron has a schedule", "remove it, or set type: cron")
    if spec.completion is not None and spec.type not in RUN_TYPES:
        remedy = "remove it, or set type: job or type: cron"
        yield Violation("spec.completion", "only the types job and cron are completed", remedy)
    if spec.type not in RUN_TYPES:
        return
    if spec.replicas not in (0, 1):
        what = f"a {spec.type} has no replicas of its own"
        yield Violation("spec.replicas", what, "remove it; completion has completions and parallelism")
    if spec.restart_policy.policy is RestartPolicyKind.ALWAYS:
        what = f"a {spec.type} that is always restarted never ends"
        yield Violation("spec.restartPolicy.policy", what, "use OnFailure or Never")
    if spec.rollout != Rollout():
        what = f"a {spec.type} has no rollout: a run keeps the version that it began with"
        yield Violation("spec.rollout", what, "remove it")
    if spec.type is WorkloadType.CRON:
        yield from _schedule(spec.schedule, "spec.schedule")
    if spec.completion is not None:
        yield from _completion(spec.completion, spec.type, "spec.completion")


def _schedule(schedule: Schedule | None, path: str) -> Iterator[Violation]:
    if schedule is None or not schedule.cron:
        what = "a cron needs to know when it is due"
        yield Violation(f"{path}.cron" if schedule else path, what, 'give a schedule such as {cron: "*/5 * * * *"}')
        if schedule is None:
            return
    # Most workloads have no schedule: what follows takes a library, and milliseconds of a command's start.
    from cloudless.core import cron

    if schedule.cron and (problem := cron.problem(schedule.cron)) is not None:
        yield Violation(f"{path}.cron", problem.message, problem.remedy)
    if schedule.time_zone and schedule.time_zone not in cron.zone_names():
        what = f"{schedule.time_zone[:80]!r} is no time zone"
        yield Violation(f"{path}.timeZone", what, _zone_meant(schedule.time_zone[:80], cron.zone_names()))
    if schedule.missed is MissedRuns.RUN_ALL and schedule.concurrency is ConcurrencyPolicy.REPLACE:
        what = "runs that are made up for would each end the one before"
        yield Violation(f"{path}.missed", what, "use RunOnce or Skip, or the concurrency Forbid or Allow")
    yield from bounded(schedule.history, f"{path}.history", lowest=0, highest=HISTORY_MAX)


def _zone_meant(name: str, known: frozenset[str]) -> str:
    word = name.lower().replace(" ", "_")
    by_lower = {zone.lower(): zone for zone in sorted(known)}
    by_city = {zone.lower().rpartition("/")[2]: zone for zone in sorted(known, reverse=True) if "/" in zone}
    found = by_lower.get(word) or by_city.get(word)
    if found is None:
        close = difflib.get_close_matches(word, by_lower, n=1) or difflib.get_close_matches(word, by_city, n=1)
        found = (by_lower.get(close[0]) or by_city.get(close[0])) if close else None
    return f"did you mean {found!r}?" if found else "use a name of the IANA database such as Europe/Berlin, or UTC"


def _completion(completion: Completion, kind: WorkloadType, path: str) -> Iterator[Violation]:
    yield from bounded(completion.parallelism, f"{path}.parallelism", lowest=0, highest=PARALLELISM_MAX)
    yield from bounded(completion.completions, f"{path}.completions", lowest=0, highest=COMPLETIONS_MAX)
    yield from duration(completion.ttl_after_finished_ms, f"{path}.ttlAfterFinished")
    yield from duration(completion.active_deadline_ms, f"{path}.activeDeadline")
    if kind is WorkloadType.CRON and completion.ttl_after_finished_ms > 0:
        what = "a cron is not deleted when a run has ended"
        yield Violation(f"{path}.ttlAfterFinished", what, "remove it; schedule.history says how many runs are kept")
