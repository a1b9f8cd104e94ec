"""The session hub over the real store, on virtual time: connect, assign, report, fall silent, return, leave."""

import asyncio
import contextlib
import dataclasses

import pytest

from cloudless.api.v1 import session_pb2 as pb
from cloudless.api.v1.convert import from_proto, to_proto
from cloudless.api.v1.types_pb2 import DeviceInfo as DeviceMessage
from cloudless.api.v1.types_pb2 import NodeUsage as UsageMessage
from cloudless.api.v1.types_pb2 import ReplicaStatus as StatusMessage
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
    OwnerTerms,
    PlacementDecision,
    ReplicaPhase,
    ReplicaStatus,
    Severity,
)
from cloudless.core.spec import Container, Metadata, ResourceAmounts, WorkloadSpec
from cloudless.errors import (
    DeadlineExceeded,
    DiskFull,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
)
from cloudless.testing.disk import SimDisk
from cloudless.testing.simloop import SimClock, run
from cloudless.testing.streams import pair

CONFIG = SessionConfig(heartbeat_interval_ms=1000, heartbeat_misses=4, node_lease_ms=60_000)
DEVICE = DeviceInfo(
    device_class=DeviceClass.SERVER, arch="amd64", capacity=ResourceAmounts(cpu_millis=4000, memory_bytes=2**32)
)
ADMIN = "user/admin"


class Agent:
    """The other end of a session: keeps what it was sent, sends what it is told."""

    def __init__(self, rig, name, *, instance="i1", boot="b1", address="", capacity=64):
        self.rig = rig
        self.boot = boot
        self.name = name
        self.instance = instance
        self.near, far = pair(capacity)
        self.serving = asyncio.ensure_future(rig.hub.serve(name, far, address=address))
        self.received = []
        self.arrived = asyncio.Event()
        self.reading = asyncio.ensure_future(self._read())
        self.beating = None

    async def _read(self):
        with contextlib.suppress(Unavailable):
            while (message := await self.near.receive()) is not None:
                self.received.append(message)
                self.arrived.set()

    async def hello(self, *, device=DEVICE, skew_ms=0):
        hello = pb.Hello(boot_id=self.boot, instance_id=self.instance, wall_clock_ms=self.rig.clock.now_ms() + skew_ms)
        if device is not None:
            hello.device.CopyFrom(to_proto(device, DeviceMessage))
        await self.near.send(pb.ConnectRequest(hello=hello))
        return self

    async def beat(self, sequence=1, usage=None):
        heartbeat = pb.Heartbeat(sequence=sequence)
        if usage is not None:
            heartbeat.usage.CopyFrom(to_proto(usage, UsageMessage))
        await self.near.send(pb.ConnectRequest(heartbeat=heartbeat))

    def keep_beating(self, every_s=1):
        async def beats():
            with contextlib.suppress(Unavailable):
                for sequence in range(1, 10_000):
                    await self.beat(sequence)
                    await asyncio.sleep(every_s)

        self.beating = asyncio.ensure_future(beats())
        return self

    async def report(self, *rows, sequence=1, full=False):
        """Rows of (replica id, ReplicaStatus or None for gone)."""
        report = pb.ReplicaReport(sequence=sequence, full=full)
        for replica_id, status in rows:
            observation = report.replicas.add(replica_id=replica_id, gone=status is None)
            if status is not None:
                observation.status.CopyFrom(to_proto(status, StatusMessage))
        await self.near.send(pb.ConnectRequest(report=report))

    def of(self, kind):
        return [getattr(m, kind) for m in self.received if m.WhichOneof("message") == kind]

    async def until(self, kind, test=lambda message: True):
        """The first message of this kind that passes, waiting for it."""
        while True:
            self.arrived.clear()
            for message in self.of(kind):
                if test(message):
                    return message
            await asyncio.wait_for(self.arrived.wait(), 60)

    def vanish(self):
        """As when its process is killed: the stream breaks."""
        if self.beating is not None:
            self.beating.cancel()
        self.near.break_off()

    def fall_silent(self):
        self.beating.cancel()


