"""A runtime in memory: what a container does is a `Behaviour`, and its time is the event loop's.

`FakeRuntime` is the agent's connection, `FakeDevice` what lives behind it. To restart an agent, make another
FakeRuntime on the same device. It passes the conformance suite of the real runtimes, and works on a SimLoop.
Output goes to real files below `directory`, and only when there is any.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path

from cloudless.agent.runtime.base import (
    ContainerState,
    ContainerStats,
    ContainerView,
    ExecRequest,
    Image,
    RuntimeEvent,
    Sandbox,
    SandboxView,
)
from cloudless.agent.runtime.process.events import EventHub
from cloudless.clock import Clock
from cloudless.core.model import Feature, PortBinding, RuntimeInfo
from cloudless.core.spec import Container
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one attempt of a container does. Times are ms of the event loop."""

    start_delay_ms: int = 0
    start_error: CloudlessError | None = None  # raised after start_delay_ms; the container does not exist then
    output: bytes = b""  # appended to the log at the start
    exit_after_ms: int | None = None  # None: runs until it is stopped
    exit_code: int = 0
    oom_killed: bool = False
    ignores_sigterm: bool = False
    term_delay_ms: int = 0  # from SIGTERM to its exit
    term_exit_code: int = 143
    stats: ContainerStats = ContainerStats(cpu_usage_us=1000, memory_bytes=2**20, pids=1)


class FakeExec:
    """What a program of an exec sees: its ends of the streams."""

    def __init__(self, request: ExecRequest) -> None:
        self.columns, self.rows = request.columns, request.rows
        self._tty = request.tty
        self._stdin: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._output: asyncio.Queue[tuple[bool, bytes] | None] = asyncio.Queue()

    async def read(self) -> bytes:
        """The next bytes of stdin, b"" at its end."""
        data = await self._stdin.get()
        if data is None:
            self._stdin.put_nowait(None)
            return b""
        return data

    def write(self, data: bytes, *, stderr: bool = False) -> None:
        self._output.put_nowait((stderr and not self._tty, data))

    def feed(self, data: bytes | None) -> None:
        """The other end writes to stdin; None closes it."""
        self._stdin.put_nowait(data)

    def end_output(self) -> None:
        self._output.put_nowait(None)

    async def items(self) -> AsyncIterator[tuple[bool, bytes]]:
        while (item := await self._output.get()) is not None:
            yield item
        self._output.put_nowait(None)


Behave = Callable[[Sandbox, Container, int], Behaviour]  # (sandbox, container, attempt)
Program = Callable[[ExecRequest, FakeExec], Awaitable[int]]  # returns the exit code


def _runs(sandbox: Sandbox, container: Container, attempt: int) -> Behaviour:
    return Behaviour()


async def _prints_arguments(request: ExecRequest, streams: FakeExec) -> int:
    streams.write((" ".join(request.command) + "\n").encode())
    return 0


class FakeExecSession:
    """Implements ExecSession."""

    def __init__(self, request: ExecRequest, program: Program) -> None:
        self._streams = FakeExec(request)
        self._code: int | None = None
        self._exited = asyncio.Event()
        self._task: asyncio.Future[int] = asyncio.ensure_future(program(request, self._streams))
        self._task.add_done_callback(self._finish)
        if not request.stdin:
            self._streams.feed(None)

    def _finish(self, task: asyncio.Future[int]) -> None:
        self._exited.set()
        self._streams.end_output()

    async def output(self) -> AsyncIterator[tuple[bool, bytes]]:
        async for item in self._streams.items():
            yield item

    async def write_stdin(self, data: bytes) -> None:
        self._streams.feed(data)

    async def close_stdin(self) -> None:
        self._streams.feed(None)

    async def resize(self, *, columns: int, rows: int) -> None:
        self._streams.columns, self._streams.rows = columns, rows

    def kill(self, number: int) -> None:
        if not self._task.done():
            self._code = 128 + number
            self._task.cancel()

    async def signal(self, number: int) -> None:
        self.kill(number)

    async def wait(self) -> int:
        await self._exited.wait()
        if self._task.cancelled() and self._code is not None:
            return self._code
        return self._task.result()

    async def close(self) -> None:
        self.kill(9)
        await self._exited.wait()


@dataclass(slots=True)
class _FakeContainer:
    view: ContainerView
    behaviour: Behaviour
    timer: asyncio.TimerHandle | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: list[FakeExecSession] = field(default_factory=list)


@dataclass(slots=True)
class _FakeSandbox:
    view: SandboxView
    containers: dict[str, _FakeContainer] = field(default_factory=dict)


