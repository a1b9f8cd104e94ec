"""The agent's session over a simulated network, against a coordinator that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from cloudless.agent.link import LinkServices
from cloudless.agent.reports import ReportBook
from cloudless.agent.session import Session
from cloudless.api.v1 import session_pb2 as pb
from cloudless.core.model import Assignment, DeviceClass, DeviceInfo, NodeUsage, ReplicaPhase, ReplicaStatus
from cloudless.errors import FailedPrecondition, Unavailable
from cloudless.testing.simloop import SimClock, run
from cloudless.testing.simnet import LinkQuality, SimNetwork, SimStream


class FakeNode:
    """What a link sees of the supervisor."""

    def __init__(self) -> None:
        self.reports = ReportBook()
        self.ready = asyncio.Event()
        self.ready.set()
        self.revision = 3
        self.assigned: list[tuple[int, list[str]]] = []

    async def assign(self, revision: int, assignments: list[Assignment]) -> bool:
        self.assigned.append((revision, [a.replica_id for a in assignments]))
        self.revision = max(self.revision, revision)
        return True


class Peer:
    """One accepted session, seen from the coordinator."""

    def __init__(self, stream: SimStream, host: str, *, acks: bool = True, leaderless: set[str] | None = None) -> None:
        self.stream = stream
        self.leaderless = leaderless if leaderless is not None else set()
        self.host = host
        self.acks = acks
        self.hello = pb.Hello()
        self.got: list[pb.ConnectRequest] = []
        self.ended = asyncio.Event()
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(Unavailable):
            while (message := await self.stream.receive()) is not None:
                self.got.append(message)
                kind = message.WhichOneof("message")
                if kind == "hello":
                    self.hello = message.hello
                    leaderless = self.host in self.leaderless
                    if leaderless and message.hello.only_with_leader:
                        self.stream.break_off()
                        continue
                    welcome = pb.Welcome(
                        coordinator_id=self.host,
                        heartbeat_interval_ms=1000,
                        coordinators=["a", "b"],
                        leaderless=leaderless,
                    )
                    await self.say(welcome=welcome)
                elif kind == "heartbeat" and self.acks:
                    ack = pb.HeartbeatAck(sequence=message.heartbeat.sequence, leaderless=self.host in self.leaderless)
                    await self.say(heartbeat_ack=ack)
                elif kind == "report" and self.acks:
                    await self.say(report_ack=pb.ReportAck(sequence=message.report.sequence))
        self.ended.set()

    async def say(self, **message: Any) -> None:
        await self.stream.send(pb.ConnectResponse(**message))

    def reports(self) -> list[pb.ReplicaReport]:
        return [m.report for m in self.got if m.WhichOneof("message") == "report"]

    def heartbeats(self) -> list[pb.Heartbeat]:
        return [m.heartbeat for m in self.got if m.WhichOneof("message") == "heartbeat"]


class World:
    def __init__(self, loop: asyncio.AbstractEventLoop, *, quality: LinkQuality | None = None) -> None:
        self.network = SimNetwork(random.Random(7), quality=quality or LinkQuality())
        self.clock = SimClock(loop)
        self.node = FakeNode()
        self.peers: list[Peer] = []
        self.attempts: list[tuple[float, str]] = []
        self.down: set[str] = set()
        self.hanging: set[str] = set()  # they take the connection and say nothing
        self.leaderless: set[str] = set()
        self.addresses = ("a",)
        self.orders: list[tuple[pb.OpenChannel, Any]] = []
        self.acks = True
        self.device = DeviceInfo(device_class=DeviceClass.VPS)
        self.learnt: tuple[str, ...] = ()
        services = LinkServices(
            node=self.node,
            clock=self.clock,
            boot_id="boot",
            instance_id="instance",
            device=lambda: self.device,
            usage=lambda: NodeUsage(cpu_millis=5),
            open_channel=lambda order, stream: self.orders.append((order, stream)),
            learn_coordinators=self._learn,
        )
        self.jitter: Callable[[], float] = lambda: 0.5
        self.session = Session(self._connect, services, addresses=lambda: self.addresses, jitter=lambda: self.jitter())

    def _learn(self, addresses: tuple[str, ...]) -> None:
        self.learnt = addresses

    async def _connect(self, address: str) -> SimStream:
        self.attempts.append((asyncio.get_running_loop().time(), address))
        if address in self.down:
            raise Unavailable(f"{address} is down")
        near, far = await self.network.connect("node", address)
        if address not in self.hanging:
            self.peers.append(Peer(far, address, acks=self.acks, leaderless=self.leaderless))
        return near

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.session.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, condition: Callable[[], Any], *, limit_s: float = 100.0) -> None:
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def on_world() -> Callable[..., None]:
    def go(story: Callable[[World], Awaitable[None]], **options: Any) -> None:
        run(lambda loop: story(World(loop, **options)))  # type: ignore[arg-type,return-value]

    return go


def running(phase: ReplicaPhase = ReplicaPhase.READY) -> ReplicaStatus:
    return ReplicaStatus(phase=phase)


def test_hello_heartbeats_and_round_trips(on_world) -> None:
    async def story(w: World) -> None:
        async with w.running():
            await w.until(lambda: w.peers and len(w.peers[0].heartbeats()) >= 4)
            peer = w.peers[0]
            assert (peer.hello.boot_id, peer.hello.instance_id) == ("boot", "instance")
            assert peer.hello.assignments_revision == 3
            assert peer.hello.device.device_class
            beats = peer.heartbeats()
            assert [b.sequence for b in beats] == [1, 2, 3, 4]
            sent = [beat.wall_clock_ms for beat in beats]
            assert [round((later - earlier) / 1000) for earlier, later in itertools.pairwise(sent)] == [1, 1, 1]
            assert abs(sent[0] - peer.hello.wall_clock_ms) < 1_000
            assert beats[0].usage.rtt_us == 0
            assert 1_000 <= beats[3].usage.rtt_us <= 50_000
            assert beats[3].usage.cpu_millis == 5
            assert w.learnt == ("a", "b")

    on_world(story)


def test_everything_is_reported_after_the_welcome_then_what_changed(on_world) -> None:
    async def story(w: World) -> None:
        w.node.reports.put("r1", running())
        w.node.reports.put("r2", running())
        async with w.running():
            await w.until(lambda: w.peers and w.peers[0].reports())
            full = w.peers[0].reports()[0]
            assert full.full
            assert [r.replica_id for r in full.replicas] == ["r1", "r2"]
            w.node.reports.put("r2", running(ReplicaPhase.FAILED))
            await w.until(lambda: len(w.peers[0].reports()) == 2)
            delta = w.peers[0].reports()[1]
            assert not delta.full
            assert [r.replica_id for r in delta.replicas] == ["r2"]
            w.node.reports.put_gone("r1")
            w.node.reports.set_assigned("r1", False)
            await w.until(lambda: w.node.reports.get("r1") is None)  # acknowledged, and forgotten
            assert w.peers[0].reports()[-1].replicas[0].gone
            w.network.crash("node")
            await w.until(lambda: len(w.peers) == 2 and w.peers[1].reports())
            assert [r.replica_id for r in w.peers[1].reports()[0].replicas] == ["r2"]

    on_world(story)


def test_no_report_before_the_node_knows_what_runs(on_world) -> None:
    async def story(w: World) -> None:
        w.node.ready.clear()
        async with w.running():
            await w.until(lambda: w.peers and len(w.peers[0].heartbeats()) == 5)
            assert not w.peers[0].reports()
            w.node.reports.put("r1", running())
            w.node.ready.set()
            await w.until(lambda: w.peers[0].reports())
            assert [r.replica_id for r in w.peers[0].reports()[0].replicas] == ["r1"]

    on_world(story)


def test_reports_repeat_until_acknowledged_with_the_newest_word(on_world) -> None:
    async def story(w: World) -> None:
        w.acks = False
        async with w.running():
            await w.until(lambda: w.peers)
            peer = w.peers[0]
            heartbeat = asyncio.ensure_future(_ack_heartbeats(peer))
            w.node.reports.put("r1", running(ReplicaPhase.STARTING))
            await w.until(lambda: len(peer.reports()) == 1)
            w.node.reports.put("r1", running())
            await w.until(lambda: len(peer.reports()) == 3)
            assert all(report.full for report in peer.reports())
            assert peer.reports()[2].replicas[0].status.phase != peer.reports()[0].replicas[0].status.phase
            last = peer.reports()[-1]
            await peer.say(report_ack=pb.ReportAck(sequence=last.sequence))
            w.node.reports.put("r2", running())
            await w.until(lambda: len(peer.reports()) >= 4)
            assert not peer.reports()[-1].full
            assert [r.replica_id for r in peer.reports()[-1].replicas] == ["r2"]
            heartbeat.cancel()

    on_world(story)


async def _ack_heartbeats(peer: Peer) -> None:
    seen = 0
    while True:
        for beat in peer.heartbeats()[seen:]:
            seen += 1
            await peer.say(heartbeat_ack=pb.HeartbeatAck(sequence=beat.sequence))
        await asyncio.sleep(0.1)


def test_assignments_and_channel_orders_are_passed_on(on_world) -> None:
    async def story(w: World) -> None:
        async with w.running():
            await w.until(lambda: w.peers and w.peers[0].heartbeats())
            wanted = pb.AssignmentSet(revision=9, assignments=[pb.Assignment(replica_id="r9")])
            await w.peers[0].say(assignments=wanted)
            await w.peers[0].say(open_channel=pb.OpenChannel(channel_id="c"))
            await w.until(lambda: w.node.assigned and w.orders)
            assert w.node.assigned == [(9, ["r9"])]
            assert w.orders[0][0].channel_id == "c"
            assert w.orders[0][1] is w.session.stream

    on_world(story)


def test_a_silent_coordinator_is_left_for_another(on_world) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b")
        async with w.running():
            await w.until(lambda: w.session.connected)
            first = w.peers[0].host
            w.network.cut(first, "node")
            began = asyncio.get_running_loop().time()
            await w.until(lambda: len(w.peers) > 1 and w.session.connected and w.peers[-1].host != first, limit_s=30)
            assert asyncio.get_running_loop().time() - began < 15

    on_world(story)


def test_every_address_is_tried_with_growing_pauses(on_world) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b", "c")
        w.down = {"a", "b", "c"}
        async with w.running():
            await w.until(lambda: len(w.attempts) == 30, limit_s=1_000)
            rounds = [[a for _, a in w.attempts[i : i + 3]] for i in range(0, 30, 3)]
            assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
            times = [at for at, _ in w.attempts][::3]
            pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
            assert pauses == sorted(pauses)
            assert pauses[0] < 1
            assert 7 <= pauses[-1] <= 15
            w.down.clear()
            await w.until(lambda: w.session.connected, limit_s=20)

    on_world(story)


def test_a_flapping_coordinator_is_not_hammered(on_world) -> None:
    async def story(w: World) -> None:
        async with w.running():
            began = asyncio.get_running_loop().time()
            for count in range(1, 12):
                await w.until(lambda n=count: len(w.peers) >= n and w.session.connected, limit_s=60)
                w.network.crash("node")
            assert asyncio.get_running_loop().time() - began > 30

    on_world(story)


def test_rotation_makes_the_new_link_before_it_breaks_the_old(on_world) -> None:
    async def story(w: World) -> None:
        connected: list[bool] = []
        async with w.running():
            await w.until(lambda: w.peers and w.peers[0].reports())
            w.down = {"a"}
            w.session.rotate()  # nobody lets the new one in: the old one goes on
            await asyncio.sleep(5)
            assert w.session.connected
            assert not w.peers[0].ended.is_set()
            w.down = set()

            async def watch() -> None:
                while True:
                    connected.append(w.session.connected)
                    await asyncio.sleep(0.001)

            watching = asyncio.ensure_future(watch())
            await w.until(lambda: len(w.peers) == 2 and w.peers[1].reports())
            await w.peers[0].ended.wait()
            watching.cancel()
            assert all(connected)
            assert not any(m.WhichOneof("message") == "goodbye" for m in w.peers[0].got)

    on_world(story)


def test_goodbye_is_said_and_a_device_change_told(on_world) -> None:
    async def story(w: World) -> None:
        async with w.running():
            await w.until(lambda: w.peers and w.peers[0].heartbeats())
            w.device = DeviceInfo(device_class=DeviceClass.PHONE)
            w.session.device_changed()
            await w.until(lambda: any(m.WhichOneof("message") == "device" for m in w.peers[0].got))
            await w.session.goodbye("ends")
            await w.peers[0].ended.wait()
            assert w.peers[0].got[-1].goodbye.reason == "ends"

    on_world(story)


@pytest.mark.parametrize("seed", range(5))
def test_it_stays_connected_under_heavy_loss(on_world, seed: int) -> None:
    async def story(w: World) -> None:
        w.network._rng.seed(seed)
        async with w.running():
            await w.until(lambda: w.session.connected, limit_s=60)
            await asyncio.sleep(300)
            assert len(w.peers) <= 3

    on_world(story, quality=LinkQuality(loss=0.3))


def test_garbage_instead_of_a_welcome_is_a_failed_attempt(on_world) -> None:
    async def story(w: World) -> None:
        async def connect(address: str) -> SimStream:
            near, far = await w.network.connect("node", address)
            await far.send(pb.ConnectResponse(heartbeat_ack=pb.HeartbeatAck(sequence=1)))
            w.attempts.append((0.0, address))
            return near

        w.session._connect = connect  # type: ignore[method-assign]
        async with w.running():
            await w.until(lambda: len(w.attempts) >= 3)
            assert not w.session.connected

    on_world(story)


class Contested:
    """A stream that the coordinator ends after two seconds because another agent has this identity."""

    def __init__(self, stream: SimStream) -> None:
        self._stream = stream
        self.send, self.close = stream.send, stream.close

    async def receive(self) -> Any:
        try:
            async with asyncio.timeout(2):
                return await self._stream.receive()
        except TimeoutError:
            raise FailedPrecondition("another agent connected", reason="SessionReplaced") from None


def test_an_agent_whose_identity_is_taken_over_waits_for_minutes(on_world) -> None:
    async def story(w: World) -> None:
        w.acks = False
        plain = w.session._connect

        async def contested(address: str) -> Any:
            return Contested(await plain(address))

        w.session._connect = contested  # type: ignore[method-assign]
        async with w.running():
            await asyncio.sleep(400)
        times = [at for at, _ in w.attempts]
        pauses = [round(later - earlier - 2) for earlier, later in itertools.pairwise(times)]
        assert pauses == [45, 90, 180]  # doubling from a minute, less what the jitter takes

    on_world(story)


def test_an_agent_whose_identity_is_in_use_asks_again_after_minutes(on_world) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b")

        class Taken:
            def __init__(self, stream: SimStream) -> None:
                self.send, self.close = stream.send, stream.close

            async def receive(self) -> Any:
                raise FailedPrecondition("another agent is connected", reason="IdentityInUse", remedy="stop one")

        plain = w.session._connect

        async def refusing(address: str) -> Any:
            stream = await plain(address)
            return Taken(stream) if taken else stream

        taken = True
        w.session._connect = refusing  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as logs:
            async with w.running():
                await asyncio.sleep(400)
                times = [at for at, _ in w.attempts]
                assert [round(later - earlier) for earlier, later in itertools.pairwise(times)] == [45, 90, 180]
                taken = False
                await w.until(lambda: w.session.connected, limit_s=600)
        told = [entry for entry in logs if entry["event"] == "session.contested"]
        assert [(entry["reason"], entry["log_level"]) for entry in told] == [("IdentityInUse", "error")] * len(times)
        assert all("empty its data folder" in entry["remedy"] for entry in told)

    on_world(story)


def _now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("seed", range(3))
def test_when_its_coordinator_falls_another_is_dialled_at_once(on_world, seed: int) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b", "c")
        w.jitter = random.Random(seed).random
        async with w.running():
            for _ in range(4):
                await w.until(lambda: w.session.connected)
                host = w.peers[-1].host
                await asyncio.sleep(40)
                w.down, began, known = {host}, _now(), len(w.peers)
                w.network.crash(host)
                await w.until(lambda n=known: len(w.peers) > n and w.peers[-1].hello.instance_id)
                assert _now() - began < 0.2
                assert w.peers[-1].host != host

    on_world(story)


def test_agents_of_a_coordinator_that_fell_spread_over_the_others(on_world) -> None:
    chosen: set[str] = set()

    async def story(w: World) -> None:
        w.addresses = ("a", "b", "c")
        w.jitter = random.Random(len(chosen) * 31 + next(seeds)).random
        async with w.running():
            await w.until(lambda: w.session.connected)
            chosen.add(w.peers[0].host)

    seeds = itertools.count()
    for _ in range(20):
        on_world(story)
    assert chosen == {"a", "b", "c"}


def test_a_coordinator_that_takes_the_connection_and_says_nothing_costs_little(on_world) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b", "c")
        w.hanging = {"a", "b"}
        began = _now()
        async with w.running():
            await w.until(lambda: w.session.connected)
            assert _now() - began < 6
            assert w.peers[-1].host == "c"

    on_world(story)


def test_a_silent_coordinator_is_left_before_the_node_counts_as_unreachable(on_world) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b")
        connected: list[bool] = []
        async with w.running():
            await w.until(lambda: w.session.connected)
            await asyncio.sleep(20)
            assert len(w.peers) == 1
            w.peers[0].acks = False  # as when its process is stopped: the connection stands
            began = _now()
            while len(w.peers) == 1 or not w.peers[1].heartbeats():
                connected.append(w.session.connected)
                await asyncio.sleep(0.01)
            assert _now() - began < 5.2  # four heartbeats are missed, at most
            assert all(connected)  # the first is let go of when the second has welcomed it
            await asyncio.sleep(60)
            assert len(w.peers) == 2

    on_world(story)


def test_the_only_coordinator_is_not_given_up_so_soon(on_world) -> None:
    async def story(w: World) -> None:
        async with w.running():
            await w.until(lambda: w.session.connected)
            w.peers[0].acks = False
            await asyncio.sleep(8)
            w.peers[0].acks = True
            await asyncio.sleep(60)
            assert len(w.peers) == 1

    on_world(story)


def test_a_coordinator_without_a_leader_is_left_for_one_that_knows_it(on_world) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b", "c")
        async with w.running():
            await w.until(lambda: w.session.connected)
            w.leaderless = w.peers[0].leaderless = {"a", "b"}
            began = _now()
            await w.until(lambda: w.peers[-1].host == "c" and w.peers[-1].heartbeats())
            assert _now() - began < 6
            await asyncio.sleep(60)
            assert w.session.connected
            assert w.peers[-1].host == "c"

    on_world(story)


def test_where_nobody_knows_a_leader_it_stays_where_it_is(on_world) -> None:
    async def story(w: World) -> None:
        w.addresses = ("a", "b", "c")
        async with w.running():
            await w.until(lambda: w.session.connected)
            first = w.peers[0]
            w.leaderless = first.leaderless = {"a", "b", "c"}
            began, attempts = _now(), len(w.attempts)
            while _now() - began < 300:
                assert w.session.connected
                await asyncio.sleep(0.5)
            assert not first.ended.is_set()
            assert 10 < len(w.attempts) - attempts < 80
            # An election is no reason to move.
            first.leaderless.clear()
            await asyncio.sleep(30)
            attempts = len(w.attempts)
            for _ in range(10):
                first.leaderless.update("abc")
                await asyncio.sleep(1.5)
                first.leaderless.clear()
                await asyncio.sleep(5)
            assert len(w.attempts) == attempts

    on_world(story)


def test_new_coordinators_are_learnt_while_it_is_connected(on_world) -> None:
    async def story(w: World) -> None:
        async with w.running():
            await w.until(lambda: w.session.connected)
            await w.peers[0].say(coordinators=pb.CoordinatorList(addresses=["a", "c"]))
            await w.until(lambda: w.learnt == ("a", "c"))

    on_world(story)


@pytest.mark.parametrize("seed", range(3))
def test_heavy_loss_does_not_drive_it_from_one_to_the_other(on_world, seed: int) -> None:
    async def story(w: World) -> None:
        w.network._rng.seed(seed)
        w.addresses = ("a", "b", "c")
        async with w.running():
            await w.until(lambda: w.session.connected, limit_s=60)
            lost = 0
            for _ in range(3000):
                lost += not w.session.connected
                await asyncio.sleep(0.1)
            assert len(w.peers) <= 20
            assert lost < 100  # of 300 s

    on_world(story, quality=LinkQuality(loss=0.3))
