"""What a coordinator signs for a node, when it renews it, and to whom it sends it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from cloudless.agent.journal import ASSIGNMENTS, frame
from cloudless.agent.link import Link, LinkServices
from cloudless.api.v1 import session_pb2 as pb
from cloudless.config import SessionConfig
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import (
    Assignment,
    DeviceClass,
    DeviceInfo,
    JoinToken,
    NodeState,
    NodeUsage,
    PlacementDecision,
    ReplicaPhase,
    RuntimeInfo,
)
from cloudless.core.spec import Container, Disruption, Metadata, ResourceAmounts, WorkloadSpec
from cloudless.errors import Unavailable
from cloudless.identity.spiffe import COORDINATOR
from cloudless.testing.disk import SimDisk
from cloudless.testing.identity import Fabric
from cloudless.testing.leased import Coordinator, LeasedNode, grants, leased
from cloudless.testing.simloop import SimClock, run
from cloudless.testing.streams import pair
from cloudless.testing.supervised import assignment

WANTED = Assignment("r1", "web", "default", 4, WorkloadSpec(containers=(Container("main", "image"),)))


def test_the_certificates_go_out_once_and_again_when_they_change(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        clock = SimClock(loop)
        fabric = Fabric(tmp_path, clock=clock)
        coordinator = Coordinator(fabric, clock)
        granting = coordinator.granting
        assert len(granting.grant(1, [WANTED]).lease.certificates) == 2
        assert not granting.grant(2, [WANTED]).lease.certificates
        assert not granting.renewal().certificates
        coordinator.signer._certificate.replace(fabric.member(COORDINATOR, "c1"))
        assert len(granting.renewal().certificates) == 2
        assert not granting.renewal().certificates

    run(story)


def test_a_lease_is_renewed_within_its_interval_and_each_node_at_times_of_its_own(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        clock = SimClock(loop)
        fabric = Fabric(tmp_path, clock=clock)
        times = []
        for number in range(20):
            coordinator = Coordinator(fabric, clock, node=f"n{number}")
            assert not coordinator.granting.renewal_due()
            coordinator.granting.grant(1, [leased(assignment(), 600_000)])
            began_ms = clock.monotonic_ms()
            while not coordinator.granting.renewal_due():
                await asyncio.sleep(1)
            waited_ms = clock.monotonic_ms() - began_ms
            assert 45_000 <= waited_ms <= 60_000
            times.append(waited_ms)
            first = grants(fabric, f"n{number}").renewal(coordinator.renewal()).lease
            assert first.issued_at_ms == clock.now_ms()
            assert first.expires_at_ms == clock.now_ms() + 600_000
            assert not coordinator.granting.renewal_due()
        assert len(set(times)) > 8

    run(story)


def test_a_coordinator_whose_clock_was_set_back_or_ahead_signs_what_holds(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        clock = SimClock(loop)
        fabric = Fabric(tmp_path, clock=clock)
        coordinator = Coordinator(fabric, clock, ttl_ms=3_600_000)
        for skew_ms in (-(10**10), -3_600_000, 0, 7_200_000):
            clock.skew_ms = skew_ms
            said = grants(fabric).granted(coordinator.grant(1, WANTED))
            assert said.assignments == (WANTED,)
            assert said.lease.expires_at_ms - said.lease.issued_at_ms == 24 * 3_600_000

    run(story)


def test_a_node_that_runs_nothing_needs_no_renewal(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        coordinator = Coordinator(Fabric(tmp_path, clock=SimClock(loop)), SimClock(loop))
        coordinator.granting.grant(1, [])
        await asyncio.sleep(7_200)
        assert not coordinator.granting.renewal_due()
        coordinator.granting.grant(2, [WANTED])
        await asyncio.sleep(3_600)
        assert coordinator.granting.renewal_due()

    run(story)


def test_equal_assignments_have_equal_bytes(tmp_path: Path) -> None:
    """So that a renewal of one coordinator holds for the set that another one sent."""
    fabric = Fabric(tmp_path)
    one, two = Coordinator(fabric, fabric.clock, name="c1"), Coordinator(fabric, fabric.clock, name="c2")
    assert one.grant(1, WANTED).assignments == two.grant(9, WANTED).assignments


# A session ---------------------------------------------------------------------------------------------------


class _Hub(SessionHub):
    """One that may know no leader."""

    alone = False

    def _leaderless(self) -> bool:
        return self.alone


class Session:
    """A real hub and a real agent on virtual time, one stream between the two; a workload with one replica."""

    def __init__(self, node: LeasedNode, hub: _Hub) -> None:
        self.node = node
        self.hub = hub
        self.sent: list[pb.ConnectResponse] = []
        self.hello = pb.Hello()

    async def connected(self, *, signed: bool = True) -> None:
        """Runs until the stream breaks."""
        near, far = pair(64)
        serving = asyncio.ensure_future(self.hub.serve("n1", far))
        receive = near.receive

        async def noted() -> pb.ConnectResponse | None:
            message = await receive()
            if message is not None:
                self.sent.append(message)
            return message

        near.receive = noted  # type: ignore[method-assign]
        info = DeviceInfo(
            device_class=DeviceClass.SERVER,
            arch="amd64",
            capacity=ResourceAmounts(cpu_millis=4000, memory_bytes=2**32),
            runtimes=(RuntimeInfo(name="fake", available=True),),
        )
        services = LinkServices(
            node=self.node.supervisor,
            clock=self.node.clock,
            boot_id="b",
            instance_id="i",
            device=lambda: info,
            usage=NodeUsage,
            open_channel=lambda message, stream: None,
            learn_coordinators=lambda addresses: None,
            grants=self.node.grants if signed else None,
            journal_refused=lambda: self.node.supervisor._journal.refused,
        )
        link = Link(near, services, on_doubt=lambda: None)  # type: ignore[arg-type]
        try:
            await link.greet()
            with contextlib.suppress(Unavailable, ExceptionGroup):
                await link.run()
        finally:
            near.break_off()
            await asyncio.gather(serving, return_exceptions=True)

    async def placed(self, store: Store) -> None:  # type: ignore[type-arg]
        """Once the node is ready, the workload's replica is placed on it, and runs."""
        watch = store.watch()
        while store.snapshot.state.nodes["n1"].state is not NodeState.READY:
            await anext(watch)
        watch.close()
        plan = (c.PlannedReplica("web-1", 1, PlacementDecision(node_id="n1")),)
        await store.propose(c.ApplyPlan("default", "web", 0, replicas=plan), actor="user/admin")
        assert "web-1" in store.snapshot.state.replicas
        await self.node.until_phase("web-1", ReplicaPhase.READY)

    def kinds(self) -> list[str]:
        return [str(message.WhichOneof("message")) for message in self.sent]


