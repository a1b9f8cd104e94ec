"""How many replicas of which generation a service wants at this moment of its rollout."""

from __future__ import annotations

from dataclasses import dataclass

from cloudless.coordinator.core.reconcile.rollout import Course, step_of, stepwise, weighed
from cloudless.core.model import WorkloadRecord
from cloudless.core.spec import Rollout, RolloutStrategy


@dataclass(frozen=True, slots=True)
class Targets:
    """`new`: replicas of the present generation, at most. `old`: so many of older generations are restored where
    there are fewer. `keep`: so many of them stay, even if they are not needed to serve. `total`: of all together,
    beside those that leave their node. `floor`: so many stay available."""

    new: int
    old: int
    keep: int
    total: int
    floor: int


def bounds(rollout: Rollout, desired: int) -> tuple[int, int]:
    """How many replicas a rollout may add, and how many must stay available.

    A rollout that may neither add nor take away could not proceed; it may then add one.
    """
    floor = min(desired, max(desired - max(0, rollout.max_unavailable), rollout.min_available))
    surge = max(0, rollout.max_surge)
    if surge == 0 and floor >= desired:
        surge = 1
    return surge, floor


def targets(record: WorkloadRecord, course: Course, *, held: int, gone: int, old: int, available: int) -> Targets:
    """`held` is how many replicas of the present generation there are (placed, pending or to be tried again), `gone`
    how many of it were lost and are not replaced yet, and `available` how many have served for long enough. `old` is
    how many of older generations there are."""
    rollout, desired = record.spec.rollout, record.spec.replicas
    surge, floor = bounds(rollout, desired)
    stable = course.stable
    if stable is None or desired == 0:
        return Targets(new=desired, old=0, keep=0, total=desired + surge, floor=floor)
    # What was lost is restored in the version that is known to work, as long as the new one does not serve instead.
    # No further than that version was wanted: a rollout that also scales up begins with new ones.
    restored = max(0, min(floor, stable.spec.replicas) - available)
    total = desired + surge
    if course.holds:
        # Each failure is replaced by the generation that it was of, and the number of new ones does not grow.
        new = min(max(held, min(held + gone, desired - old)), desired)
        return Targets(new=new, old=desired - new, keep=max(0, total - new), total=total, floor=floor)
    step = step_of(rollout, course.progress)
    if stepwise(record, course.progress) and step is not None:
        new = weighed(step, desired)
        return Targets(new=new, old=max(desired - new, restored), keep=desired - new, total=total, floor=floor)
    if rollout.strategy is RolloutStrategy.BLUE_GREEN:
        total = desired + max(surge, desired)
        if not course.progress.promoted:
            return Targets(new=desired, old=desired, keep=desired, total=total, floor=floor)
        if available < desired:
            return Targets(new=desired, old=restored, keep=desired, total=total, floor=floor)
    return Targets(new=desired, old=restored, keep=0, total=total, floor=floor)