class Rig:
    """A coordinator's store and hub on virtual time."""

    def __init__(self, loop, directory):
        self.loop = loop
        self.clock = SimClock(loop)
        self.directory = directory
        self.disk = SimDisk(1)
        self.addresses = []
        self.store = None
        self.hub = None

    async def open(self, config=CONFIG):
        self.store = await Store.open(
            self.directory,
            machine=FabricMachine("fabric.example"),
            clock=self.clock,
            filesystem=self.disk,
            run_blocking=self.disk.run_blocking,
            seconds=self.disk.seconds,
        )
        self.hub = SessionHub(self.store, self.clock, config, self.addresses, coordinator_id="c1")
        await self.hub.start()
        return self

    async def close(self):
        await self.hub.close()
        await self.store.close()
        self.store.snapshot.state.validate()

    async def propose(self, command):
        return await self.store.propose(command, actor=ADMIN)

    async def enroll(self, *names):
        token = JoinToken(
            id="t",
            node_pattern="*",
            max_uses=1000,
            created_at_ms=self.clock.now_ms(),
            expires_at_ms=self.clock.now_ms() + 10**9,
        )
        if "t" not in self.state.tokens:
            await self.propose(c.CreateToken(token))
        for name in names:
            await self.propose(c.EnrollNode("t", name, "k", "s1", token.expires_at_ms))

    async def deploy(self, *replica_ids, node="n1", name="web"):
        spec = WorkloadSpec(containers=(Container(name="web", image="web:1"),), replicas=len(replica_ids))
        await self.propose(c.PutWorkload(Metadata(name=name, namespace="default"), spec))
        generation = self.state.workloads["default", name].generation
        planned = [c.PlannedReplica(i, generation, PlacementDecision(node_id=node)) for i in replica_ids]
        await self.propose(c.ApplyPlan("default", name, 0, replicas=tuple(planned)))
        assert all(self.state.replicas[i].node_id == node for i in replica_ids)

    @property
    def state(self):
        return self.store.snapshot.state

    def node(self, name="n1"):
        return self.state.nodes[name]

    async def until(self, test):
        """Waits, on the store's changes, until the state passes; the virtual time that it took, in ms."""
        began_ms = self.clock.monotonic_ms()
        watch = self.store.watch()
        while not test(self.state):
            await asyncio.wait_for(anext(watch), 600)
        watch.close()
        return self.clock.monotonic_ms() - began_ms

    async def until_node(self, state, name="n1"):
        return await self.until(lambda s: s.nodes[name].state is state)


def scenario(test):
    """Runs an async test on a fresh rig with virtual time; every state ends valid."""

    def wrapped(tmp_path):
        async def main(loop):
            rig = await Rig(loop, tmp_path / "log").open()
            await rig.enroll("n1", "n2")
            await test(rig)
            await rig.close()

        run(main)

    wrapped.__name__ = test.__name__
    wrapped.__doc__ = test.__doc__
    return wrapped


def status(phase, **fields):
    return ReplicaStatus(phase=phase, **fields)


@scenario
async def test_welcome_then_assignments_and_the_node_is_ready(rig):
    rig.addresses.append("192.0.2.1:8443")  # known once the listener has its port
    agent = await Agent(rig, "n1").hello(skew_ms=-5000)
    welcome = await agent.until("welcome")
    assert (welcome.coordinator_id, welcome.heartbeat_interval_ms) == ("c1", 1000)
    assert (list(welcome.coordinators), welcome.wall_clock_ms) == (["192.0.2.1:8443"], rig.clock.now_ms())
    first = await agent.until("assignments")
    assert (len(first.assignments), first.revision > 0) == (0, True)
    assert [m.WhichOneof("message") for m in agent.received[:2]] == ["welcome", "assignments"]
    await rig.until_node(NodeState.READY)
    assert rig.node().device == DEVICE
    live = rig.hub.live("n1")
    assert (live.clock_skew_ms, live.usage, live.boot_id, live.instance_id) == (-5000, None, "b1", "i1")
    assert rig.hub.live("n2") is None
    assert rig.hub.connected() == {"n1"}


