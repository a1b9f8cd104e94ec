"""The fabric's model with replicas that come to an end, for jobs and crons.

A replica runs for `lasts_ms`, then ends as `outcome` says. Time passes in steps from one thing to come to the next:
a deadline of the loop or the end of a replica.
"""

from __future__ import annotations

from collections.abc import Callable

from cloudless.coordinator.core import commands as c
from cloudless.core import defaults
from cloudless.core.model import JobRun, NodeState, Replica, ReplicaPhase, ReplicaStatus, RunPhase
from cloudless.core.replacing import replace
from cloudless.core.spec import (
    Completion,
    Disruption,
    RestartPolicy,
    RestartPolicyKind,
    Rollout,
    Schedule,
    WorkloadSpec,
    WorkloadType,
)
from cloudless.testing.fabric_model import NAMESPACE, Fabric, service


def job(
    *,
    completions: int = 1,
    parallelism: int = 1,
    ttl_ms: int = 0,
    deadline_ms: int = 0,
    retries: int = 6,
    cpu_millis: int = 100,
    image: str = "job:1",
    schedule: Schedule | None = None,
    disruption: Disruption | None = None,
) -> WorkloadSpec:
    """A job; with a schedule a cron. Its defaults are filled in."""
    spec = replace(
        service(image=image, cpu_millis=cpu_millis, disruption=disruption),
        type=WorkloadType.CRON if schedule else WorkloadType.JOB,
        rollout=Rollout(),
        restart_policy=RestartPolicy(RestartPolicyKind.NEVER, retries),
        schedule=schedule,
        completion=Completion(parallelism, completions, ttl_ms, deadline_ms),
    )
    return defaults.spec_of(spec)


class JobFabric(Fabric):
    def __init__(self) -> None:
        super().__init__()
        self.lasts_ms: Callable[[Replica], int] = lambda replica: 1_000
        self.outcome: Callable[[Replica], ReplicaPhase] = lambda replica: ReplicaPhase.SUCCEEDED

    def runs(self, name: str = "work") -> list[JobRun]:
        return list(self.state.workloads[NAMESPACE, name].runs)

    def story(self, name: str = "work") -> list[tuple[int, str]]:
        """Number and phase of each run; a run that did not simply succeed says why, one that waits says so."""
        return [(run.number, _word(run)) for run in self.runs(name)]

    def active(self, name: str = "work") -> list[Replica]:
        """Replicas that run, as far as the coordinator knows."""
        ended = (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED, ReplicaPhase.LOST)
        return [r for r in self.replicas(name) if r.node_id and r.status.phase not in ended]

    def _report(self, replica: Replica) -> c.ReportedReplica | None:
        if replica.stopping or replica.status.phase is not ReplicaPhase.READY or not replica.run:
            return super()._report(replica)
        if self.now_ms < replica.phase_since_ms + self.lasts_ms(replica):
            return None
        return c.ReportedReplica(replica.id, ReplicaStatus(phase=self.outcome(replica), since_ms=self.now_ms))

    def _next_end_ms(self) -> int | None:
        ends = [
            max(r.phase_since_ms + self.lasts_ms(r), self.now_ms + 1)
            for r in self.state.replicas.values()
            if r.run
            and r.status.phase is ReplicaPhase.READY
            and not r.stopping
            and self.state.nodes[r.node_id].state is NodeState.READY
        ]
        return min(ends, default=None)

    def advance(self, ms: int) -> None:
        until = self.now_ms + ms
        while True:
            end_ms = self._next_end_ms()
            coming = [*self.wake_at_ms.values(), *([end_ms] if end_ms is not None else [])]
            if not coming or min(coming) > until:
                break
            self.now_ms = max(self.now_ms, min(coming))
            self.dirty |= {key for key, at_ms in self.wake_at_ms.items() if at_ms <= self.now_ms}
            for key in self.dirty:
                self.wake_at_ms.pop(key, None)
            self.settle()
        self.now_ms = until
        self.settle()

    def sleep(self, ms: int) -> None:
        """Time passes and nobody leads: agents go on, nothing is planned."""
        until = self.now_ms + ms
        while (end_ms := self._next_end_ms()) is not None and end_ms <= until:
            self.now_ms = end_ms
            self.agents_step()
        self.now_ms = until
        self.agents_step()
        self.dirty |= set(self.state.workloads)


def _word(run: JobRun) -> str:
    if run.phase is RunPhase.RUNNING:
        return "Running" if run.started_at_ms else "Waiting"
    return run.reason or str(run.phase)
