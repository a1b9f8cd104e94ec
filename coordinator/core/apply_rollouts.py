"""What people say to a rollout: pause, resume, promote, undo."""

from __future__ import annotations

from cloudless.coordinator.core.commands import ControlRollout
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.errors import FailedPrecondition, NotFound


def control_rollout(t: Transition, command: ControlRollout) -> ApplyResult:
    if (command.namespace, command.name) not in t.state.workloads:
        raise NotFound(f"workload {command.namespace}/{command.name} does not exist", reason="WorkloadUnknown")
    raise FailedPrecondition("rollouts cannot be controlled by this version", reason="RolloutNotControlled")