@scenario
async def test_heartbeats_are_acknowledged_and_never_logged(rig):
    agent = await Agent(rig, "n1").hello()
    await rig.until_node(NodeState.READY)
    index = rig.store.snapshot.index
    usage = NodeUsage(cpu_millis=100, memory_bytes=5, battery_percent=-1)
    for sequence in range(1, 30):
        await agent.beat(sequence, usage)
        await agent.until("heartbeat_ack", lambda ack, sequence=sequence: ack.sequence == sequence)
        await asyncio.sleep(1)
    assert rig.hub.usages() == {"n1": usage}
    assert rig.hub.live("n1").heartbeat_age_ms == 1000
    assert rig.node().state is NodeState.READY
    assert rig.store.snapshot.index == index


@scenario
async def test_assignments_follow_the_store_and_nothing_is_repeated(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    other = (await Agent(rig, "n2").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await rig.until_node(NodeState.READY, "n2")
    await rig.deploy("r1", "r2")
    both = await agent.until("assignments", lambda message: len(message.assignments) == 2)
    assert both.revision == rig.store.snapshot.index
    got = from_proto(both.assignments[0], Assignment)
    assert (got.replica_id, got.workload, got.namespace, got.stopping) == ("r1", "web", "default", False)
    assert got.spec.containers[0].image == "web:1"
    # Scaling and reports concern no node: nothing is sent.
    await rig.propose(c.ScaleWorkload("default", "web", 5))
    await agent.report(("r1", status(ReplicaPhase.RUNNING)))
    await agent.until("report_ack")
    await rig.propose(c.ApplyPlan("default", "web", 0, stops=(c.PlannedStop("r2", "ScaledDown"),)))
    stopping = await agent.until("assignments", lambda message: any(a.stopping for a in message.assignments))
    assert [(a.replica_id, a.stopping, a.stop_reason) for a in stopping.assignments] == [
        ("r1", False, ""),
        ("r2", True, "ScaledDown"),
    ]
    await agent.report(("r2", None), sequence=2)
    last = await agent.until(
        "assignments", lambda message: len(message.assignments) == 1 and message.revision > stopping.revision
    )
    assert [a.replica_id for a in last.assignments] == ["r1"]
    revisions = [message.revision for message in agent.of("assignments")]
    assert revisions == sorted(set(revisions))
    assert len(revisions) <= 5  # none, r1, r1+r2 (or both at once), stopping, gone
    assert len(other.of("assignments")) == 1


@scenario
async def test_only_what_is_new_becomes_an_entry(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await rig.deploy("r1", "r2")
    running = status(ReplicaPhase.RUNNING, address="10.0.0.2", since_ms=5)
    await agent.report(("r1", running), ("r2", status(ReplicaPhase.STARTING)), sequence=7, full=True)
    await agent.until("report_ack", lambda ack: ack.sequence == 7)
    assert rig.state.replicas["r1"].status == running
    assert rig.state.replicas["r2"].status.phase is ReplicaPhase.STARTING
    index = rig.store.snapshot.index
    repeats = [("r1", running), ("r2", None), ("nobody", running), ("r2", status(None))]
    await agent.report(*repeats, sequence=8)
    await agent.until("report_ack", lambda ack: ack.sequence == 8)
    assert rig.store.snapshot.index == index
    # A flood is taken in a few entries: what waits is kept by replica, the newest only.
    for sequence in range(9, 60):
        await agent.report(("r1", status(ReplicaPhase.RUNNING, restart_count=sequence)), sequence=sequence)
    await agent.until("report_ack", lambda ack: ack.sequence == 59)
    assert rig.state.replicas["r1"].status.restart_count == 59
    assert rig.store.snapshot.index - index < 52


@scenario
async def test_a_node_cannot_report_for_another(rig):
    await Agent(rig, "n1").hello()
    two = (await Agent(rig, "n2").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await rig.deploy("r1")
    before = rig.state.replicas["r1"]
    await two.report(("r1", status(ReplicaPhase.FAILED)))
    await two.until("report_ack")
    assert rig.state.replicas["r1"] == before


@scenario
async def test_a_changed_device_is_recorded_and_a_bad_one_is_not(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    on_battery = dataclasses.replace(DEVICE, power_source="battery")
    await agent.near.send(pb.ConnectRequest(device=to_proto(on_battery, DeviceMessage)))
    await rig.until(lambda s: s.nodes["n1"].device == on_battery)
    bad = dataclasses.replace(DEVICE, capacity=ResourceAmounts(cpu_millis=-1))
    await agent.near.send(pb.ConnectRequest(device=to_proto(bad, DeviceMessage)))
    index = rig.store.snapshot.index
    await asyncio.sleep(30)
    assert rig.node().device == on_battery
    assert rig.node().state is NodeState.READY
    assert rig.store.snapshot.index - index < 4  # refused once, not tried for ever
    await agent.near.send(pb.ConnectRequest(device=to_proto(DEVICE, DeviceMessage)))
    await rig.until(lambda s: s.nodes["n1"].device == DEVICE)


@scenario
async def test_silence_is_noticed_then_the_lease_ends(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await asyncio.sleep(150)  # long enough to trust the link
    agent.fall_silent()
    took_ms = await rig.until_node(NodeState.UNREACHABLE)
    assert 1300 <= took_ms <= 2500
    assert "no heartbeat" in rig.node().state_reason
    took_ms = await rig.until_node(NodeState.LOST)
    assert 59_000 <= took_ms <= 61_000
    # It speaks again on the same stream.
    await agent.beat(77)
    assert await rig.until_node(NodeState.READY) < 200
    types = [event.type for event in rig.state.events]
    assert [t for t in types if t in ("node.unreachable", "node.lost", "node.returned")] == [
        "node.unreachable",
        "node.lost",
        "node.returned",
    ]


@scenario
async def test_a_broken_stream_is_noticed_sooner_and_a_quick_return_is_none(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    agent.vanish()
    await agent.serving
    assert rig.hub.live("n1") is None
    await asyncio.sleep(0.5)
    again = (await Agent(rig, "n1", instance="i2").hello()).keep_beating()
    await asyncio.sleep(5)
    assert rig.node().state is NodeState.READY
    assert "node.unreachable" not in [event.type for event in rig.state.events]
    again.vanish()
    assert 900 <= await rig.until_node(NodeState.UNREACHABLE) <= 1200
    assert rig.node().state_reason == "its connection broke"


@scenario
async def test_a_third_of_the_heartbeats_lost_is_no_reason(rig):
    agent = await Agent(rig, "n1").hello()
    await rig.until_node(NodeState.READY)
    for second in range(300):
        if second % 10 not in (3, 4, 7):
            await agent.beat(second)
        await asyncio.sleep(1)
    assert "node.unreachable" not in [event.type for event in rig.state.events]


@scenario
async def test_goodbye_is_immediate(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await agent.near.send(pb.ConnectRequest(goodbye=pb.Goodbye(reason="shutting down")))
    assert await rig.until_node(NodeState.UNREACHABLE) < 150
    assert rig.node().state_reason == "left: shutting down"
    await agent.serving
    back = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    back.vanish()


def test_after_a_restart_every_node_has_time_to_come_back(tmp_path):
    async def main(loop):
        rig = await Rig(loop, tmp_path).open()
        await rig.enroll("n1", "n2")
        agents = [(await Agent(rig, name).hello()).keep_beating() for name in ("n1", "n2")]
        for name in ("n1", "n2"):
            await rig.until_node(NodeState.READY, name)
        await rig.close()
        for agent in agents:
            with pytest.raises(Unavailable) as caught:
                await agent.serving
            assert caught.value.reason == "ShuttingDown"
            agent.beating.cancel()
        with pytest.raises(Unavailable):
            await rig.hub.serve("n1", pair()[0])
        await asyncio.sleep(3600)  # however long it was away
        await rig.open()
        assert rig.node().state is NodeState.READY
        await asyncio.sleep(8)
        returned = (await Agent(rig, "n1").hello()).keep_beating()
        took_ms = await rig.until_node(NodeState.UNREACHABLE, "n2")
        assert 3000 <= took_ms <= 4500  # 12 s in all
        assert "since the coordinator started" in rig.node("n2").state_reason
        assert await rig.until_node(NodeState.LOST, "n2") >= 59_000
        assert rig.node("n1").state is NodeState.READY
        returned.vanish()
        await rig.close()
        # A node that was recorded as unreachable gets its whole lease again.
        await rig.open()
        took_ms = await rig.until_node(NodeState.UNREACHABLE, "n1")
        await rig.close()
        await rig.open()
        assert await rig.until_node(NodeState.LOST, "n1") >= 59_000
        await rig.close()

    run(main)


@scenario
async def test_the_newest_session_wins(rig):
    old = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    moved = (await Agent(rig, "n1").hello()).keep_beating()  # same agent: a new connection
    await moved.until("assignments")
    assert await old.serving is None
    await asyncio.sleep(10)
    assert rig.hub.live("n1").heartbeat_age_ms <= 1000
    assert rig.node().state is NodeState.READY
    assert "node.unreachable" not in [event.type for event in rig.state.events]


@scenario
async def test_a_second_agent_with_the_identity_is_refused_and_the_operator_told(rig):
    first = (await Agent(rig, "n1", address="ipv4:192.0.2.1:1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    for turn in range(5):  # it tries again and again
        began_ms = rig.clock.monotonic_ms()
        twin = await Agent(rig, "n1", instance="i2", boot="b2", address="ipv4:192.0.2.2:1").hello()
        with pytest.raises(FailedPrecondition) as caught:
            await twin.serving
        assert (caught.value.reason, bool(caught.value.remedy)) == ("IdentityInUse", True)
        assert 1000 <= rig.clock.monotonic_ms() - began_ms <= 2300
        assert twin.received == []
        await asyncio.sleep(turn)
    told = [event for event in rig.state.events if event.type == "security.identity_conflict"]
    assert [(event.resource, event.severity) for event in told] == [("node/n1", Severity.WARNING)]
    assert dict(told[0].metadata) == {
        "address": "ipv4:192.0.2.1:1",
        "boot_id": "b1",
        "instance_id": "i1",
        "refused_address": "ipv4:192.0.2.2:1",
        "refused_boot_id": "b2",
        "refused_instance_id": "i2",
    }
    assert not first.serving.done()
    await asyncio.sleep(60)
    twin = await Agent(rig, "n1", instance="i3").hello()
    with pytest.raises(FailedPrecondition):
        await twin.serving
    await rig.until(lambda s: [e.type for e in s.events].count("security.identity_conflict") == 2)
    assert (rig.hub.live("n1").instance_id, rig.node().state) == ("i1", NodeState.READY)


@pytest.mark.parametrize("boot", ["b1", "b2"])
def test_an_agent_that_was_restarted_gets_in_at_once(boot, tmp_path):
    @scenario
    async def story(rig):
        former = (await Agent(rig, "n1").hello()).keep_beating()
        await rig.until_node(NodeState.READY)
        await asyncio.sleep(7.3)
        again = (await Agent(rig, "n1", instance="i2", boot=boot).hello()).keep_beating()
        await asyncio.sleep(0.05)  # its connection is given up a moment later
        former.vanish()
        began_ms = rig.clock.monotonic_ms()
        await again.until("welcome")
        assert rig.clock.monotonic_ms() - began_ms <= 10
        await asyncio.sleep(10)
        assert (rig.hub.live("n1").instance_id, rig.node().state) == ("i2", NodeState.READY)
        assert not {"security.identity_conflict", "node.unreachable"} & {event.type for event in rig.state.events}

    story(tmp_path)


@pytest.mark.parametrize("away_s", [0.2, 1.5, 3.9, 4.1, 60])
@pytest.mark.parametrize("boot", ["b1", "b2"])
def test_after_a_power_cut_the_half_open_session_gives_way_within_the_timeout(boot, away_s, tmp_path):
    @scenario
    async def story(rig):
        former = (await Agent(rig, "n1").hello()).keep_beating()
        await rig.until_node(NodeState.READY)
        await asyncio.sleep(7.3)
        former.fall_silent()
        await asyncio.sleep(away_s)
        began_ms = rig.clock.monotonic_ms()
        again = (await Agent(rig, "n1", instance="i2", boot=boot).hello()).keep_beating()
        await again.until("welcome")
        assert rig.clock.monotonic_ms() - began_ms <= max(4010 - away_s * 1000, 10)
        with pytest.raises(FailedPrecondition) as caught:
            await former.serving
        assert caught.value.reason == "SessionReplaced"
        await rig.until_node(NodeState.READY)
        assert "security.identity_conflict" not in [event.type for event in rig.state.events]

    story(tmp_path)


@scenario
async def test_what_the_former_self_had_sent_does_not_speak_against_the_newcomer(rig):
    former = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await asyncio.sleep(7.3)
    former.fall_silent()
    again = await Agent(rig, "n1", instance="i2").hello()
    await asyncio.sleep(0.3)
    await former.beat(99)
    await again.until("welcome")
    assert rig.hub.live("n1").instance_id == "i2"


@scenario
async def test_who_is_not_a_member_is_refused(rig):
    with pytest.raises(PermissionDenied) as caught:
        await Agent(rig, "stranger").serving
    assert caught.value.reason == "NodeRemoved"
    good = await Agent(rig, "n1").hello()
    await good.until("welcome")


@scenario
async def test_a_removed_node_is_thrown_out(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await rig.propose(c.RemoveNode("n1"))
    with pytest.raises(PermissionDenied) as caught:
        await agent.serving
    assert caught.value.reason == "NodeRemoved"
    assert rig.hub.live("n1") is None
    await asyncio.sleep(20)
    assert "n1" not in rig.state.nodes
    assert set(rig.hub._leases._contacts) <= {"n2"}


@scenario
async def test_breaches_of_the_protocol(rig):
    silent = Agent(rig, "n1")
    with pytest.raises(DeadlineExceeded):
        await silent.serving
    rude = Agent(rig, "n1")
    await rude.beat()
    with pytest.raises(InvalidArgument) as caught:
        await rude.serving
    assert caught.value.reason == "HelloExpected"
    twice = await (await Agent(rig, "n1").hello()).hello()
    with pytest.raises(InvalidArgument) as caught:
        await twice.serving
    assert caught.value.reason == "UnexpectedHello"
    huge = await Agent(rig, "n1").hello(device=dataclasses.replace(DEVICE, addresses=("x" * 70_000,)))
    with pytest.raises(InvalidArgument) as caught:
        await huge.serving
    assert caught.value.reason == "DeviceTooLarge"
    gone = Agent(rig, "n1")
    await gone.near.close()
    assert await gone.serving is None
    assert rig.hub.connected() == frozenset()


@scenario
async def test_a_slow_reader_holds_up_nobody(rig):
    """It takes no message; its heartbeats still count, and the other node is served."""
    near, far = pair(1)
    serving = asyncio.ensure_future(rig.hub.serve("n1", far))
    await near.send(pb.ConnectRequest(hello=pb.Hello(instance_id="i1", device=to_proto(DEVICE, DeviceMessage))))
    other = (await Agent(rig, "n2").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await rig.until_node(NodeState.READY, "n2")
    for sequence in range(20):
        await near.send(pb.ConnectRequest(heartbeat=pb.Heartbeat(sequence=sequence)))
        await rig.deploy(f"r{sequence}", node="n2", name=f"w{sequence}")
        await asyncio.sleep(1)
    await other.until("assignments", lambda message: len(message.assignments) == 20)
    assert rig.node("n1").state is NodeState.READY
    assert not serving.done()
    kinds = []
    for _ in range(3):
        message = await near.receive()
        kinds.append(message.WhichOneof("message"))
    assert kinds == ["welcome", "assignments", "heartbeat_ack"]
    assert message.heartbeat_ack.sequence == 19  # one acknowledgement for all


@scenario
async def test_reports_survive_a_full_disk(rig):
    agent = (await Agent(rig, "n1").hello()).keep_beating()
    await rig.until_node(NodeState.READY)
    await rig.deploy("r1")
    rig.disk.capacity_bytes = 0
    with pytest.raises(DiskFull):
        await rig.propose(c.NoOp())
    await agent.report(("r1", status(ReplicaPhase.STARTING)), sequence=1)
    await asyncio.sleep(5)
    await agent.report(("r1", status(ReplicaPhase.RUNNING)), sequence=2)
    await asyncio.sleep(5)
    assert agent.of("report_ack") == []
    assert agent.of("heartbeat_ack")[-1].sequence > 5  # the session goes on
    rig.disk.capacity_bytes = None
    await agent.until("report_ack", lambda ack: ack.sequence == 2)
    assert rig.state.replicas["r1"].status.phase is ReplicaPhase.RUNNING


def test_a_storm_of_reconnects(tmp_path):
    """Forty nodes that come, break, and come again in any order end up ready, each with one session."""

    async def main(loop):
        rig = await Rig(loop, tmp_path).open()
        names = [f"n{i}" for i in range(40)]
        await rig.enroll(*names)
        agents = {}
        for turn in range(5):
            for at, name in enumerate(names):
                instance = f"{turn}"
                if name in agents and (turn + at) % 3:
                    agents[name].vanish()
                elif name in agents:
                    instance = agents[name].instance  # the same agent, over a new connection
                agents[name] = (await Agent(rig, name, instance=instance).hello()).keep_beating()
            await asyncio.sleep(0.3)
        for name in names:
            await rig.until_node(NodeState.READY, name)
        await asyncio.sleep(30)
        assert rig.hub.connected() == frozenset(names)
        assert all(rig.hub.live(name).instance_id == agents[name].instance for name in names)
        assert all(node.state is NodeState.READY for node in rig.state.nodes.values())
        await rig.close()

    run(main)


@scenario
async def test_a_change_of_address_keeps_identity_work_and_session(rig):
    """From the office to the train: the same agent dials from elsewhere, and its old connection hangs."""
    office = dataclasses.replace(DEVICE, addresses=("192.0.2.7",))
    train = dataclasses.replace(DEVICE, addresses=("198.51.100.9",))
    old = (await Agent(rig, "n1", address="ipv4:192.0.2.7:1").hello(device=office)).keep_beating()
    await rig.until_node(NodeState.READY)
    await rig.deploy("r1")
    await old.until("assignments", lambda message: len(message.assignments) == 1)
    await old.report(("r1", status(ReplicaPhase.READY)))
    await old.until("report_ack")
    old.fall_silent()
    new = (await Agent(rig, "n1", address="ipv4:198.51.100.9:1").hello(device=train)).keep_beating()
    assert await old.serving is None
    assert len((await new.until("assignments")).assignments) == 1
    await rig.until(lambda state: state.nodes["n1"].device == train)
    await asyncio.sleep(20)
    assert rig.state.replicas["r1"].status.phase is ReplicaPhase.READY
    assert (rig.state.replicas["r1"].node_id, rig.node().state) == ("n1", NodeState.READY)
    types = {event.type for event in rig.state.events}
    assert not {"node.unreachable", "security.identity_conflict"} & types
    assert [event.type for event in rig.state.events].count("node.enrolled") == 2  # n1 and n2, once each


@scenario
async def test_a_wrong_clock_is_measured_recorded_and_told(rig):
    agent = await Agent(rig, "n1").hello(skew_ms=-5000)
    await rig.until_node(NodeState.READY)
    assert rig.node().clock_skew_ms == -5000
    index = rig.store.snapshot.index

    async def beat(sequence, skew_ms):
        beat = pb.Heartbeat(sequence=sequence, wall_clock_ms=rig.clock.now_ms() + skew_ms)
        await agent.near.send(pb.ConnectRequest(heartbeat=beat))
        await agent.until("heartbeat_ack", lambda ack: ack.sequence == sequence)
        await asyncio.sleep(1)

    for sequence in range(1, 20):  # some heartbeats were long on their way
        await beat(sequence, -5000 - 700 * (sequence % 5))
    assert rig.store.snapshot.index == index
    assert rig.hub.live("n1").clock_skew_ms == -5000
    await beat(20, 8000)  # its clock was set, wrongly
    assert rig.node().clock_skew_ms == 8000
    assert [e.severity for e in rig.state.events if e.type == "node.clock_skewed"] == [Severity.WARNING]
    for sequence in range(21, 40):
        await beat(sequence, 20)
    assert rig.node().clock_skew_ms == 20


@scenario
async def test_an_owner_is_left_out_until_every_coordinator_understands_it(rig):
    await rig.propose(c.AnnounceCoordinator(coordinator_id="c1", version="0.2", log_schema=2))
    owned = dataclasses.replace(DEVICE, owner=OwnerTerms(accepting=True))
    await Agent(rig, "n1").hello(device=owned, skew_ms=9000)
    await rig.until_node(NodeState.READY)
    node = rig.node()
    assert (node.device, node.reliability, node.presence, node.clock_skew_ms) == (DEVICE, None, None, 0)
    await rig.propose(c.AnnounceCoordinator(coordinator_id="c1", version="0.3", log_schema=3))
    await rig.until(lambda state: state.nodes["n1"].device == owned)
    node = rig.node()
    assert (node.reliability.first_ready_at_ms > 0, node.clock_skew_ms) == (True, 9000)


def test_steady_nodes_are_recorded_now_and_then_and_failed_starts_soon(tmp_path):
    async def story(rig):
        agent = (await Agent(rig, "n1").hello()).keep_beating(every_s=60)
        await rig.until_node(NodeState.READY)
        first = rig.node().reliability
        assert (first.available_permille, first.losses_milli, first.failed_starts_milli) == (750, 0, 0)
        index = rig.store.snapshot.index
        await asyncio.sleep(2 * 3600)
        assert rig.store.snapshot.index == index
        await asyncio.sleep(5 * 3600 + 60)
        assert 1 <= rig.store.snapshot.index - index <= 2
        steady = rig.node().reliability
        assert steady.available_permille > 750
        assert rig.node().presence.online_permille.count(1000) >= 7
        await rig.deploy("r1", "r2")
        await agent.until("assignments", lambda message: len(message.assignments) == 2)
        await agent.report(
            ("r1", status(ReplicaPhase.FAILED, reason="ImagePullFailed")),
            ("r2", status(ReplicaPhase.RUNNING)),
        )
        await rig.until(lambda state: state.nodes["n1"].reliability.failed_starts_milli == 1000)
        agent.vanish()
        await rig.until_node(NodeState.UNREACHABLE)
        assert rig.node().reliability.losses_milli == 1000
        again = (await Agent(rig, "n1").hello()).keep_beating(every_s=60)
        await rig.until_node(NodeState.READY)
        assert rig.node().reliability.losses_milli == 1000
        again.vanish()

    async def main(loop):
        slow = dataclasses.replace(CONFIG, heartbeat_interval_ms=60_000)  # hours of heartbeats
        rig = await Rig(loop, tmp_path).open(slow)
        await rig.enroll("n1")
        await story(rig)
        await rig.close()

    run(main)
