"""The simulated fabric: one coordinator and its agents, made of the same parts as the real programs.

Only the edges are replaced: clock and event loop (`simloop`), connections (`simnet`), the coordinator's disk
(`disk.SimDisk`), containers (`runtime.FakeRuntime`). Agents' journals are real files in a scratch folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from cloudless.agent.journal import Journal
from cloudless.agent.link import LinkServices
from cloudless.agent.session import Session
from cloudless.agent.supervisor import Supervisor
from cloudless.config import SchedulerConfig, SessionConfig, StoreConfig
from cloudless.coordinator.core import commands
from cloudless.coordinator.core.state import State, WorkloadKey
from cloudless.coordinator.loops import ReconcileLoop
from cloudless.coordinator.reconciling import workload_loop
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import DeviceClass, DeviceInfo, JoinToken, NodeUsage, RuntimeInfo
from cloudless.core.spec import ResourceAmounts
from cloudless.errors import CloudlessError, Unavailable
from cloudless.testing.disk import SimDisk
from cloudless.testing.runtime import FakeDevice, FakeRuntime
from cloudless.testing.simloop import SimClock, SimLoop
from cloudless.testing.simnet import SimNetwork, SimStream

COORDINATOR = "coordinator"
_DATA = Path("/data")
_TOKEN = "join"  # noqa: S105 - the id of a token in the simulated state


class World:
    """Everything of one run. Randomness comes from `rng` alone, so that a seed fixes it all."""

    def __init__(self, loop: SimLoop, rng: random.Random, scratch: Path, *, agents: int) -> None:
        self.loop = loop
        self.rng = rng
        self.clock = SimClock(loop)
        self.failures: list[BaseException] = []  # of background tasks: errors of the run
        self.network = SimNetwork(random.Random(rng.getrandbits(64)))
        self.coordinator = SimCoordinator(self)
        self.agents = [SimAgent(self, f"n{i:02}", zone=f"z{i % 4}", scratch=scratch) for i in range(agents)]

    async def start(self) -> None:
        await self.coordinator.start()
        await self.coordinator.enroll([agent.name for agent in self.agents])
        for agent in self.agents:
            agent.start()

    async def stop(self) -> None:
        for agent in self.agents:
            await agent.stop()
        await self.coordinator.stop()


class _Tasks:
    """Background tasks of one process; an error in one is an error of the run."""

    def __init__(self, failures: list[BaseException]) -> None:
        self._failures = failures
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their start, which a set does not keep

    def spawn(self, work: Coroutine[Any, Any, Any], *, may_fail: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None

        def ended(done: asyncio.Task[Any]) -> None:
            self._tasks.pop(done, None)
            if not done.cancelled() and (error := done.exception()) is not None and not may_fail:
                self._failures.append(error)

        task.add_done_callback(ended)

    async def cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SimCoordinator:
    """The coordinator's process on its simulated disk. `store` is None while it is down."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.disk = SimDisk(world.rng.getrandbits(32), base=world.loop.time)
        self.store: Store[State] | None = None
        self.observers: list[Callable[[State], None]] = []
        self._hub: SessionHub | None = None
        self._loop: ReconcileLoop[State, WorkloadKey] | None = None
        self._tasks = _Tasks(world.failures)
        self._rng = random.Random(world.rng.getrandbits(64))

    async def start(self) -> None:
        world = self._world
        store = await Store.open(
            _DATA,
            machine=FabricMachine("sim.local"),
            clock=world.clock,
            config=StoreConfig(segment_bytes=64 * 1024, snapshot_entries=400),
            filesystem=self.disk,
            run_blocking=self.disk.run_blocking,
            seconds=self.disk.seconds,
            random_bits=self._rng.getrandbits,
        )
        store.snapshot.state.validate()
        hub = SessionHub(
            store,
            world.clock,
            SessionConfig(),
            (COORDINATOR,),
            coordinator_id=COORDINATOR,
            new_channel_id=lambda: f"{self._rng.getrandbits(64):x}",
        )
        loop = workload_loop(store, clock=world.clock, rng=self._rng, scheduler=SchedulerConfig(), usages=hub.usages)
        self.store, self._hub = store, hub
        self._tasks = _Tasks(world.failures)
        await hub.start()
        loop.start()
        self._loop = loop
        self._tasks.spawn(self._observe(store))

    async def _observe(self, store: Store[State]) -> None:
        with contextlib.suppress(Unavailable):
            async for batch in store.watch(store.snapshot.index):
                for observer in self.observers:
                    observer(batch.state)

    async def enroll(self, names: list[str]) -> None:
        token = JoinToken(id=_TOKEN, node_pattern="*", max_uses=10_000, expires_at_ms=2**60)
        await self.write(commands.CreateToken(token), request_id="token")
        for name in names:
            enrollment = commands.EnrollNode(token_id=_TOKEN, node_id=name, public_key_sha256=f"key-{name}")
            await self.write(enrollment, request_id=f"enroll-{name}")

    async def write(self, command: Any, *, request_id: str) -> None:
        """Repeats a write under its id until it is acknowledged, as clients do. Raises what it is refused with."""
        while True:
            try:
                if self.store is None:
                    raise Unavailable("down")
                await self.store.propose(command, actor="user/sim", request_id=request_id)
                return
            except CloudlessError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.2)

    async def accept(self, node_id: str, stream: SimStream) -> None:
        """One session, as the gRPC handler runs it: an error ends the stream, a broken stream ends the session."""
        hub = self._hub
        if hub is None:
            stream.break_off()
            return
        try:
            await hub.serve(node_id, stream)
        except CloudlessError:
            stream.break_off()
        else:
            await stream.close()

    async def dial(self, node_id: str) -> SimStream:
        near, far = await self._world.network.connect(node_id, COORDINATOR)
        if self.store is None:
            raise Unavailable("connection refused")
        self._tasks.spawn(self.accept(node_id, far), may_fail=True)
        return near

    async def crash(self, *, power_cut: bool) -> None:
        """The process is gone at once; with a power cut, what was not synced may be gone too."""
        if self.store is None:
            return
        self._world.network.crash(COORDINATOR)
        hub, store, self._hub, self.store = self._hub, self.store, None, None
        if power_cut:
            self.disk.power_cut()
        else:
            self.disk.restart()
        await self._tasks.cancel()
        await self._stop_loops(hub)
        with contextlib.suppress(CloudlessError, OSError):
            await store.close()
        # closing above must not have repaired anything
        self.disk.restart()

    async def stop(self) -> None:
        if self.store is None:
            return
        hub, store, self._hub, self.store = self._hub, self.store, None, None
        await self._stop_loops(hub)
        await self._tasks.cancel()
        await store.close()

    async def _stop_loops(self, hub: SessionHub | None) -> None:
        if self._loop is not None:
            await self._loop.stop()
        if hub is not None:
            await hub.close()


