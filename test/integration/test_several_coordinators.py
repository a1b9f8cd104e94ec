"""Three coordinators in one process, with gRPC and mTLS between them, as agents and people see them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from cloudless.api.v1 import control_pb2, control_pb2_grpc, member_pb2, member_pb2_grpc, session_pb2, session_pb2_grpc
from cloudless.api.v1.convert import to_proto
from cloudless.api.v1.types_pb2 import DeviceInfo as DeviceMessage
from cloudless.api.v1.types_pb2 import NodeUsage
from cloudless.clock import SystemClock
from cloudless.core.model import DeviceInfo, NodeState, RuntimeInfo
from cloudless.core.spec import ResourceAmounts
from cloudless.ctl.client import Client
from cloudless.errors import FailedPrecondition, PermissionDenied
from cloudless.identity.channel import CONSISTENCY_METADATA, STALE
from cloudless.testing.coordinator import Cluster, RunningCoordinator, eventually, failure_of, running_coordinators

DEVICE = to_proto(
    DeviceInfo(
        capacity=ResourceAmounts(cpu_millis=1000, memory_bytes=2**30),
        runtimes=(RuntimeInfo("containerd", available=True),),
    ),
    DeviceMessage,
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_coordinators(tmp_path, 3, session__heartbeat_interval_ms=500) as running:
        yield running


class Node:
    """An agent's side of one session; what is run in it echoes, what is asked for its log gets a few lines."""

    def __init__(self, member: RunningCoordinator, credentials: Any) -> None:
        self.channel = member.channel(credentials)
        self.stub = session_pb2_grpc.SessionServiceStub(self.channel)
        self.welcome: Any = None
        self.addresses: list[list[str]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> Node:
        self.call = self.stub.Connect()
        hello = session_pb2.Hello(boot_id="b", instance_id="i1", device=DEVICE)
        await self.call.write(session_pb2.ConnectRequest(hello=hello))
        self.tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._beat())]
        return self

    async def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            async for message in self.call:
                kind = message.WhichOneof("message")
                if kind == "welcome":
                    self.welcome = message.welcome
                elif kind == "coordinators":
                    self.addresses.append(list(message.coordinators.addresses))
                elif kind == "open_channel":
                    self.tasks.append(asyncio.ensure_future(self._serve(message.open_channel)))

    async def _beat(self) -> None:
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            for sequence in range(1, 10_000):
                beat = session_pb2.Heartbeat(sequence=sequence, usage=NodeUsage(cpu_millis=77))
                await self.call.write(session_pb2.ConnectRequest(heartbeat=beat))
                await asyncio.sleep(0.2)

    async def _serve(self, opening: Any) -> None:
        call = self.stub.Channel()
        await call.write(session_pb2.ChannelRequest(channel_id=opening.channel_id))
        end = session_pb2.ChannelEnd(exit_code=7)
        if opening.WhichOneof("open") == "list_images":
            await call.write(session_pb2.ChannelRequest(image=session_pb2.ImageInfo(reference="web:1", digest="d")))
        elif opening.WhichOneof("open") == "exec" and opening.exec.command[0] == "missing":
            end = session_pb2.ChannelEnd(
                error_code="invalid_argument", error_message="no such program", error_reason="CommandNotFound"
            )
        else:
            await call.write(session_pb2.ChannelRequest(ready=session_pb2.ChannelReady()))
            async for frame in call:
                if frame.HasField("stdin_closed"):
                    break
                await call.write(session_pb2.ChannelRequest(stdout=frame.stdin))
        await call.write(session_pb2.ChannelRequest(end=end))
        await call.done_writing()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.channel.close()


@contextlib.asynccontextmanager
async def connected(member: RunningCoordinator, name: str, credentials: Any) -> AsyncIterator[Node]:
    node = await Node(member, credentials).connect()
    try:
        await eventually(lambda: member.state.nodes[name].state is NodeState.READY, what=f"{name} ready")
        yield node
    finally:
        await node.close()


def _stub(channel: Any, service: str) -> Any:
    return getattr(control_pb2_grpc, f"{service}Stub")(channel)


