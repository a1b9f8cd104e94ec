"""Runs of workloads of type job and cron."""

from __future__ import annotations

from cloudless.coordinator.core.commands import StartRun
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.core.transition import Transition
from cloudless.errors import FailedPrecondition, NotFound


def start_run(t: Transition, command: StartRun) -> ApplyResult:
    """A run by hand, beside those that are due."""
    if (command.namespace, command.name) not in t.state.workloads:
        raise NotFound(f"workload {command.namespace}/{command.name} does not exist", reason="WorkloadUnknown")
    raise FailedPrecondition(f"workload {command.namespace}/{command.name} has no runs", reason="NoRuns")