class SimAgent:
    """An agent's process on its device. The device (and what runs on it) outlives the process."""

    CAPACITY = ResourceAmounts(cpu_millis=4000, memory_bytes=4 * 2**30, storage_bytes=100 * 2**30)

    def __init__(self, world: World, name: str, *, zone: str, scratch: Path) -> None:
        self._world = world
        self.name = name
        self.zone = zone
        self.device = FakeDevice(world.clock, scratch / name / "device")
        self.running = False
        self._journal = scratch / name / "journal"
        self._tasks = _Tasks(world.failures)
        self._starts = 0
        self._boots = 1

    def start(self) -> None:
        if self.running:
            return
        self.running = True
        self._starts += 1
        world = self._world
        rng = random.Random(world.rng.getrandbits(64))
        journal = Journal(self._journal, fabric="sim.local")
        runtime = FakeRuntime(self.device, name="containerd")

        async def healthy(*_: Any) -> tuple[bool, str]:
            return True, ""

        supervisor = Supervisor(runtime, journal, world.clock, healthy, jitter=rng.random)
        supervisor.load()
        info = DeviceInfo(
            device_class=DeviceClass.SERVER,
            arch="amd64",
            os="linux",
            hostname=self.name,
            capacity=self.CAPACITY,
            runtimes=(RuntimeInfo(name="containerd", version="sim", available=True),),
        )
        services = LinkServices(
            node=supervisor,
            clock=world.clock,
            boot_id=f"{self.name}-boot-{self._boots}",
            instance_id=f"{self.name}-{self._starts}",
            device=lambda: info,
            usage=lambda: NodeUsage(battery_percent=-1),
            open_channel=lambda _message, _stream: None,
            learn_coordinators=journal.learn_coordinators,
        )
        session = Session(
            lambda _address: world.coordinator.dial(self.name),
            services,
            addresses=lambda: (COORDINATOR,),
            jitter=rng.random,
        )
        self._tasks = _Tasks(world.failures)
        self._tasks.spawn(supervisor.run())
        self._tasks.spawn(session.run())

    async def kill(self) -> None:
        """kill -9 of the agent; containers live on."""
        if self.running:
            self.running = False
            self._world.network.crash(self.name)
            await self._tasks.cancel()

    async def power_cycle(self) -> None:
        """The device restarts: everything on it was killed. The agent is not started yet."""
        await self.kill()
        self.device.power_cycle()
        self._boots += 1

    async def stop(self) -> None:
        await self.kill()