async def _session(loop: asyncio.AbstractEventLoop, directory: Path, *, lease_ms: int) -> tuple[Session, Store]:  # type: ignore[type-arg]
    node = LeasedNode(loop, directory)
    disk = SimDisk(1)
    store = await Store.open(
        directory / "log",
        machine=FabricMachine("fabric.example"),
        clock=node.true_clock,
        filesystem=disk,
        run_blocking=disk.run_blocking,
        seconds=disk.seconds,
    )
    now_ms = node.true_clock.now_ms()
    token = JoinToken(id="t", node_pattern="*", max_uses=9, created_at_ms=now_ms, expires_at_ms=now_ms + 10**9)
    await store.propose(c.CreateToken(token), actor="user/admin")
    await store.propose(c.EnrollNode("t", "n1", "k", "s1", token.expires_at_ms), actor="user/admin")
    hub = _Hub(store, node.true_clock, SessionConfig(), (), coordinator_id="c1", signer=node.coordinator.signer)
    await hub.start()
    spec = WorkloadSpec(
        containers=(Container(name="web", image="web:1"),),
        replicas=1,
        disruption=Disruption(lease_duration_ms=lease_ms),
    )
    await store.propose(c.PutWorkload(Metadata(name="web", namespace="default"), spec), actor="user/admin")
    return Session(node, hub), store


