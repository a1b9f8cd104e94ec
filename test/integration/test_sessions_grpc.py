"""Sessions and channels through real gRPC and mTLS: what the in-memory streams of the unit tests stand for."""

import asyncio
import contextlib

import grpc
import pytest

from cloudless.api.v1 import session_pb2 as pb
from cloudless.api.v1 import session_pb2_grpc
from cloudless.api.v1.convert import to_proto
from cloudless.api.v1.types_pb2 import DeviceInfo as DeviceMessage
from cloudless.coordinator.core.commands import PutWorkload, RemoveNode
from cloudless.core.model import DeviceInfo, NodeState, RuntimeInfo
from cloudless.core.spec import Container, EnvVar, Metadata, ResourceAmounts, WorkloadSpec
from cloudless.errors import FailedPrecondition, PermissionDenied, Unavailable
from cloudless.identity.channel import error_from_rpc
from cloudless.testing.coordinator import running_coordinator

DEVICE = to_proto(
    DeviceInfo(
        capacity=ResourceAmounts(cpu_millis=1000, memory_bytes=2**30),
        runtimes=(RuntimeInfo("containerd", available=True),),
    ),
    DeviceMessage,
)
LOGS = pb.OpenChannel(logs=pb.LogsOpen(replica_id="r1"))


@pytest.fixture
async def coordinator(tmp_path):
    async with running_coordinator(tmp_path, session__heartbeat_interval_ms=200) as running:
        yield running


class Node:
    """A node's side over gRPC: session, heartbeats, and an echo on every channel that it is asked to open."""

    def __init__(self, coordinator, credentials):
        self.grpc = coordinator.channel(credentials)
        self.stub = session_pb2_grpc.SessionServiceStub(self.grpc)
        self.messages = []
        self.told = asyncio.Event()
        self.assigned = []
        self.dialled = []
        self.tasks = []

    async def connect(self, instance="i1"):
        self.call = self.stub.Connect()
        await self.call.write(pb.ConnectRequest(hello=pb.Hello(boot_id="b", instance_id=instance, device=DEVICE)))
        self.tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._beat())]
        return self

    async def _read(self):
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            async for message in self.call:
                self.messages.append(message.WhichOneof("message"))
                self.told.set()
                if message.HasField("assignments"):
                    self.assigned.append(message.assignments)
                if message.HasField("open_channel"):
                    self.tasks.append(asyncio.ensure_future(self._echo(message.open_channel)))

    async def _beat(self):
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            for sequence in range(1, 10_000):
                await self.call.write(pb.ConnectRequest(heartbeat=pb.Heartbeat(sequence=sequence)))
                await asyncio.sleep(0.2)

    async def _echo(self, opening):
        call = self.stub.Channel()
        self.dialled.append(call)
        await call.write(pb.ChannelRequest(channel_id=opening.channel_id))
        async for frame in call:
            if frame.HasField("stdin_closed"):
                await call.write(pb.ChannelRequest(end=pb.ChannelEnd(exit_code=7)))
                await call.done_writing()
                return
            await call.write(pb.ChannelRequest(stdout=frame.stdin))

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self.told.clear()
                await self.told.wait()

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.grpc.close()


@contextlib.asynccontextmanager
async def connected(coordinator, name="n1", instance="i1"):
    node = await Node(coordinator, await coordinator.node(name)).connect(instance)
    try:
        await until(coordinator, lambda state: state.nodes[name].state is NodeState.READY)
        yield node
    finally:
        await node.close()


async def until(coordinator, test):
    watch = coordinator.store.watch()
    while not test(coordinator.state):
        await asyncio.wait_for(anext(watch), 10)
    watch.close()