async def _exec(member: RunningCoordinator, replica: str, *command: str, stdin: bytes) -> tuple[bytes, int]:
    start = control_pb2.ExecStart(namespace="default", replica_id=replica, command=command, stdin=True)
    async with member.channel() as channel:
        call = _stub(channel, "WorkloadService").Exec()
        await call.write(control_pb2.ExecRequest(start=start))
        output, code = b"", -1
        for at in range(0, len(stdin), 30_000):
            await call.write(control_pb2.ExecRequest(stdin=stdin[at : at + 30_000]))
        await call.write(control_pb2.ExecRequest(stdin_closed=True))
        async for message in call:
            output += message.stdout
            if message.HasField("exit_code"):
                code = message.exit_code
        return output, code


async def test_a_node_is_reached_and_seen_through_every_coordinator(cluster: Cluster) -> None:
    c1, c2, c3 = (cluster.members[name] for name in ("c1", "c2", "c3"))
    credentials = await c1.node("n1")
    async with connected(c2, "n1", credentials) as node:
        assert sorted(node.welcome.coordinators) == sorted(m.api_address for m in (c1, c2, c3))
        for member in (c1, c2, c3):
            async with member.channel() as channel:
                nodes = _stub(channel, "NodeService")

                async def usage(nodes: Any = nodes) -> int:
                    view = (await nodes.GetNode(control_pb2.GetNodeRequest(id="n1"))).node
                    return view.usage.cpu_millis if 0 <= view.heartbeat_age_ms < 5000 else 0

                async with asyncio.timeout(5):
                    while await usage() != 77:
                        await asyncio.sleep(0.05)
        await c3.put_workload("web")
        leader = await cluster.leader()
        await eventually(lambda: any(r.node_id == "n1" for r in leader.state.replicas.values()), what="placed")
        replica = next(iter(leader.state.replicas))
        with capture_logs() as lines:
            for member in (c1, c2, c3):
                data = bytes(range(256)) * 1000
                assert await _exec(member, replica, "cat", stdin=data) == (data, 7)
                async with member.channel() as channel:
                    images = await _stub(channel, "ImageService").ListImages(
                        control_pb2.ListImagesRequest(node_id="n1")
                    )
                    assert [image.reference for image in images.images] == ["web:1"]
        relayed = [line for line in lines if line["event"] == "channel.relayed"]
        assert {(line["actor"], line["coordinator"]) for line in relayed} == {
            ("user/admin", "c1"),
            ("user/admin", "c3"),
        }
        # What the node refuses arrives as it was said.
        async with c3.channel() as channel:
            start = control_pb2.ExecStart(namespace="default", replica_id=replica, command=["missing"])
            call = _stub(channel, "WorkloadService").Exec()
            await call.write(control_pb2.ExecRequest(start=start))
            refused = await failure_of(call.read())
            assert (refused.reason, refused.message) == ("CommandNotFound", "no such program")
    await eventually(lambda: c1.hub.live("n1") is None, what="n1 gone")
    refused = await failure_of(_images(c1))
    assert isinstance(refused, FailedPrecondition)
    assert refused.reason == "NodeNotConnected"


async def _images(member: RunningCoordinator) -> Any:
    async with member.channel() as channel:
        return await _stub(channel, "ImageService").ListImages(control_pb2.ListImagesRequest(node_id="n1"))


async def test_what_one_coordinator_acknowledged_the_next_one_knows(cluster: Cluster) -> None:
    """Reads, and the checks before writes: on every other coordinator, at once."""
    members = list(cluster.members.values())
    channels = [member.channel() for member in members]
    workloads = [_stub(channel, "WorkloadService") for channel in channels]
    for number in range(30):
        name = f"w{number}"
        await members[number % 3].put_workload(name)
        for offset in (1, 2):
            at = (number + offset) % 3
            request = control_pb2.GetWorkloadRequest(namespace="default", name=name)
            assert (await workloads[at].GetWorkload(request)).workload.metadata.name == name
        scaled = control_pb2.ScaleWorkloadRequest(namespace="default", name=name, replicas=2)
        await workloads[(number + 1) % 3].ScaleWorkload(scaled)
        listed = await workloads[(number + 2) % 3].ListWorkloads(control_pb2.ListWorkloadsRequest())
        assert {w.metadata.name: w.spec.replicas for w in listed.workloads}[name] == 2
        deleted = control_pb2.DeleteWorkloadRequest(namespace="default", name=name)
        await workloads[(number + 2) % 3].DeleteWorkload(deleted)
    for number in range(5):
        credentials = await members[number % 3].user(f"u{number}")
        async with members[(number + 1) % 3].channel(credentials) as channel:
            await _stub(channel, "UserService").WhoAmI(control_pb2.WhoAmIRequest())
    for channel in channels:
        await channel.close()