def test_a_connected_node_is_renewed_and_runs_on_when_its_coordinator_falls(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        session, store = await _session(loop, tmp_path, lease_ms=120_000)
        node = session.node
        async with node.agent():
            connected = asyncio.ensure_future(session.connected())
            await session.placed(store)
            await asyncio.sleep(1_800)
            renewals = session.kinds().count("lease_renewal")
            assert session.kinds().count("signed_assignments") == 2  # nothing, then the replica
            assert "assignments" not in session.kinds()
            assert 60 <= renewals <= 80  # 1,800 s at 22.5 to 30 s each, on the next heartbeat
            assert node.starts() == {"web-1": 1}
            last = node.supervisor._tenure.lease
            assert last is not None
            connected.cancel()
            await asyncio.gather(connected, return_exceptions=True)
            await asyncio.sleep(80)
            assert node.runs() == ["web-1"]
            await asyncio.sleep(60)
            assert node.runs() == []
            connected = asyncio.ensure_future(session.connected())
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert node.starts() == {"web-1": 2}
            await asyncio.sleep(5)
            assert store.snapshot.state.replicas["web-1"].status.phase is ReplicaPhase.READY
            events = store.snapshot.state.events
            assert any(e.type == "replica.restarted" and "LeaseExpired" in e.description for e in events)
            connected.cancel()
            await asyncio.gather(connected, return_exceptions=True)
        await session.hub.close()
        await store.close()

    run(story)


def test_a_coordinator_without_a_leader_renews_nothing(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        session, store = await _session(loop, tmp_path, lease_ms=120_000)
        node = session.node
        async with node.agent():
            connected = asyncio.ensure_future(session.connected())
            await session.placed(store)
            session.hub.alone = True
            await asyncio.sleep(110)
            assert node.runs() == ["web-1"]
            await asyncio.sleep(20)
            assert node.runs() == []
            session.hub.alone = False
            await node.until_phase("web-1", ReplicaPhase.READY)
            assert "lease_renewal" in session.kinds()
            assert session.kinds().count("signed_assignments") == 2
            connected.cancel()
            await asyncio.gather(connected, return_exceptions=True)
        await session.hub.close()
        await store.close()

    run(story)


def test_an_agent_that_knows_no_signatures_is_told_as_before(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        session, store = await _session(loop, tmp_path, lease_ms=120_000)
        async with session.node.agent():
            connected = asyncio.ensure_future(session.connected(signed=False))
            await session.placed(store)
            await asyncio.sleep(600)
            assert session.node.runs() == ["web-1"]
            assert "assignments" in session.kinds()
            assert not {"signed_assignments", "lease_renewal"} & set(session.kinds())
            connected.cancel()
            await asyncio.gather(connected, return_exceptions=True)
        await session.hub.close()
        await store.close()

    run(story)


def test_what_does_not_verify_is_not_acted_on(tmp_path: Path) -> None:
    """A coordinator of another authority cannot be on the stream; were it, the node would stay with what it has."""

    async def story(loop: asyncio.AbstractEventLoop) -> None:
        session, store = await _session(loop, tmp_path, lease_ms=120_000)
        node = session.node
        node.grants = grants(Fabric(tmp_path / "other", clock=node.true_clock))
        async with node.agent() as supervisor:
            connected = asyncio.ensure_future(session.connected())
            await asyncio.sleep(60)
            assert "signed_assignments" in session.kinds()
            assert (node.runs(), supervisor.revision) == ([], 0)
            connected.cancel()
            await asyncio.gather(connected, return_exceptions=True)
        await session.hub.close()
        await store.close()

    run(story)


def test_a_journal_that_was_altered_is_an_event_once_the_node_is_back(tmp_path: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        session, store = await _session(loop, tmp_path, lease_ms=120_000)
        node = session.node
        async with node.agent():
            connected = asyncio.ensure_future(session.connected())
            await session.placed(store)
            connected.cancel()
            await asyncio.gather(connected, return_exceptions=True)
        path = node.journal / ASSIGNMENTS
        _, _, payload = path.read_bytes().partition(b"\n")
        path.write_bytes(frame(payload.replace(b"web:1", b"bad:1"), fabric="f", version=2))
        async with node.agent():
            assert node.runs() == ["web-1"]
            for _ in range(3):
                connected = asyncio.ensure_future(session.connected())
                await asyncio.sleep(5)
                connected.cancel()
                await asyncio.gather(connected, return_exceptions=True)
            assert node.starts() == {"web-1": 1}
        told = [e for e in store.snapshot.state.events if e.type == "security.journal_refused"]
        assert [(e.resource, e.metadata["reason"]) for e in told] == [("node/n1", "AssignmentsAltered")]
        await session.hub.close()
        await store.close()

    run(story)
