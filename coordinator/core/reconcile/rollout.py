"""How far a rollout has come, and what it wants next: pure functions of the record, its replicas and the time.

    Progressing -> Complete                     every replica is of the generation and available
    Progressing <-> Paused, AwaitingPromotion   `rollout pause`, a canary step's pause, the new colour beside the old
    Progressing -> Failed -> Progressing        no progress within the deadline; what is new goes on being tried
    Progressing -> RolledBack                   the same with autoRollback: the stable spec is a new generation

Progress is a number of available replicas that was not reached before, so that replicas which come and go again
hold no deadline back. Time that is spent waiting for people, or in a canary step's pause, does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloudless.coordinator.core import rollouts, versions
from cloudless.coordinator.core.reconcile.census import Deadlines
from cloudless.coordinator.core.reconcile.draft import Draft
from cloudless.core.model import RolloutPhase, RolloutProgress, WorkloadRecord, WorkloadRevision
from cloudless.core.replacing import replace
from cloudless.core.spec import MANUAL, CanaryStep, Rollout, RolloutStrategy

SCHEMA: Final = 3  # of entries that carry a rollout
_NOTED_EVERY_MS: Final = 1_000  # progress within a shorter time is not worth an entry each
_WAITING: Final = (RolloutPhase.PAUSED, RolloutPhase.AWAITING_PROMOTION)


@dataclass(frozen=True, slots=True)
class Course:
    """A rollout at this moment. `stable` is what replicas of older generations are replaced with meanwhile; None
    where there is none. `rolls_back`: the generation is given up with this plan."""

    progress: RolloutProgress
    stable: WorkloadRevision | None = None
    rolls_back: bool = False

    @property
    def holds(self) -> bool:
        """Whether people have paused it and there is something to hold on to."""
        return self.progress.paused and self.stable is not None


def follow(draft: Draft, deadlines: Deadlines, *, desired: int, available: int, outdated: int) -> Course:
    """Takes the rollout as far as the replicas are, and notes in the draft what is to be remembered.

    `desired` is how many replicas are wanted, `available` how many of the present generation are available, and
    `outdated` how many of older ones are not yet told to stop. While a coordinator of an older version is a member,
    rollouts go on without memory: no deadline, no step, no way back by itself.
    """
    record = draft.record
    if versions.schema_of_all(draft.state) < SCHEMA:
        return Course(RolloutProgress(generation=record.generation, phase=RolloutPhase.PROGRESSING))
    unknown = record.rollout is None
    replicas = draft.state.replicas_of(record.metadata.namespace, record.metadata.name) if unknown else ()
    before = rollouts.progress_of(record, replicas, now_ms=draft.now_ms)
    if unknown and desired == 0 and not replicas:
        return Course(before)  # of what never ran nothing needs to be remembered
    progress, rolls_back = _advanced(record, before, deadlines, desired=desired, available=available, outdated=outdated)
    if before is not record.rollout or progress != before:
        draft.note_rollout(progress, roll_back=rolls_back)
    return Course(progress, rollouts.stable_revision(record, progress), rolls_back)


def _advanced(
    record: WorkloadRecord,
    progress: RolloutProgress,
    deadlines: Deadlines,
    *,
    desired: int,
    available: int,
    outdated: int,
) -> tuple[RolloutProgress, bool]:
    now_ms = deadlines.now_ms
    if rollouts.is_complete(progress):
        return progress, False
    if not outdated and available >= desired:
        return _completed(progress, available=available, now_ms=now_ms), False
    if progress.paused:
        return progress, False
    deadline_ms = record.spec.rollout.progress_deadline_ms
    higher = deadline_ms and available > progress.available
    if higher and deadlines.passed(progress.progressed_at_ms + min(_NOTED_EVERY_MS, deadline_ms // 10)):
        progress = replace(progress, available=available, progressed_at_ms=now_ms)
        if progress.phase is RolloutPhase.FAILED:
            progress = replace(progress, phase=RolloutPhase.PROGRESSING, message="goes on after its deadline")
    if stepwise(record, progress):
        progress = _stepped(record, progress, deadlines, desired=desired, available=available)
    elif progress.phase in _WAITING:  # for a step that the spec does not have any more
        progress = replace(progress, phase=RolloutPhase.PROGRESSING, progressed_at_ms=now_ms, message="")
    if progress.phase in _WAITING:
        return progress, False
    return _overdue(record, progress, deadlines)


def _completed(progress: RolloutProgress, *, available: int, now_ms: int) -> RolloutProgress:
    rolled_back = progress.phase is RolloutPhase.ROLLED_BACK
    message = progress.message if rolled_back else ""
    if progress.paused:
        message = "paused: the next version waits"
    return replace(
        progress,
        stable_generation=progress.generation,
        phase=progress.phase if rolled_back else RolloutPhase.COMPLETE,
        progressed_at_ms=now_ms,
        available=max(progress.available, available),
        message=message,
    )


def _overdue(record: WorkloadRecord, progress: RolloutProgress, deadlines: Deadlines) -> tuple[RolloutProgress, bool]:
    """Failed, or to be rolled back, where the deadline has passed."""
    deadline_ms = record.spec.rollout.progress_deadline_ms
    if not deadline_ms or progress.phase in (RolloutPhase.ROLLED_BACK, RolloutPhase.FAILED):
        back = _goes_back(record, progress) and progress.phase is RolloutPhase.FAILED
        return progress, back
    if not deadlines.passed(progress.progressed_at_ms + deadline_ms):
        return progress, False
    why = f"no new replica became available for {_duration(deadline_ms)}"
    if _goes_back(record, progress):
        return replace(progress, message=why), True
    told = why if rollouts.stable_revision(record, progress) is None else f"{why}; the version before goes on serving"
    return replace(progress, phase=RolloutPhase.FAILED, message=told), False


def _goes_back(record: WorkloadRecord, progress: RolloutProgress) -> bool:
    return record.spec.rollout.auto_rollback and rollouts.stable_revision(record, progress) is not None


def _duration(ms: int) -> str:
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms >= size and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms} ms"


# -- canary and blue-green --------------------------------------------------------------------------------


def stepwise(record: WorkloadRecord, progress: RolloutProgress) -> bool:
    """Whether the rollout stops on its way: a canary between its steps, a new colour that waits to be promoted."""
    if progress.promoted or rollouts.stable_revision(record, progress) is None:
        return False
    return (
        record.spec.rollout.strategy is RolloutStrategy.BLUE_GREEN or step_of(record.spec.rollout, progress) is not None
    )


def step_of(rollout: Rollout, progress: RolloutProgress) -> CanaryStep | None:
    """The canary's present step; None after the last one, and for other strategies."""
    steps = rollout.canary.steps if rollout.canary and rollout.strategy is RolloutStrategy.CANARY else ()
    return steps[progress.step] if 0 <= progress.step < len(steps) else None


