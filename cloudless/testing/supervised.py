"""A supervisor on a device in memory, on virtual time, through several lives of its agent: for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloudless.agent.core.model import Check
from cloudless.agent.journal import Journal
from cloudless.agent.supervisor import Supervisor
from cloudless.core.model import Assignment, ReplicaPhase, ReplicaStatus
from cloudless.core.spec import (
    Container,
    ContainerPort,
    ExecProbe,
    PreStop,
    Probe,
    ResourceAmounts,
    Resources,
    RestartPolicy,
    RestartPolicyKind,
    Termination,
    WorkloadSpec,
)
from cloudless.testing.runtime import FakeDevice, FakeRuntime
from cloudless.testing.simloop import SimClock, run

PROBE = Probe(exec=ExecProbe(("check",)), period_ms=1_000, failure_threshold=2)


def assignment(
    replica_id: str = "web-1",
    *,
    policy: RestartPolicyKind = RestartPolicyKind.ALWAYS,
    retries: int = 0,
    names: tuple[str, ...] = ("main",),
    liveness: Probe | None = None,
    readiness: Probe | None = None,
    startup: Probe | None = None,
    memory_bytes: int = 0,
    host_port: int = 0,
    pre_stop: PreStop | None = None,
    grace_ms: int = 5_000,
) -> Assignment:
    containers = tuple(
        Container(
            name=n,
            image="i",
            resources=Resources(limits=ResourceAmounts(memory_bytes=memory_bytes)),
            ports=(ContainerPort(container_port=80, host_port=host_port),) if host_port else (),
            liveness_probe=liveness,
            readiness_probe=readiness,
            startup_probe=startup,
        )
        for n in names
    )
    spec = WorkloadSpec(
        containers=containers,
        restart_policy=RestartPolicy(policy=policy, max_retries=retries),
        termination=Termination(grace_ms, pre_stop),
    )
    return Assignment(replica_id, "web", "default", 1, spec)


class Node:
    """One device through several lives of its agent."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        self.clock = SimClock(loop)
        self.directory = directory
        self.device = FakeDevice(self.clock, directory / "logs")
        self.healthy: Callable[[Check], bool] = lambda check: True
        self.supervisor: Supervisor

    async def _probe(self, replica_id: str, wanted: Assignment, check: Check) -> tuple[bool, str]:
        await asyncio.sleep(0.01)
        ok = self.healthy(check)
        return ok, "" if ok else "refused"

    @asynccontextmanager
    async def agent(self, *, fabric: str = "f", ready: bool = True, hold: str = "") -> AsyncIterator[Supervisor]:
        """One life of the agent. Leaving it is a kill: what runs goes on running."""
        runtime = FakeRuntime(self.device)
        journal = Journal(self.directory / "journal", fabric=fabric)
        self.supervisor = Supervisor(runtime, journal, self.clock, self._probe, jitter=lambda: 0.5)
        self.supervisor.load()
        if hold:
            self.supervisor.hold(hold, "")
        task = asyncio.ensure_future(self.supervisor.run())
        try:
            if ready:
                await self.supervisor.ready.wait()
            yield self.supervisor
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, condition: Callable[[], bool], *, limit_s: float = 1_000.0) -> None:
        """Returns when the reports make it true."""
        reports = self.supervisor.reports
        async with asyncio.timeout(limit_s):
            while not condition():
                version = reports.version
                waiting = asyncio.ensure_future(reports.wait_beyond(version))
                await asyncio.wait([waiting], timeout=0.05)
                waiting.cancel()

    async def until_phase(self, replica_id: str, phase: ReplicaPhase) -> None:
        await self.until(lambda: self.supervisor.phase(replica_id) is phase)

    def starts(self) -> Counter[str]:
        return Counter(replica_id for call, replica_id in self.device.calls if call == "start_container")

    def restarts(self, replica_id: str = "web-1") -> int:
        observation = self.supervisor.reports.get(replica_id)
        return observation.status.restart_count if observation else 0

    def reason(self) -> str:
        observation = self.supervisor.reports.get("web-1")
        return observation.status.reason if observation else ""

    def phases(self) -> tuple[str, ...]:
        """The replica's phase and the states of its containers."""
        observation = self.supervisor.reports.get("web-1")
        status = observation.status if observation else ReplicaStatus()
        return (status.phase or "", *(c.state for c in status.containers))


def tell(directory: Path, story: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
    """Runs the story on a node of its own."""
    run(lambda loop: story(Node(loop, directory)))
