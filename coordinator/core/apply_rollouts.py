"""Rollouts become fact: what the reconciler notes of them, and what people say to them.

The reconciler decides (`reconcile.rollout`), and its plan carries the decision; here it is stored, told of, and,
where the stable generation is to come back, carried out. People pause, resume, promote and undo.
"""

from __future__ import annotations

from cloudless.coordinator.core import rollouts
from cloudless.coordinator.core.apply_workloads import revert_workload
from cloudless.coordinator.core.commands import ControlRollout
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.core.model import (
    RolloutAction,
    RolloutPhase,
    RolloutProgress,
    Severity,
    WorkloadRecord,
    WorkloadRevision,
)
from cloudless.core.replacing import replace
from cloudless.core.spec import RolloutStrategy
from cloudless.errors import FailedPrecondition, InvalidArgument, NotFound

# -- what the reconciler decided --------------------------------------------------------------------------


def record_progress(t: Transition, record: WorkloadRecord, progress: RolloutProgress) -> WorkloadRecord:
    """Stores what the plan carries of the record's generation, and tells of it. Returns the record as it is then."""
    before = record.rollout
    if progress == before:
        return record
    if before is not None and before.generation == progress.generation:
        # People's words: the plan was made with them, and does not change them.
        progress = replace(progress, paused=before.paused, promoted=before.promoted)
    newest = record.history[-1]
    if not newest.change_cause and (cause := record.metadata.annotations.get(rollouts.CHANGE_CAUSE, "")):
        newest = replace(newest, change_cause=cause)
    completes = rollouts.is_complete(progress) and not newest.completed_at_ms
    if completes:
        newest = replace(newest, completed_at_ms=t.now_ms)
    t.note_workload(replace(record, rollout=progress, history=(*record.history[:-1], newest)))
    if completes and record.generation > 1:
        _tell(t, record, "complete", f"all replicas are of generation {progress.generation}", progress)
    elif before is None or before.generation != progress.generation or completes:
        pass  # what began it has told of it, and that a first version is complete is told by its replicas
    elif progress.phase is not before.phase and progress.phase is RolloutPhase.FAILED:
        _tell(t, record, "failed", progress.message, progress, severity=Severity.ERROR)
    elif progress.phase is not before.phase and progress.phase in (
        RolloutPhase.PAUSED,
        RolloutPhase.AWAITING_PROMOTION,
    ):
        _tell(t, record, "waiting", progress.message, progress)
    elif progress.step != before.step:
        _tell(t, record, "step", progress.message, progress)
    return t.state.workloads[record.metadata.namespace, record.metadata.name]


def roll_back(t: Transition, record: WorkloadRecord, progress: RolloutProgress) -> None:
    """The stable generation's spec becomes a new generation, whose rollout tells of what happened.

    It is rolled out without steps and promotion, and not rolled back in its turn.
    """
    stable = rollouts.stable_revision(record, progress)
    if stable is None or (record.rollout is not None and record.rollout.generation != record.generation):
        return
    cause = f"rolled back to {stable.generation}: {progress.message}"
    after = _reverted(t, record, stable, progress, phase=RolloutPhase.ROLLED_BACK, cause=cause)
    _tell(
        t,
        after,
        "rolled_back",
        f"generation {record.generation} gave way to that of {stable.generation}: {progress.message}",
        progress,
        severity=Severity.ERROR,
    )


def _reverted(
    t: Transition,
    record: WorkloadRecord,
    to: WorkloadRevision,
    progress: RolloutProgress,
    *,
    phase: RolloutPhase,
    cause: str,
) -> WorkloadRecord:
    after = revert_workload(t, record, to, cause=cause)
    begun = RolloutProgress(
        generation=after.generation,
        stable_generation=progress.stable_generation,
        phase=phase,
        started_at_ms=t.now_ms,
        progressed_at_ms=t.now_ms,
        promoted=True,
        message=cause,
    )
    t.put_workload(replace(after, rollout=begun))
    return t.state.workloads[record.metadata.namespace, record.metadata.name]


# -- what people say --------------------------------------------------------------------------------------


