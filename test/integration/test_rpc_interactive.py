"""Logs, exec and images, from a client through the coordinator to an agent that the test plays on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cloudless.api.v1 import control_pb2, control_pb2_grpc, session_pb2, session_pb2_grpc
from cloudless.coordinator.core.state import State
from cloudless.core.model import NodeState, Replica
from cloudless.identity.credentials import Credentials
from cloudless.testing.coordinator import RunningCoordinator, failure_of, running_coordinator

Request, Response = session_pb2.ChannelRequest, session_pb2.ChannelResponse
Play = Callable[["AgentChannel", session_pb2.OpenChannel], Awaitable[None]]


class AgentChannel:
    """The agent's end of a channel: `send` frames, `receive` what the coordinator sends (None: it ended it)."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.ended = asyncio.Event()

    async def send(self, **frame: Any) -> None:
        await self._call.write(Request(**frame))

    async def receive(self) -> Response | None:
        try:
            message = await self._call.read()
        except (grpc.RpcError, asyncio.CancelledError):
            message = grpc.aio.EOF
        if message is grpc.aio.EOF:
            self.ended.set()
            return None
        return message  # type: ignore[no-any-return]


class Agent:
    """Connects as a node and plays `play` on each channel that it is asked to open."""

    def __init__(self, c: RunningCoordinator, credentials: Credentials, play: Play) -> None:
        self._channel = c.channel(credentials)
        self._stub = session_pb2_grpc.SessionServiceStub(self._channel)
        self._play = play
        self._tasks: list[asyncio.Task[None]] = []
        self.welcomed = asyncio.Event()
        self.channels: list[AgentChannel] = []

    async def __aenter__(self) -> Agent:
        self._tasks.append(asyncio.create_task(self._session()))
        await asyncio.wait_for(self.welcomed.wait(), 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _session(self) -> None:
        call = self._stub.Connect()
        hello = session_pb2.Hello(boot_id="b", instance_id="i")
        hello.device.capacity.cpu_millis = 4000
        hello.device.capacity.memory_bytes = 8 * 2**30
        hello.device.capacity.storage_bytes = 2**40
        hello.device.capacity.pids = 10_000
        hello.device.runtimes.add(name="containerd", available=True)
        await call.write(session_pb2.ConnectRequest(hello=hello))
        async for message in call:
            kind = message.WhichOneof("message")
            if kind == "welcome":
                self.welcomed.set()
            elif kind == "open_channel":
                self._tasks.append(asyncio.create_task(self._open(message.open_channel)))

    async def _open(self, opening: session_pb2.OpenChannel) -> None:
        call = self._stub.Channel()
        channel = AgentChannel(call)
        self.channels.append(channel)
        await channel.send(channel_id=opening.channel_id)
        await self._play(channel, opening)


@pytest.fixture
async def c(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path) as running:
        yield running


async def _until(c: RunningCoordinator, condition: Callable[[State], Any]) -> Any:
    """The first true answer of `condition` over the replicated state."""
    snapshot = c.store.snapshot
    found = condition(snapshot.state)
    watch = c.store.watch(snapshot.index)
    try:
        while not found:
            async with asyncio.timeout(10):
                found = condition((await anext(watch)).state)
    finally:
        watch.close()
    return found


async def _replica(c: RunningCoordinator) -> Replica:
    """A replica that the real reconcile loop and scheduler have placed on n1."""
    await _until(c, lambda state: state.nodes["n1"].state is NodeState.READY)
    await c.put_workload("web")
    return await _until(c, lambda state: next((r for r in state.replicas.values() if r.node_id == "n1"), None))


def _stub(channel: grpc.aio.Channel) -> Any:
    return control_pb2_grpc.WorkloadServiceStub(channel)


async def test_logs_flow_from_the_node_to_the_client(c: RunningCoordinator) -> None:
    asked: list[session_pb2.LogsOpen] = []

    async def play(channel: AgentChannel, opening: session_pb2.OpenChannel) -> None:
        asked.append(opening.logs)
        for number in range(100):
            await channel.send(log=session_pb2.LogChunk(data=f"line {number}\n".encode()))
        await channel.send(end=session_pb2.ChannelEnd())
        await channel.receive()

    async with Agent(c, await c.node("n1"), play), c.channel() as channel:
        replica = await _replica(c)
        request = control_pb2.LogsRequest(replica_id=replica.id[:8], tail_lines=-1, since_ms=60_000, timestamps=True)
        data = b"".join([chunk.data async for chunk in _stub(channel).Logs(request)])
        assert data == b"".join(f"line {number}\n".encode() for number in range(100))
        assert asked[0].replica_id == replica.id, "the prefix was completed"
        assert abs(asked[0].since_ms - (c.coordinator.clock.now_ms() - 60_000)) < 10_000
        assert asked[0].timestamps


async def test_a_client_that_leaves_ends_the_work_on_the_node(c: RunningCoordinator) -> None:
    async def play(channel: AgentChannel, opening: session_pb2.OpenChannel) -> None:
        await channel.send(log=session_pb2.LogChunk(data=b"first\n"))
        await channel.receive()

    async with Agent(c, await c.node("n1"), play) as agent, c.channel() as channel:
        replica = await _replica(c)
        call = _stub(channel).Logs(control_pb2.LogsRequest(replica_id=replica.id, follow=True, tail_lines=-1))
        assert (await call.read()).data == b"first\n"
        call.cancel()
        await asyncio.wait_for(agent.channels[0].ended.wait(), 10)


async def test_a_slow_client_slows_the_node_down(c: RunningCoordinator) -> None:
    sent = 0

    async def play(channel: AgentChannel, opening: session_pb2.OpenChannel) -> None:
        nonlocal sent
        for _ in range(400):
            await channel.send(log=session_pb2.LogChunk(data=b"x" * 256 * 1024))
            sent += 1
        await channel.send(end=session_pb2.ChannelEnd())
        await channel.receive()

    async with Agent(c, await c.node("n1"), play), c.channel() as channel:
        replica = await _replica(c)
        call = _stub(channel).Logs(control_pb2.LogsRequest(replica_id=replica.id, tail_lines=-1))
        received = len((await call.read()).data)
        last = -1
        while sent != last:  # until the node is held up
            last = sent
            await asyncio.sleep(0.2)
        assert sent < 300, "100 MiB were not swallowed for a reader that does not read"
        while (chunk := await call.read()) is not grpc.aio.EOF:
            received += len(chunk.data)
        assert received == 400 * 256 * 1024


@pytest.mark.parametrize(
    ("code", "said", "reason", "remedy"),
    [
        ("not_found", "ContainerNotFound", "ContainerNotFound", "it has größer"),
        ("failed_precondition", "", "FailedPrecondition", ""),
        ("invalid_argument", "CommandNotFound", "CommandNotFound", "see the image"),
    ],
)
async def test_the_nodes_error_reaches_the_client(
    c: RunningCoordinator, code: str, said: str, reason: str, remedy: str
) -> None:
    async def play(channel: AgentChannel, opening: session_pb2.OpenChannel) -> None:
        end = session_pb2.ChannelEnd(
            error_code=code, error_message="no container named x", error_reason=said, error_remedy=remedy
        )
        await channel.send(end=end)
        await channel.receive()

    async with Agent(c, await c.node("n1"), play), c.channel() as channel:
        replica = await _replica(c)
        error = await failure_of(_stub(channel).Logs(control_pb2.LogsRequest(replica_id=replica.id)).read())
        assert (error.code, error.message, error.reason) == (code, "no container named x", reason)
        assert error.remedy == remedy


async def _shell(channel: AgentChannel, opening: session_pb2.OpenChannel) -> None:
    """Echoes its input in capitals, says the size of its terminal, ends with 42 when input ends."""
    await channel.send(ready=session_pb2.ChannelReady())
    await channel.send(stderr=" ".join(opening.exec.command).encode())
    while (frame := await channel.receive()) is not None:
        kind = frame.WhichOneof("frame")
        if kind == "stdin":
            await channel.send(stdout=frame.stdin.upper())
        elif kind == "resize":
            await channel.send(stdout=f"{frame.resize.columns}x{frame.resize.rows}".encode())
        elif kind == "signal":
            await channel.send(stdout=f"signal {frame.signal}".encode())
        elif kind == "stdin_closed":
            await channel.send(end=session_pb2.ChannelEnd(exit_code=42))


def _start(replica: Replica) -> control_pb2.ExecRequest:
    return control_pb2.ExecRequest(
        start=control_pb2.ExecStart(replica_id=replica.id, command=["sh", "-c"], stdin=True, tty=True)
    )


@pytest.mark.parametrize("says_so", [True, False])
async def test_exec_both_ways_to_the_exit_code(c: RunningCoordinator, says_so: bool) -> None:
    async with Agent(c, await c.node("n1"), _shell), c.channel() as channel:
        call = _stub(channel).Exec()
        await call.write(_start(await _replica(c)))
        answers = [await call.read(), await call.read()]
        assert answers[0].started
        assert answers[1].stderr == b"sh -c"
        await call.write(control_pb2.ExecRequest(stdin=b"hello"))
        assert (await call.read()).stdout == b"HELLO"
        await call.write(control_pb2.ExecRequest(resize=session_pb2.TerminalSize(columns=80, rows=24)))
        assert (await call.read()).stdout == b"80x24"
        await call.write(control_pb2.ExecRequest(signal=2))
        assert (await call.read()).stdout == b"signal 2"
        if says_so:
            await call.write(control_pb2.ExecRequest(stdin_closed=True))
        else:
            await call.done_writing()
        assert (await call.read()).exit_code == 42
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_exec_refuses_what_makes_no_sense(c: RunningCoordinator) -> None:
    async with Agent(c, await c.node("n1"), _shell), c.channel() as channel:
        replica = await _replica(c)
        for message, reason in [
            (control_pb2.ExecRequest(stdin=b"x"), "FirstMessageMissing"),
            (control_pb2.ExecRequest(start=control_pb2.ExecStart(replica_id=replica.id)), "FieldRequired"),
            (control_pb2.ExecRequest(start=control_pb2.ExecStart(replica_id="x", command=["sh"])), "ReplicaNotFound"),
        ]:
            call = _stub(channel).Exec()
            await call.write(message)
            assert (await failure_of(call.read())).reason == reason
        call = _stub(channel).Exec()
        await call.write(_start(replica))
        assert (await call.read()).started
        await call.write(_start(replica))  # a second start
        assert (await call.read()).stderr
        assert (await failure_of(call.read())).reason == "BadExecMessage"


async def test_an_exec_whose_node_goes_away_is_unavailable(c: RunningCoordinator) -> None:
    started = asyncio.Event()

    async def play(channel: AgentChannel, opening: session_pb2.OpenChannel) -> None:
        await channel.send(ready=session_pb2.ChannelReady())
        await started.wait()
        channel._call.cancel()

    async with Agent(c, await c.node("n1"), play), c.channel() as channel:
        call = _stub(channel).Exec()
        await call.write(_start(await _replica(c)))
        assert (await call.read()).started
        started.set()
        error = await failure_of(call.read())
        assert (error.code, error.reason) == ("unavailable", "ChannelBroken")


async def test_a_node_that_is_not_connected_is_said_so(c: RunningCoordinator) -> None:
    credentials = await c.node("n1")
    async with Agent(c, credentials, _shell), c.channel() as channel:
        replica = await _replica(c)
    async with c.channel() as channel:
        for _ in range(100):
            if not c.hub.connected():
                break
            await asyncio.sleep(0.01)
        error = await failure_of(_stub(channel).Logs(control_pb2.LogsRequest(replica_id=replica.id)).read())
        assert error.reason == "NodeNotConnected"


async def test_logs_of_a_replica_that_is_nowhere(c: RunningCoordinator) -> None:
    await c.put_workload("web")
    replica = await _until(c, lambda state: next(iter(state.replicas.values()), None))
    async with c.channel() as channel:
        error = await failure_of(_stub(channel).Logs(control_pb2.LogsRequest(replica_id=replica.id)).read())
    assert error.reason == "ReplicaNotPlaced"


class Registry:
    """Takes an archive frame by frame."""

    def __init__(self) -> None:
        self.data = b""
        self.complete = False
        self.reference = ""

    async def play(self, channel: AgentChannel, opening: session_pb2.OpenChannel) -> None:
        if opening.WhichOneof("open") == "list_images":
            for name in ("b:1", "a:1"):
                await channel.send(image=session_pb2.ImageInfo(reference=name))
            await channel.send(end=session_pb2.ChannelEnd())
            await channel.receive()
            return
        self.reference = opening.import_image.reference
        while (frame := await channel.receive()) is not None:
            self.data += frame.data
            if frame.data_end:
                self.complete = True
                await channel.send(image=session_pb2.ImageInfo(reference="web:1", size_bytes=len(self.data)))
                await channel.send(end=session_pb2.ChannelEnd())


async def test_an_image_is_imported_and_listed(c: RunningCoordinator) -> None:
    registry = Registry()
    chunk = bytes(range(256)) * 4096  # 1 MiB
    async with Agent(c, await c.node("n1"), registry.play), c.channel() as channel:
        stub = control_pb2_grpc.ImageServiceStub(channel)

        async def archive() -> AsyncIterator[control_pb2.ImportImageRequest]:
            yield control_pb2.ImportImageRequest(start=control_pb2.ImportStart(node_id="n1", reference="web:1"))
            for _ in range(9):
                yield control_pb2.ImportImageRequest(data=chunk)
            yield control_pb2.ImportImageRequest(end=True)

        answers = [answer async for answer in stub.ImportImage(archive())]
        assert registry.data == chunk * 9
        assert registry.reference == "web:1"
        assert [answer.received_bytes for answer in answers] == [4 * 2**20, 8 * 2**20, 9 * 2**20]
        assert [image.reference for image in answers[-1].images] == ["web:1"]
        listed = await stub.ListImages(control_pb2.ListImagesRequest(node_id="n1"))
        assert [image.reference for image in listed.images] == ["a:1", "b:1"]


async def test_an_archive_that_breaks_off_is_not_imported(c: RunningCoordinator) -> None:
    registry = Registry()
    async with Agent(c, await c.node("n1"), registry.play) as agent, c.channel() as channel:
        call = control_pb2_grpc.ImageServiceStub(channel).ImportImage()
        await call.write(control_pb2.ImportImageRequest(start=control_pb2.ImportStart(node_id="n1")))
        await call.write(control_pb2.ImportImageRequest(data=b"half"))
        await call.done_writing()
        assert (await failure_of(call.read())).reason == "ArchiveIncomplete"
        await asyncio.wait_for(agent.channels[0].ended.wait(), 10)
        assert not registry.complete