async def test_a_session_and_a_channel_both_ways(coordinator):
    async with connected(coordinator) as node:
        await node.until(lambda: "assignments" in node.messages)  # the state says that it is ready before it is told
        assert [kind for kind in node.messages if kind != "heartbeat_ack"][:2] == ["welcome", "assignments"]
        assert node.messages[0] == "welcome"
        assert coordinator.state.nodes["n1"].device.capacity.cpu_millis == 1000
        async with await coordinator.hub.open_channel("n1", LOGS) as channel:
            for number in range(200):
                await channel.send(pb.ChannelResponse(stdin=b"x" * number))
                assert (await channel.receive()).stdout == b"x" * number
            await channel.send(pb.ChannelResponse(stdin_closed=True))
            assert (await channel.receive()).end.exit_code == 7
            assert await channel.receive() is None
        assert await node.dialled[0].code() is grpc.StatusCode.OK
        # Closed by the coordinator, in the midst of a wait.
        channel = await coordinator.hub.open_channel("n1", LOGS)
        waiting = asyncio.ensure_future(channel.receive())
        await channel.send(pb.ChannelResponse(stdin=b"hello"))
        assert (await waiting).stdout == b"hello"
        await channel.close()
        assert await asyncio.wait_for(node.dialled[1].code(), 5) is grpc.StatusCode.OK
        assert coordinator.hub.live("n1").heartbeat_age_ms < 5000


async def test_a_killed_agent_is_noticed_by_its_streams(coordinator):
    async with connected(coordinator) as node:
        channel = await coordinator.hub.open_channel("n1", LOGS)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await node.close()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(channel.receive(), 5)
        await until(coordinator, lambda state: state.nodes["n1"].state is NodeState.UNREACHABLE)
        assert loop.time() - began < 2
        assert coordinator.hub.live("n1") is None
        with pytest.raises(FailedPrecondition) as caught:
            await coordinator.hub.open_channel("n1", LOGS)
        assert caught.value.reason == "NodeNotConnected"


async def test_a_node_is_told_of_more_than_a_request_may_hold(coordinator):
    async with connected(coordinator) as node:
        large = tuple(EnvVar(f"V{number}", "x" * 100_000) for number in range(2))
        spec = WorkloadSpec(containers=(Container(name="main", image="web:1", env=large),), replicas=30)
        await coordinator.store.propose(PutWorkload(Metadata("web", "default"), spec), actor="user/admin")
        await until(coordinator, lambda state: len(state.replicas_by_node.get("n1", ())) == 30)
        await node.until(lambda: node.assigned and len(node.assigned[-1].assignments) == 30)
        assert node.assigned[-1].ByteSize() > 4 * 2**20
        assert coordinator.hub.live("n1") is not None


async def test_another_node_cannot_take_a_channel(coordinator):
    async with connected(coordinator), connected(coordinator, "n2") as thief:
        call = thief.stub.Channel()
        await call.write(pb.ChannelRequest(channel_id="guessed"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        error = error_from_rpc(caught.value)
        assert isinstance(error, PermissionDenied)
        assert error.reason == "ChannelUnknown"


async def test_a_refused_a_replaced_and_a_removed_session_are_told_why(coordinator):
    async with connected(coordinator) as node:
        first = node.call
        second = node.stub.Connect()
        await second.write(pb.ConnectRequest(hello=pb.Hello(instance_id="i2", device=DEVICE)))
        assert await asyncio.wait_for(second.code(), 5) is grpc.StatusCode.FAILED_PRECONDITION
        assert dict(await second.trailing_metadata())["cloudless-reason"] == "IdentityInUse"
        await until(coordinator, lambda state: any(e.type == "security.identity_conflict" for e in state.events))
        told = next(e for e in coordinator.state.events if e.type == "security.identity_conflict")
        assert all("127.0.0.1" in told.metadata[key] for key in ("address", "refused_address"))
        node.tasks[1].cancel()  # it beats no more, and its connection stays
        second = node.stub.Connect()
        await second.write(pb.ConnectRequest(hello=pb.Hello(instance_id="i2", device=DEVICE)))
        assert (await second.read()).HasField("welcome")
        assert await asyncio.wait_for(first.code(), 5) is grpc.StatusCode.FAILED_PRECONDITION
        assert dict(await first.trailing_metadata())["cloudless-reason"] == "SessionReplaced"
        assert (await second.read()).HasField("assignments")
        await coordinator.store.propose(RemoveNode("n1"), actor="user/admin")
        assert await asyncio.wait_for(second.code(), 5) is grpc.StatusCode.PERMISSION_DENIED
        assert dict(await second.trailing_metadata())["cloudless-reason"] == "NodeRemoved"