def control_rollout(t: Transition, command: ControlRollout) -> ApplyResult:
    key = command.namespace, command.name
    record = t.state.workloads.get(key)
    if record is None:
        raise NotFound(f"workload {command.namespace}/{command.name} does not exist", reason="WorkloadUnknown")
    if record.deleting:
        raise FailedPrecondition(
            f"workload {command.namespace}/{command.name} is being deleted", reason="WorkloadDeleting"
        )
    progress = rollouts.progress_of(record, t.state.replicas_of(*key), now_ms=t.now_ms)
    if command.action is RolloutAction.UNDO:
        _undo(t, record, progress, command.to_generation)
        return t.accepted("updated")
    if record.spec.type not in rollouts.ROLLED:
        raise FailedPrecondition(
            f"{_name(record)} is of type {record.spec.type}, which has no rollout",
            reason="NoRollout",
            remedy="a new spec takes effect with its next run",
        )
    match command.action:
        case RolloutAction.PAUSE:
            after = _paused(record, progress)
        case RolloutAction.RESUME:
            after = _resumed(record, progress, now_ms=t.now_ms)
        case RolloutAction.PROMOTE:
            after = _promoted(record, progress, now_ms=t.now_ms)
        case _:
            raise InvalidArgument("a rollout is paused, resumed, promoted or undone", reason="ActionMissing")
    t.put_workload(replace(record, rollout=after, updated_at_ms=t.now_ms))
    word = {RolloutAction.PAUSE: "paused", RolloutAction.RESUME: "resumed", RolloutAction.PROMOTE: "promoted"}
    _tell(t, record, word[command.action], after.message, after)
    return t.accepted("updated")


def _paused(record: WorkloadRecord, progress: RolloutProgress) -> RolloutProgress:
    if progress.paused:
        raise FailedPrecondition(
            f"the rollout of {_name(record)} is paused already",
            reason="RolloutPaused",
            remedy="let it go on: cloudlessctl rollout resume",
        )
    if rollouts.is_complete(progress):
        return replace(progress, paused=True, message="paused: the next version waits")
    return replace(progress, paused=True, phase=RolloutPhase.PAUSED, message="paused by `rollout pause`")


def _resumed(record: WorkloadRecord, progress: RolloutProgress, *, now_ms: int) -> RolloutProgress:
    if not progress.paused:
        raise FailedPrecondition(
            f"the rollout of {_name(record)} is not paused", reason="RolloutNotPaused", remedy="nothing is to be done"
        )
    if rollouts.is_complete(progress):
        return replace(progress, paused=False, message="")
    # The time of the pause is not held against it.
    return replace(progress, paused=False, phase=RolloutPhase.PROGRESSING, progressed_at_ms=now_ms, message="goes on")


def _promoted(record: WorkloadRecord, progress: RolloutProgress, *, now_ms: int) -> RolloutProgress:
    if progress.paused:
        raise FailedPrecondition(
            f"the rollout of {_name(record)} is paused",
            reason="RolloutPaused",
            remedy="let it go on first: cloudlessctl rollout resume",
        )
    rollout = record.spec.rollout
    goes_on = replace(progress, phase=RolloutPhase.PROGRESSING, progressed_at_ms=now_ms, step_since_ms=0)
    if not rollouts.is_complete(progress) and not progress.promoted:
        if rollout.strategy is RolloutStrategy.BLUE_GREEN:
            return replace(goes_on, promoted=True, message="promoted: the old set goes once the new one is available")
        steps = rollout.canary.steps if rollout.canary else ()
        if rollout.strategy is RolloutStrategy.CANARY and progress.step < len(steps):
            step = progress.step + 1
            following = f"{steps[step].weight} %" if step < len(steps) else "all replicas"
            return replace(goes_on, step=step, message=f"promoted to {following}")
    raise FailedPrecondition(
        f"the rollout of {_name(record)} waits for no promotion",
        reason="NothingToPromote",
        remedy="see how far it is: cloudlessctl rollout status",
    )


def _undo(t: Transition, record: WorkloadRecord, progress: RolloutProgress, to_generation: int) -> None:
    if to_generation == record.generation:
        raise FailedPrecondition(
            f"{_name(record)} is at revision {to_generation}",
            reason="RevisionCurrent",
            remedy="name an earlier one: cloudlessctl rollout history",
        )
    if to_generation:
        target = rollouts.revision_of(record, to_generation)
        what = f"revision {to_generation} of {_name(record)} is not kept"
    else:
        target = rollouts.undo_target(record, progress)
        what = f"{_name(record)} has no earlier revision that was rolled out and differs from the present one"
    if target is None:
        raise NotFound(what, reason="RevisionUnknown", remedy="see which there are: cloudlessctl rollout history")
    cause = f"undone to {target.generation}"
    after = _reverted(t, record, target, progress, phase=RolloutPhase.PROGRESSING, cause=cause)
    _tell(t, after, "undone", f"generation {record.generation} gives way to that of {target.generation}", progress)


# -- telling ----------------------------------------------------------------------------------------------


def _name(record: WorkloadRecord) -> str:
    return f"workload {record.metadata.namespace}/{record.metadata.name}"


def _tell(
    t: Transition,
    record: WorkloadRecord,
    word: str,
    description: str,
    progress: RolloutProgress,
    *,
    severity: Severity = Severity.INFO,
) -> None:
    t.emit(
        f"workload.rollout_{word}",
        f"workload/{record.metadata.namespace}/{record.metadata.name}",
        description,
        namespace=record.metadata.namespace,
        severity=severity,
        metadata={"generation": str(progress.generation)},
    )