class FakeDevice:
    """What runs, and the script of what will happen. Outlives every FakeRuntime on it.

    `behave` and `program` decide what containers and execs do; `images` are the references that are present
    (None: all); `fail(call, error)` makes the next call of that name raise; while `reachable` is False every call
    raises Unavailable; `calls` keeps the names and replica ids of the last calls.
    """

    def __init__(
        self,
        clock: Clock,
        directory: Path,
        *,
        behave: Behave = _runs,
        program: Program = _prints_arguments,
        images: Mapping[str, Image] | None = None,
        context: Context | None = None,
    ) -> None:
        """`context`: of the containers' own timers, where callbacks belong to processes that end before the device."""
        self.clock = clock
        self.context = context
        self.directory = directory
        self.behave = behave
        self.program = program
        self.images: dict[str, Image] | None = None if images is None else dict(images)
        self.reachable = True
        self.serving: frozenset[str] | None = None  # None: nobody said
        self.calls: deque[tuple[str, str]] = deque(maxlen=10_000)
        self.sandboxes: dict[str, _FakeSandbox] = {}
        self.events = EventHub()
        self._failures: dict[str, deque[CloudlessError]] = {}
        self._next_pid = 1000

    def fail(self, call: str, error: CloudlessError) -> None:
        self._failures.setdefault(call, deque()).append(error)

    def enter(self, call: str, replica_id: str = "") -> None:
        """Records a call; raises what the script has for it."""
        self.calls.append((call, replica_id))
        if not self.reachable:
            raise Unavailable("the runtime does not answer", reason="RuntimeUnavailable")
        if queued := self._failures.get(call):
            raise queued.popleft()

    def exit(self, replica_id: str, container: str, *, code: int, oom_killed: bool = False) -> None:
        """A running container ends now."""
        held = self.sandboxes[replica_id].containers[container]
        if held.view.state is not ContainerState.RUNNING:
            return
        if held.timer is not None:
            held.timer.cancel()
        held.view = dataclasses.replace(
            held.view,
            state=ContainerState.EXITED,
            pid=0,
            exit_code=code,
            oom_killed=oom_killed,
            finished_at_ms=self.clock.now_ms(),
        )
        for session in held.sessions:
            session.kill(9)
        held.exited.set()
        if oom_killed:
            self.events.publish(RuntimeEvent(replica_id, container, "oom"))
        self.events.publish(RuntimeEvent(replica_id, container, "exit"))

    def power_cycle(self) -> None:
        """The device restarts: everything that ran was killed; records and logs remain."""
        for replica_id, sandbox in self.sandboxes.items():
            for name in sandbox.containers:
                self.exit(replica_id, name, code=137)
        self.events.close()

    def new_pid(self) -> int:
        self._next_pid += 1
        return self._next_pid

    def log_path(self, replica_id: str, container: str) -> Path:
        return self.directory / replica_id / f"{container}.log"

    def append_log(self, replica_id: str, container: str, data: bytes) -> None:
        path = self.log_path(replica_id, container)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)


