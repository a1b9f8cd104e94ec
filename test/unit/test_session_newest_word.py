"""What a node said to another coordinator, which stood still meanwhile, comes behind what it says here."""

import asyncio
import contextlib
from pathlib import Path

from cloudless.api.v1 import session_pb2 as pb
from cloudless.api.v1.convert import to_proto
from cloudless.api.v1.types_pb2 import DeviceInfo as DeviceMessage
from cloudless.api.v1.types_pb2 import ReplicaStatus as StatusMessage
from cloudless.config import SessionConfig
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core import defaults
from cloudless.core.model import DeviceInfo, JoinToken, PlacementDecision, ReplicaPhase, ReplicaStatus
from cloudless.core.spec import Container, Metadata, ResourceAmounts, WorkloadSpec
from cloudless.errors import Unavailable
from cloudless.testing.disk import SimDisk
from cloudless.testing.simloop import SimClock, run
from cloudless.testing.streams import pair

DEVICE = DeviceInfo(arch="amd64", capacity=ResourceAmounts(cpu_millis=4000, memory_bytes=2**32))


def reported(phase):
    return c.ReportReplicas("n1", (c.ReportedReplica("web-1", ReplicaStatus(phase=phase)),))


async def fabric(loop):
    """A hub whose node n1 has one replica, and that node's end of its session, which sends a heartbeat each second."""
    clock, disk = SimClock(loop), SimDisk(1)
    store = await Store.open(
        Path("/data"),
        machine=FabricMachine("fabric.example"),
        clock=clock,
        filesystem=disk,
        run_blocking=disk.run_blocking,
        seconds=disk.seconds,
    )
    spec = WorkloadSpec(replicas=1, containers=(Container(name="main", image="a:1"),))
    placement = PlacementDecision(node_id="n1")
    for command in (
        c.CreateToken(JoinToken(id="t1", node_pattern="*", max_uses=9, expires_at_ms=2**50)),
        c.EnrollNode(token_id="t1", node_id="n1", public_key_sha256="k"),
        c.PutWorkload(*defaults.apply(Metadata(name="web"), spec)),
    ):
        await store.propose(command, actor="user/test")
    hub = SessionHub(store, clock, SessionConfig(), ("c1:1",), coordinator_id="c1")
    await hub.start()
    near, far = pair()
    serving = asyncio.create_task(hub.serve("n1", far))
    hello = pb.Hello(boot_id="b", instance_id="i")
    hello.device.CopyFrom(to_proto(DEVICE, DeviceMessage))
    await near.send(pb.ConnectRequest(hello=hello))
    await asyncio.sleep(0.5)
    record = store.snapshot.state.workloads["default", "web"]
    planned = c.PlannedReplica("web-1", record.generation, placement)
    await store.propose(c.ApplyPlan("default", "web", replicas=(planned,)), actor="system/test")

    async def beat():
        with contextlib.suppress(Unavailable):
            for sequence in range(1, 1000):
                await near.send(pb.ConnectRequest(heartbeat=pb.Heartbeat(sequence=sequence)))
                await asyncio.sleep(1)

    async def read():
        with contextlib.suppress(Unavailable):
            while await near.receive() is not None:
                pass

    tasks = (serving, asyncio.create_task(beat()), asyncio.create_task(read()))
    return store, hub, near, tasks


def test_the_log_comes_back_to_the_newest_word_of_the_session_that_stands():
    async def story(loop):
        store, hub, near, tasks = await fabric(loop)
        report = pb.ReplicaReport(sequence=1, full=True)
        status = to_proto(ReplicaStatus(phase=ReplicaPhase.READY), StatusMessage)
        report.replicas.add(replica_id="web-1", status=status)
        await near.send(pb.ConnectRequest(report=report))
        await asyncio.sleep(1.5)

        def phase():
            return store.snapshot.state.replicas["web-1"].status.phase

        assert phase() is ReplicaPhase.READY
        await store.propose(reported(ReplicaPhase.PREPARING), actor="node/n1")
        assert phase() is ReplicaPhase.PREPARING
        await asyncio.sleep(1.1)
        assert phase() is ReplicaPhase.READY
        settled = store.snapshot.index
        await asyncio.sleep(10)
        assert store.snapshot.index == settled, "the same is said again and again"
        await hub.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()

    run(story)