async def test_without_a_majority_only_stale_reads_are_answered(cluster: Cluster) -> None:
    await cluster.members["c1"].put_workload("web")
    await cluster.applied(cluster.members["c1"].store.snapshot.index)
    leader = (await cluster.leader()).config.id
    left = next(name for name in ("c1", "c2", "c3") if name != leader)
    credentials = await cluster.members[left].node("n1")
    for name in ("c1", "c2", "c3"):
        if name != left:
            await cluster.kill(name)
    member = cluster.members[left]
    async with member.channel() as channel:
        workloads = _stub(channel, "WorkloadService")
        request = control_pb2.ListWorkloadsRequest()
        stale = await workloads.ListWorkloads(request, metadata=((CONSISTENCY_METADATA, STALE),), timeout=5)
        assert [w.metadata.name for w in stale.workloads] == ["web"]
        with pytest.raises(grpc.aio.AioRpcError):
            await workloads.ListWorkloads(request, timeout=0.5)
    # It lets agents in all the same, and says that they may find better.
    node = await Node(member, credentials).connect()
    await eventually(lambda: node.welcome is not None, what="a welcome")
    assert node.welcome.leaderless
    await node.close()


def _client(cluster: Cluster, **options: Any) -> Client:
    admin = next(iter(cluster.members.values())).admin
    addresses = [member.api_address for member in cluster.members.values()]
    ids = iter(range(10_000))
    return Client(
        addresses,
        credentials=admin,
        clock=SystemClock(),
        timeout_ms=10_000,
        new_request_id=lambda: f"write-{next(ids)}",
        **options,
    )


def _create(client: Client, name: str) -> None:
    request = control_pb2.CreateWorkloadRequest()
    request.metadata.name = name
    request.spec.containers.add(name="main", image="docker.io/library/web:1")
    client.call("Workload", "CreateWorkload", request, write=True)


async def test_writes_go_on_when_the_leader_falls(cluster: Cluster) -> None:
    client = _client(cluster)
    written: list[str] = []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    longest_s = 0.0

    async def write() -> None:
        nonlocal longest_s
        number = 0
        while not stop.is_set():
            began = loop.time()
            await asyncio.to_thread(_create, client, f"w{number}")
            longest_s = max(longest_s, loop.time() - began)
            written.append(f"w{number}")
            number += 1

    writing = asyncio.ensure_future(write())
    await eventually(lambda: len(written) >= 10, what="ten writes")
    await cluster.kill((await cluster.leader()).config.id)
    fallen_at = len(written)
    await eventually(lambda: len(written) >= fallen_at + 10, what="ten more writes", timeout_s=20)
    stop.set()
    await writing
    assert longest_s < 5  # the figure itself is measured on real processes
    request = control_pb2.ListWorkloadsRequest()
    listed, _ = await asyncio.to_thread(client.pages, "Workload", "ListWorkloads", request, "workloads")
    assert sorted(w.metadata.name for w in listed) == sorted(written)
    client.close()


async def test_clients_and_agents_learn_of_a_new_coordinator(tmp_path: Path) -> None:
    async with running_coordinators(tmp_path, 1) as cluster:
        first = cluster.members["c1"]
        learnt: list[tuple[str, ...]] = []
        client = _client(cluster, on_learnt=learnt.append)
        credentials = await first.node("n1")
        async with connected(first, "n1", credentials) as node:
            await asyncio.to_thread(_create, client, "w1")
            assert learnt == []
            second = await cluster.add("c2")
            both = {first.api_address, second.api_address}
            await eventually(lambda: any(set(told) == both for told in node.addresses), what="the agent told")
            await asyncio.to_thread(_create, client, "w2")
            assert [set(addresses) for addresses in learnt] == [both]
            assert learnt[0][0] == first.api_address
        client.close()


async def test_only_coordinators_are_told_of_each_others_nodes(cluster: Cluster) -> None:
    member = cluster.members["c2"]
    node = await member.node("n1")
    for credentials in (member.admin, node):
        async with member.channel(credentials) as channel:
            stub = member_pb2_grpc.MemberServiceStub(channel)
            refused = await failure_of(stub.Observe(member_pb2.ObserveRequest()).read())
            assert isinstance(refused, PermissionDenied)
            call = stub.RelayChannel()
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await call.write(member_pb2.RelayChannelRequest(start=member_pb2.RelayStart(node_id="n1")))
            assert isinstance(await failure_of(call.read()), PermissionDenied)
