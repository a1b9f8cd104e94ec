"""What is known of a rollout: how far it has come, what it may go back to, and what going back means.

A rollout is the way of a workload's newest generation to all of its replicas. `WorkloadRecord.rollout` remembers it
between two plans; entries of the reconciler (`ApplyPlan.rollout`) and of people (`ControlRollout`) change it, and
nothing else does. Until the reconciler has looked at a new generation, the record still tells of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cloudless.coordinator.core import amounts
from cloudless.core.model import Replica, ReplicaPhase, RolloutPhase, RolloutProgress, WorkloadRecord, WorkloadRevision
from cloudless.core.replacing import replace
from cloudless.core.spec import WorkloadSpec, WorkloadType

CHANGE_CAUSE: Final = "cloudless.dev/change-cause"  # the annotation that a revision is remembered with

# Kinds whose replicas are replaced step by step, and whose rollouts can therefore be paused and promoted.
ROLLED: Final = frozenset({WorkloadType.SERVICE, WorkloadType.SYSTEM, None})


def progress_of(record: WorkloadRecord, replicas: Iterable[Replica], *, now_ms: int) -> RolloutProgress:
    """How far the newest generation is: what is recorded of it, or else a rollout that begins now.

    A new one inherits what the one before had completed, and that it is paused. Where none was ever recorded, what
    serves is taken for the stable generation. `replicas` are the workload's.
    """
    before = record.rollout
    if before is not None and before.generation == record.generation:
        return before
    if before is None:
        serving = [r.generation for r in replicas if r.status.phase is ReplicaPhase.READY and not r.stopping]
        stable, paused = max((g for g in serving if g != record.generation), default=0), False
    else:
        stable, paused = before.stable_generation, before.paused
    return RolloutProgress(
        generation=record.generation,
        stable_generation=stable,
        phase=RolloutPhase.PAUSED if paused else RolloutPhase.PROGRESSING,
        started_at_ms=now_ms,
        progressed_at_ms=now_ms,
        paused=paused,
        message="paused before it began" if paused else "",
    )


def is_complete(progress: RolloutProgress) -> bool:
    """Whether every replica has been of the generation: it is what a later rollout goes back to."""
    return progress.stable_generation == progress.generation


def revision_of(record: WorkloadRecord, generation: int) -> WorkloadRevision | None:
    return next((revision for revision in record.history if revision.generation == generation), None)


def stable_revision(record: WorkloadRecord, progress: RolloutProgress) -> WorkloadRevision | None:
    """The revision that served before this rollout and can serve again; None where there is none, or it is of another
    kind than the workload is now."""
    if progress.stable_generation in (0, record.generation):
        return None
    found = revision_of(record, progress.stable_generation)
    return found if found is not None and found.spec.type is record.spec.type else None


def undo_target(record: WorkloadRecord, progress: RolloutProgress) -> WorkloadRevision | None:
    """What an undo that names no revision goes back to: the last completed one that runs something else.

    Of revisions from before completion was noted, all count as completed.
    """
    template = amounts.template_of(record.spec)
    others = [r for r in record.history if r.generation != record.generation]
    different = [r for r in others if amounts.template_of(r.spec) != template]
    completed = [r for r in different if r.completed_at_ms or r.generation == progress.stable_generation]
    noted = any(r.completed_at_ms for r in record.history)
    candidates = completed or ([] if noted else different)
    return candidates[-1] if candidates else None


def spec_as_of(record: WorkloadRecord, revision: WorkloadRevision) -> WorkloadSpec:
    """The revision's template with what the workload says now of what only the coordinator acts on: how many
    replicas, their priority, how they are replaced, what a disruption means."""
    now = record.spec
    return replace(
        revision.spec, replicas=now.replicas, priority=now.priority, rollout=now.rollout, disruption=now.disruption
    )
