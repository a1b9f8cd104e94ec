"""Channels of an agent: logs, exec, image import and list, and what is left when the other side disappears."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from cloudless.agent import imports
from cloudless.agent.channels import CHANNELS_AT_ONCE, ChannelServer
from cloudless.agent.logwatch import LogWatcher
from cloudless.agent.runtime.base import ExecRequest, Image, Sandbox
from cloudless.api.v1 import session_pb2 as pb
from cloudless.clock import SystemClock
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.spec import Container, WorkloadSpec
from cloudless.errors import InvalidArgument, Unavailable
from cloudless.testing.runtime import FakeDevice, FakeExec, FakeRuntime


class Pipe:
    """The agent's end of a channel; the test plays the coordinator. Holds at most `room` frames: back-pressure."""

    def __init__(self, room: int = 1000) -> None:
        self.sent: asyncio.Queue[pb.ChannelRequest] = asyncio.Queue(room)
        self.incoming: asyncio.Queue[pb.ChannelResponse | Exception | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.broken = False

    async def send(self, message: pb.ChannelRequest) -> None:
        if self.broken or self.closed.is_set():
            raise Unavailable("broken")
        await self.sent.put(message)

    async def receive(self) -> pb.ChannelResponse | None:
        message = await self.incoming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def close(self) -> None:
        self.closed.set()

    # the coordinator's side

    def say(self, **frame: Any) -> None:
        self.incoming.put_nowait(pb.ChannelResponse(**frame))

    async def next(self) -> pb.ChannelRequest:
        async with asyncio.timeout(10):
            return await self.sent.get()

    async def all(self) -> list[pb.ChannelRequest]:
        """Everything up to the end."""
        frames = [await self.next()]
        while frames[-1].WhichOneof("frame") != "end":
            frames.append(await self.next())
        async with asyncio.timeout(10):
            await self.closed.wait()
        return frames


class Replicas:
    def __init__(self) -> None:
        spec = WorkloadSpec(containers=(Container("main", "i"), Container("side", "i")))
        self.known = {"r1": Assignment("r1", "web", "default", 1, spec)}
        self.phases = {"r1": ReplicaPhase.READY}

    def assignment(self, replica_id: str) -> Assignment | None:
        return self.known.get(replica_id)

    def phase(self, replica_id: str) -> ReplicaPhase | None:
        return self.phases.get(replica_id)


class Node:
    def __init__(self, directory: Path) -> None:
        self.replicas = Replicas()
        self.device = FakeDevice(SystemClock(), directory / "logs", images={"i": Image("i", "sha256:1", 3)})
        self.runtime = FakeRuntime(self.device)
        self.pipe = Pipe()
        self.watcher = LogWatcher(max_bytes=0)
        self.spool = directory / "spool"
        self.server = ChannelServer(self.runtime, self.replicas, self.watcher, dial=self._dial, spool=self.spool)

    async def _dial(self, session: object) -> Pipe:
        return self.pipe

    def open(self, **order: Any) -> Pipe:
        self.pipe = Pipe()
        self.server.open(pb.OpenChannel(channel_id="c1", **order), None)  # type: ignore[arg-type]
        return self.pipe

    def log(self, data: bytes) -> None:
        self.device.append_log("r1", "main", data)


@pytest.fixture
async def node(tmp_path: Path):
    node = Node(tmp_path)
    assignment = node.replicas.known["r1"]
    sandbox = Sandbox("r1", "default", "web", 1, assignment.spec)
    await node.runtime.ensure_sandbox(sandbox)
    for container in assignment.spec.containers:
        await node.runtime.start_container(sandbox, container, attempt=0)
    yield node
    await node.server.close()


def logged(frames: list[pb.ChannelRequest]) -> bytes:
    return b"".join(f.log.data for f in frames if f.WhichOneof("frame") == "log")


async def test_logs_begin_with_the_channels_id_and_end_with_the_end(node: Node) -> None:
    node.log(b"a\nb\nc\n")
    frames = await node.open(logs=pb.LogsOpen(replica_id="r1", tail_lines=2)).all()
    kinds = [f.WhichOneof("frame") for f in frames]
    assert (kinds[0], frames[0].channel_id, kinds[1], kinds[-1]) == ("channel_id", "c1", "ready", "end")
    assert logged(frames) == b"b\nc\n"
    assert not frames[-1].end.error_code


async def test_following_ends_when_the_replica_is_gone(node: Node) -> None:
    node.log(b"a\n")
    pipe = node.open(logs=pb.LogsOpen(replica_id="r1", tail_lines=-1, follow=True))
    frames = [await pipe.next() for _ in range(3)]
    node.log(b"b\n")
    frames.append(await pipe.next())
    node.replicas.phases.clear()
    frames += await pipe.all()
    assert logged(frames) == b"a\nb\n"


@pytest.mark.parametrize("end", [None, Unavailable("the connection broke")])
async def test_following_ends_when_the_other_side_hangs_up(node: Node, end: Exception | None) -> None:
    pipe = node.open(logs=pb.LogsOpen(replica_id="r1", tail_lines=-1, follow=True))
    await pipe.next()
    await pipe.next()
    pipe.incoming.put_nowait(end)
    async with asyncio.timeout(5):
        await pipe.closed.wait()
    assert pipe.sent.empty()


@pytest.mark.parametrize(
    ("order", "code", "reason", "remedy"),
    [
        ({"logs": pb.LogsOpen(replica_id="other")}, "not_found", "ReplicaNotFound", ""),
        (
            {"logs": pb.LogsOpen(replica_id="r1", container="other")},
            "not_found",
            "ContainerNotFound",
            "it has main, side",
        ),
        ({"exec": pb.ExecOpen(replica_id="other", command=["x"])}, "not_found", "ReplicaNotFound", ""),
        ({"exec": pb.ExecOpen(replica_id="r1")}, "invalid_argument", "NoCommand", ""),
        ({}, "invalid_argument", "UnknownChannel", ""),
    ],
)
async def test_refusals_are_the_end(node: Node, order: dict[str, Any], code: str, reason: str, remedy: str) -> None:
    end = (await node.open(**order).all())[-1].end
    assert (end.error_code, end.error_reason, end.error_remedy) == (code, reason, remedy)
    assert end.error_message
    assert not remedy or remedy not in end.error_message


async def test_exec_returns_output_and_exit_code(node: Node) -> None:
    async def program(request: ExecRequest, streams: FakeExec) -> int:
        streams.write(b"out")
        streams.write(b"x" * 200_000, stderr=True)
        return 7

    node.device.program = program
    frames = await node.open(exec=pb.ExecOpen(replica_id="r1", command=["x"])).all()
    assert b"".join(f.stdout for f in frames if f.WhichOneof("frame") == "stdout") == b"out"
    errors = [f.stderr for f in frames if f.WhichOneof("frame") == "stderr"]
    assert b"".join(errors) == b"x" * 200_000
    assert max(map(len, errors)) <= 64 * 1024
    assert frames[-1].end.exit_code == 7


async def test_exec_takes_input_sizes_and_signals(node: Node) -> None:
    sizes: list[tuple[int, int]] = []

    async def program(request: ExecRequest, streams: FakeExec) -> int:
        sizes.append((streams.columns, streams.rows))
        while data := await streams.read():
            sizes.append((streams.columns, streams.rows))
            streams.write(data.upper())
        await asyncio.sleep(60)
        return 0

    node.device.program = program
    size = pb.TerminalSize(columns=100, rows=50)
    pipe = node.open(exec=pb.ExecOpen(replica_id="r1", command=["x"], tty=True, stdin=True, size=size))
    assert [(await pipe.next()).WhichOneof("frame") for _ in range(2)] == ["channel_id", "ready"]
    pipe.say(resize=pb.TerminalSize(columns=-5, rows=10**9))  # nonsense is ignored
    pipe.say(resize=pb.TerminalSize(columns=10, rows=5))
    pipe.say(stdin=b"abc")
    assert (await pipe.next()).stdout == b"ABC"
    pipe.say(signal=999)
    pipe.say(stdin_closed=True)
    pipe.say(signal=15)
    frames = await pipe.all()
    assert frames[-1].end.exit_code == 143
    assert sizes == [(100, 50), (10, 5)]


@pytest.mark.parametrize("end", [None, Unavailable("the connection broke")])
async def test_a_lost_exec_ends_its_process(node: Node, end: Exception | None) -> None:
    ended = asyncio.Event()

    async def program(request: ExecRequest, streams: FakeExec) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 0

    node.device.program = program
    pipe = node.open(exec=pb.ExecOpen(replica_id="r1", command=["x"], stdin=True))
    await pipe.next()
    await pipe.next()
    pipe.incoming.put_nowait(end)
    async with asyncio.timeout(5):
        await ended.wait()
        await pipe.closed.wait()


async def test_a_slow_reader_slows_the_program(node: Node) -> None:
    written = 0

    async def program(request: ExecRequest, streams: FakeExec) -> int:
        nonlocal written
        for _ in range(1000):
            streams.write(b"x" * 1000)
            written += 1
            await asyncio.sleep(0)
        return 0

    node.device.program = program
    pipe = node.pipe = Pipe(room=3)
    node.server.open(pb.OpenChannel(channel_id="c", exec=pb.ExecOpen(replica_id="r1", command=["x"])), None)  # type: ignore[arg-type]
    while written < 1000:
        await asyncio.sleep(0.001)
    assert pipe.sent.qsize() == 3
    frames = await pipe.all()
    assert sum(len(f.stdout) for f in frames) == 1_000_000


async def test_import_streams_to_the_runtime_and_leaves_no_file(node: Node) -> None:
    seen: list[tuple[bytes, str]] = []

    async def import_image(archive: Path, *, reference: str = "") -> list[Image]:
        seen.append((archive.read_bytes(), reference))
        return [Image("web:1", "sha256:2", 5)]

    node.runtime.import_image = import_image  # type: ignore[method-assign,assignment]
    pipe = node.open(import_image=pb.ImportOpen(reference="web:1"))
    pipe.say(data=b"one")
    pipe.say(data=b"two")
    pipe.say(data_end=True)
    frames = await pipe.all()
    assert seen == [(b"onetwo", "web:1")]
    images = [f.image for f in frames if f.WhichOneof("frame") == "image"]
    assert [(i.reference, i.digest, i.size_bytes) for i in images] == [("web:1", "sha256:2", 5)]
    assert list(node.spool.iterdir()) == []


async def test_imports_that_fail_leave_no_file(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(archive: Path, *, reference: str = "") -> list[Image]:
        raise InvalidArgument("not an archive", reason="BadArchive")

    node.runtime.import_image = broken  # type: ignore[method-assign,assignment]
    pipe = node.open(import_image=pb.ImportOpen())
    pipe.say(data=b"one")
    pipe.say(data_end=True)
    assert (await pipe.all())[-1].end.error_code == "invalid_argument"
    pipe = node.open(import_image=pb.ImportOpen())  # a wrong frame
    pipe.say(stdin=b"x")
    assert (await pipe.all())[-1].end.error_code == "invalid_argument"
    pipe = node.open(import_image=pb.ImportOpen())  # the sender disappears
    pipe.say(data=b"one")
    pipe.incoming.put_nowait(None)
    async with asyncio.timeout(5):
        await pipe.closed.wait()
    real = os.statvfs
    monkeypatch.setattr(imports.os, "statvfs", lambda path: _full(real(path)))
    pipe = node.open(import_image=pb.ImportOpen())
    pipe.say(data=b"one")
    end = (await pipe.all())[-1].end
    assert end.error_code == "resource_exhausted"
    assert "space" in end.error_message
    assert list(node.spool.iterdir()) == []


def _full(status: os.statvfs_result) -> os.statvfs_result:
    values = list(status)
    values[4] = 0  # f_bavail
    return os.statvfs_result(values)


async def test_images_are_listed(node: Node) -> None:
    frames = await node.open(list_images=pb.ListImagesOpen()).all()
    assert [f.image.reference for f in frames if f.WhichOneof("frame") == "image"] == ["i"]


async def test_a_flood_of_channels_is_refused(node: Node) -> None:
    pipes = []
    for _ in range(CHANNELS_AT_ONCE):
        pipes.append(node.open(logs=pb.LogsOpen(replica_id="r1", follow=True)))
        await pipes[-1].next()
    frames = await node.open(logs=pb.LogsOpen(replica_id="r1", follow=True)).all()
    assert frames[-1].end.error_code == "resource_exhausted"
    await node.server.close()
    assert all(pipe.closed.is_set() for pipe in pipes)


def test_leftover_archives_are_swept(tmp_path: Path) -> None:
    (tmp_path / "import-x.tar").write_bytes(b"x")
    imports.empty_spool(tmp_path)
    assert list(tmp_path.iterdir()) == []
    imports.empty_spool(tmp_path / "none")