def weighed(step: CanaryStep, desired: int) -> int:
    """How many of `desired` replicas are new at this step: its percentage, rounded up."""
    return -(-step.weight * desired // 100)


def _stepped(
    record: WorkloadRecord, progress: RolloutProgress, deadlines: Deadlines, *, desired: int, available: int
) -> RolloutProgress:
    now_ms = deadlines.now_ms
    while (step := step_of(record.spec.rollout, progress)) is not None:
        reached = available >= weighed(step, desired)
        if not progress.step_since_ms:
            if not reached:
                return progress
            progress = replace(progress, step_since_ms=now_ms, progressed_at_ms=now_ms)
        if step.pause_ms == MANUAL:
            told = f"{step.weight} % are new; waits to be promoted"
            return replace(progress, phase=RolloutPhase.AWAITING_PROMOTION, message=told)
        if not deadlines.passed(progress.step_since_ms + step.pause_ms):
            return replace(progress, phase=RolloutPhase.PAUSED, message=f"{step.weight} % are new; a pause")
        if not reached:
            # Lost again meanwhile: it goes on once they are back, and from the end of the pause its deadline runs.
            after_ms = max(progress.progressed_at_ms, progress.step_since_ms + step.pause_ms)
            told = f"{step.weight} % were new, and are not available now"
            going_on = progress.phase if progress.phase is RolloutPhase.FAILED else RolloutPhase.PROGRESSING
            return replace(progress, phase=going_on, progressed_at_ms=after_ms, message=told)
        following = step_of(record.spec.rollout, replace(progress, step=progress.step + 1))
        progress = replace(
            progress,
            step=progress.step + 1,
            step_since_ms=0,
            progressed_at_ms=now_ms,
            phase=RolloutPhase.PROGRESSING,
            message=f"on the way to {following.weight} %" if following else "on the way to all replicas",
        )
    whole = record.spec.rollout.strategy is RolloutStrategy.BLUE_GREEN and available >= desired
    if whole and progress.phase is not RolloutPhase.AWAITING_PROMOTION:
        told = "the new set is available beside the old one; waits to be promoted"
        progress = replace(progress, phase=RolloutPhase.AWAITING_PROMOTION, step_since_ms=now_ms, message=told)
    return progress
