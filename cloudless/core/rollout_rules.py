"""Rules of the rollout: what a strategy needs, what excludes what, and that a rollout can come to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cloudless.core.spec import MANUAL, CanaryStep, Rollout, RolloutStrategy, WorkloadSpec, WorkloadType
from cloudless.core.violations import Violation, bounded, duration

REPLICAS_MAX: Final = 10_000
STEPS_MAX: Final = 32
_BESIDE: Final = (RolloutStrategy.CANARY, RolloutStrategy.BLUE_GREEN)  # new replicas wait beside the old ones


def rollout_violations(spec: WorkloadSpec) -> Iterator[Violation]:
    """What is wrong with `spec.rollout`, given the type and the number of replicas."""
    path, rollout = "spec.rollout", spec.rollout
    if rollout.strategy in _BESIDE and spec.type is WorkloadType.SYSTEM:
        what = f"{rollout.strategy} needs two versions beside each other, and a node has one replica of type system"
        yield Violation(f"{path}.strategy", what, "use RollingUpdate or Recreate")
    yield from _numbers(rollout, path)
    if spec.type is not WorkloadType.SYSTEM and 0 < spec.replicas < rollout.min_available:
        what = f"{rollout.min_available} replicas cannot stay available out of {spec.replicas}"
        yield Violation(f"{path}.minAvailable", what, "lower minAvailable or raise replicas")
    if rollout.strategy is RolloutStrategy.RECREATE and rollout.min_available:
        what = "Recreate stops every replica first, so that none stays available"
        yield Violation(f"{path}.minAvailable", what, "remove it or use RollingUpdate")
    yield from _canary(rollout, path)


def _numbers(rollout: Rollout, path: str) -> Iterator[Violation]:
    for key, value in (
        ("maxSurge", rollout.max_surge),
        ("maxUnavailable", rollout.max_unavailable),
        ("minAvailable", rollout.min_available),
    ):
        yield from bounded(value, f"{path}.{key}", lowest=0, highest=REPLICAS_MAX)
    yield from duration(rollout.min_ready_ms, f"{path}.minReadySeconds")
    yield from duration(rollout.progress_deadline_ms, f"{path}.progressDeadline")
    if 0 < rollout.progress_deadline_ms < rollout.min_ready_ms:
        what = "no replica can become available within the deadline, which is shorter than minReadySeconds"
        yield Violation(f"{path}.progressDeadline", what, "raise progressDeadline or lower minReadySeconds")


def _canary(rollout: Rollout, path: str) -> Iterator[Violation]:
    steps = rollout.canary.steps if rollout.canary is not None else ()
    if rollout.strategy is RolloutStrategy.CANARY:
        if not steps:
            remedy = "give steps such as {weight: 10, pause: 5m}, or use RollingUpdate"
            yield Violation(f"{path}.canary.steps", "the strategy Canary needs at least one step", remedy)
    elif rollout.canary is not None:
        remedy = "set strategy: Canary, or remove it"
        yield Violation(f"{path}.canary", "only the strategy Canary has steps", remedy)
    if len(steps) > STEPS_MAX:
        yield Violation(f"{path}.canary.steps", f"{len(steps)} steps are too many", f"use at most {STEPS_MAX}")
    before = 0
    for index, step in enumerate(steps):
        yield from _step(step, f"{path}.canary.steps[{index}]", before)
        before = max(before, step.weight)


def _step(step: CanaryStep, path: str, before: int) -> Iterator[Violation]:
    if not 1 <= step.weight <= 100:
        remedy = "use a percentage from 1 to 100"
        yield Violation(f"{path}.weight", f"{step.weight} is out of range", remedy)
    elif step.weight <= before:
        what = f"{step.weight} is not more than the {before} of the step before"
        yield Violation(f"{path}.weight", what, "let the weights rise")
    if step.pause_ms != MANUAL:
        yield from duration(step.pause_ms, f"{path}.pause")
