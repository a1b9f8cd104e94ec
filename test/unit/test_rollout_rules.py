"""Rules of the rollout, and what is filled in of it."""

from dataclasses import replace

import pytest

from cloudless.core import defaults
from cloudless.core.rollout_rules import STEPS_MAX, rollout_violations
from cloudless.core.spec import (
    MANUAL,
    Canary,
    CanaryStep,
    Metadata,
    Rollout,
    RolloutStrategy,
    WorkloadSpec,
    WorkloadType,
)

SERVICE = WorkloadSpec(type=WorkloadType.SERVICE, replicas=3)


def canary(*steps, strategy=RolloutStrategy.CANARY):
    return Rollout(strategy=strategy, canary=Canary(tuple(CanaryStep(*step) for step in steps)))


@pytest.mark.parametrize(
    ("kind", "rollout", "paths"),
    [
        (WorkloadType.SERVICE, canary((10, 60_000), (50, MANUAL), (100, 0)), []),
        (None, canary((1, 0)), []),
        (WorkloadType.SERVICE, Rollout(strategy=RolloutStrategy.BLUE_GREEN, auto_rollback=True), []),
        (WorkloadType.SYSTEM, canary((10, 0)), ["strategy"]),
        (WorkloadType.SYSTEM, Rollout(strategy=RolloutStrategy.BLUE_GREEN), ["strategy"]),
        (WorkloadType.SERVICE, canary(), ["canary.steps"]),
        (WorkloadType.SERVICE, Rollout(strategy=RolloutStrategy.CANARY), ["canary.steps"]),
        (WorkloadType.SERVICE, canary((10, 0), strategy=RolloutStrategy.BLUE_GREEN), ["canary"]),
        (WorkloadType.SERVICE, canary((10, 0), strategy=None), ["canary"]),
        (WorkloadType.SERVICE, canary((0, 0)), ["canary.steps[0].weight"]),
        (WorkloadType.SERVICE, canary((101, 0)), ["canary.steps[0].weight"]),
        (WorkloadType.SERVICE, canary((50, 0), (50, 0)), ["canary.steps[1].weight"]),
        (WorkloadType.SERVICE, canary((50, 0), (10, 0), (20, 0)), ["canary.steps[1].weight", "canary.steps[2].weight"]),
        (WorkloadType.SERVICE, canary((50, -2)), ["canary.steps[0].pause"]),
        (WorkloadType.SERVICE, canary(*((n + 1, 0) for n in range(STEPS_MAX + 1))), ["canary.steps"]),
        (WorkloadType.SERVICE, Rollout(progress_deadline_ms=-1), ["progressDeadline"]),
        (WorkloadType.SERVICE, Rollout(progress_deadline_ms=999, min_ready_ms=1000), ["progressDeadline"]),
    ],
)
def test_rules(kind, rollout, paths):
    found = [v.path for v in rollout_violations(replace(SERVICE, type=kind, rollout=rollout))]
    assert found == [f"spec.rollout.{path}" for path in paths]


@pytest.mark.parametrize(("ready_ms", "deadline_ms"), [(0, 600_000), (3_600_000, 4_200_000)])
def test_the_deadline_allows_for_the_time_that_a_replica_must_be_ready(ready_ms, deadline_ms):
    stated = replace(SERVICE, rollout=Rollout(min_ready_ms=ready_ms))
    filled = defaults.apply(Metadata("web"), stated)[1]
    assert filled.rollout.progress_deadline_ms == deadline_ms
    assert defaults.apply(Metadata("web"), filled)[1] == filled
