"""A node that runs what a coordinator signed, on virtual time, through lives of its agent and boots of its device: for
tests. The coordinator's side is the real `Granting`; there is no stream between the two."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cloudless.agent.grants import Grants
from cloudless.agent.journal import Journal
from cloudless.agent.supervisor import Supervisor
from cloudless.agent.tenure import Tenure
from cloudless.api.v1 import session_pb2 as pb
from cloudless.clock import Clock
from cloudless.coordinator.assigning import Granting
from cloudless.core.model import Assignment
from cloudless.core.replacing import replace
from cloudless.core.spec import Disruption
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.signing import Signer
from cloudless.identity.spiffe import COORDINATOR, NODE, SpiffeId
from cloudless.testing.identity import Fabric
from cloudless.testing.runtime import FakeRuntime
from cloudless.testing.simloop import SimClock
from cloudless.testing.supervised import Node

NAME: Final = "n1"


class Coordinator:
    """Signs for one node at a time."""

    def __init__(
        self, fabric: Fabric, clock: Clock, *, name: str = "c1", node: str = NAME, kind: str = COORDINATOR,
        ttl_ms: int = 3_600_000, issued_ago_ms: int = 0,
    ) -> None:  # fmt: skip
        self.clock = clock
        credentials = fabric.member(kind, name, ttl_ms=ttl_ms, issued_ago_ms=issued_ago_ms)
        self.signer = Signer(ServerCertificate(credentials))
        self.granting = Granting(self.signer, node, clock)

    def grant(self, revision: int, *assignments: Assignment) -> pb.SignedAssignments:
        """A set, with the certificates."""
        granted = self.granting.grant(revision, assignments)
        self._show(granted.lease)
        return granted

    def renewal(self) -> pb.SignedLease:
        """Of the set before, with the certificates."""
        renewal = self.granting.renewal()
        self._show(renewal)
        return renewal

    def _show(self, lease: pb.SignedLease) -> None:
        if not lease.certificates:
            lease.certificates.extend(self.signer.sign(b"", b"").certificates)


def grants(fabric: Fabric, node: str = NAME) -> Grants:
    return Grants(fabric.ca.trust_bundle_pem, SpiffeId(fabric.trust_domain, NODE, node))


def leased(assignment: Assignment, lease_ms: int) -> Assignment:
    """The same with another `leaseDuration`."""
    return replace(assignment, spec=replace(assignment.spec, disruption=Disruption(lease_duration_ms=lease_ms)))


class LeasedNode(Node):
    """`coordinator` signs with a clock of its own, which is right; the device's (`clock`) may be wrong."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        super().__init__(loop, directory)
        self.true_clock = SimClock(loop)
        self.fabric = Fabric(directory / "ca", clock=self.true_clock)
        self.coordinator = Coordinator(self.fabric, self.true_clock, ttl_ms=90 * 24 * 3_600_000)
        self.grants = grants(self.fabric)
        self.boots = 1
        self._booted_at_ms = 0

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def boottime_ms(self) -> int:
        return self.true_clock.monotonic_ms() - self._booted_at_ms

    def reboot(self) -> None:
        """The device restarts: what ran was killed, and the boot clock begins anew. Its agent has ended before."""
        self.device.power_cycle()
        self.boots += 1
        self._booted_at_ms = self.true_clock.monotonic_ms()

    @asynccontextmanager
    async def agent(self, *, ready: bool = True, settled: bool = True, **_: object) -> AsyncIterator[Supervisor]:
        """One life of the agent; leaving it kills it. With `settled` False its last words are not written."""
        journal = Journal(self.journal, fabric="f", grants=self.grants)
        tenure = Tenure(self.clock, boottime=self.boottime_ms, boot_id=f"boot-{self.boots}")
        self.supervisor = Supervisor(
            FakeRuntime(self.device), journal, self.clock, self._probe, jitter=lambda: 0.5, tenure=tenure
        )
        self.supervisor.load()
        task = asyncio.ensure_future(self.supervisor.run())
        try:
            if ready:
                await self.supervisor.ready.wait()
            yield self.supervisor
        finally:
            kept = {path: path.read_bytes() for path in self.journal.iterdir()}
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if not settled:
                for path, data in kept.items():
                    path.write_bytes(data)

    async def told(self, revision: int, *assignments: Assignment) -> None:
        """A coordinator is in reach, and sends this set."""
        granted = self.grants.granted(self.coordinator.grant(revision, *assignments))
        assert await self.supervisor.assign(revision, granted.assignments, granted)

    async def renewed(self) -> None:
        assert await self.supervisor.renew(self.grants.renewal(self.coordinator.renewal()))

    def runs(self) -> Iterable[str]:
        """Names of the replicas of which a container runs."""
        return sorted(
            replica_id
            for replica_id, sandbox in self.device.sandboxes.items()
            if any(container.view.state == "running" for container in sandbox.containers.values())
        )