class FakeRuntime:
    """Implements Runtime on a FakeDevice."""

    def __init__(self, device: FakeDevice, *, name: str = "fake") -> None:
        self.name = name
        self.device = device
        self._starting: dict[str, asyncio.Lock] = {}

    async def start(self) -> None:
        self.device.enter("start")

    async def close(self) -> None:
        self.device.events.close()

    async def describe(self) -> tuple[RuntimeInfo, tuple[Feature, ...]]:
        available = self.device.reachable
        info = RuntimeInfo(self.name, "1", available, "" if available else "the runtime does not answer")
        return info, (Feature("fake", available, "in memory"),)

    async def list(self) -> Sequence[SandboxView]:
        self.device.enter("list")
        return [self._view(replica_id) for replica_id in sorted(self.device.sandboxes)]

    def _sandbox(self, replica_id: str) -> _FakeSandbox:
        held = self.device.sandboxes.get(replica_id)
        if held is None:
            raise NotFound(f"replica {replica_id} has no sandbox here")
        return held

    def _container(self, replica_id: str, container: str) -> _FakeContainer:
        held = self._sandbox(replica_id).containers.get(container)
        if held is None:
            raise NotFound(f"replica {replica_id} has no container {container} here")
        return held

    def _running(self, replica_id: str, container: str) -> _FakeContainer:
        held = self._container(replica_id, container)
        if held.view.state is not ContainerState.RUNNING:
            raise FailedPrecondition(
                f"container {container} of {replica_id} does not run", reason="ContainerNotRunning"
            )
        return held

    def _view(self, replica_id: str) -> SandboxView:
        held = self._sandbox(replica_id)
        return dataclasses.replace(held.view, containers=tuple(c.view for _, c in sorted(held.containers.items())))

    async def ensure_sandbox(self, sandbox: Sandbox) -> SandboxView:
        self.device.enter("ensure_sandbox", sandbox.replica_id)
        if sandbox.replica_id not in self.device.sandboxes:
            ports = tuple(
                PortBinding(p.name, p.container_port, p.container_port, p.protocol)
                for container in sandbox.spec.containers
                for p in container.ports
            )
            view = SandboxView(
                sandbox.replica_id, sandbox.namespace, sandbox.workload, sandbox.generation, "127.0.0.1", ports
            )
            self.device.sandboxes[sandbox.replica_id] = _FakeSandbox(view)
        return self._view(sandbox.replica_id)

    async def start_container(self, sandbox: Sandbox, container: Container, *, attempt: int) -> ContainerView:
        self.device.enter("start_container", sandbox.replica_id)
        async with self._starting.setdefault(sandbox.replica_id, asyncio.Lock()):
            held = self._sandbox(sandbox.replica_id)
            present = held.containers.get(container.name)
            if present and (present.view.state is ContainerState.RUNNING or present.view.attempt >= attempt):
                return present.view
            image = self._image(container)
            behaviour = self.device.behave(sandbox, container, attempt)
            if behaviour.start_delay_ms:
                await asyncio.sleep(behaviour.start_delay_ms / 1000)
            if self.device.sandboxes.get(sandbox.replica_id) is not held:
                raise NotFound(f"replica {sandbox.replica_id} was removed meanwhile")
            if behaviour.start_error:
                raise behaviour.start_error
            view = ContainerView(
                sandbox.replica_id,
                container.name,
                ContainerState.RUNNING,
                attempt,
                pid=self.device.new_pid(),
                started_at_ms=self.device.clock.now_ms(),
                image_digest=image.digest,
            )
            if behaviour.output:
                self.device.append_log(sandbox.replica_id, container.name, behaviour.output)
            started = held.containers[container.name] = _FakeContainer(view, behaviour)
            if behaviour.exit_after_ms is not None:
                started.timer = asyncio.get_running_loop().call_later(
                    behaviour.exit_after_ms / 1000,
                    self._expire,
                    sandbox.replica_id,
                    container.name,
                    started,
                    context=self.device.context,
                )
            self.device.events.publish(RuntimeEvent(sandbox.replica_id, container.name, "start"))
            return view

    def _image(self, container: Container) -> Image:
        if not container.image or self.device.images is None:
            return Image(container.image, f"sha256:{container.image}" if container.image else "", 0)
        if container.image not in self.device.images:
            raise FailedPrecondition(f"image {container.image} is not present", reason="ImageMissing")
        return self.device.images[container.image]

    def _expire(self, replica_id: str, container: str, held: _FakeContainer) -> None:
        sandbox = self.device.sandboxes.get(replica_id)
        if sandbox is None or sandbox.containers.get(container) is not held:
            return
        behaviour = held.behaviour
        self.device.exit(replica_id, container, code=behaviour.exit_code, oom_killed=behaviour.oom_killed)

    async def stop_container(self, replica_id: str, container: str, *, grace_ms: int) -> None:
        self.device.enter("stop_container", replica_id)
        held = self._container(replica_id, container)
        if held.view.state is not ContainerState.RUNNING:
            return
        behaviour = held.behaviour
        delay_ms, code = behaviour.term_delay_ms, behaviour.term_exit_code
        if behaviour.ignores_sigterm or delay_ms > grace_ms:
            delay_ms, code = grace_ms, 137
        asyncio.get_running_loop().call_later(
            delay_ms / 1000, self._end, replica_id, container, held, code, context=self.device.context
        )
        await held.exited.wait()

    def _end(self, replica_id: str, container: str, held: _FakeContainer, code: int) -> None:
        sandbox = self.device.sandboxes.get(replica_id)
        if sandbox is not None and sandbox.containers.get(container) is held:
            self.device.exit(replica_id, container, code=code)

    async def remove_sandbox(self, replica_id: str) -> None:
        self.device.enter("remove_sandbox", replica_id)
        held = self.device.sandboxes.get(replica_id)
        if held is not None:
            for name in list(held.containers):
                self.device.exit(replica_id, name, code=137)
            del self.device.sandboxes[replica_id]
            shutil.rmtree(self.device.directory / replica_id, ignore_errors=True)

    async def set_serving(self, replica_ids: frozenset[str]) -> None:
        self.device.enter("set_serving")
        self.device.serving = replica_ids

    def log_path(self, replica_id: str, container: str) -> Path:
        return self.device.log_path(replica_id, container)

    async def exec(self, request: ExecRequest) -> FakeExecSession:
        self.device.enter("exec", request.replica_id)
        held = self._running(request.replica_id, request.container)
        if not request.command:
            raise InvalidArgument("a command is needed", reason="NoCommand")
        session = FakeExecSession(request, self.device.program)
        held.sessions.append(session)
        return session

    async def stats(self, replica_id: str, container: str) -> ContainerStats:
        self.device.enter("stats", replica_id)
        return self._running(replica_id, container).behaviour.stats

    def events(self) -> AsyncIterator[RuntimeEvent]:
        self.device.enter("events")
        return self.device.events.listen()

    async def import_image(self, archive: Path, *, reference: str = "") -> Sequence[Image]:
        self.device.enter("import_image")
        if self.device.images is None:
            raise FailedPrecondition("this device has every image", reason="FeatureMissing")
        name = reference or archive.stem
        image = Image(name, f"sha256:{name}", (await asyncio.to_thread(archive.stat)).st_size)
        self.device.images[name] = image
        return [image]

    async def images(self) -> Sequence[Image]:
        self.device.enter("images")
        return sorted((self.device.images or {}).values(), key=lambda image: image.reference)
