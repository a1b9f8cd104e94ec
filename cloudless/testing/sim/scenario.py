"""One seed: random work under random faults, then peace, in which everything must come right."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloudless.coordinator.core import commands, snapshot
from cloudless.core import defaults
from cloudless.core.spec import (
    Container,
    Metadata,
    Placement,
    ResourceAmounts,
    Resources,
    SpreadConstraint,
    WorkloadSpec,
)
from cloudless.errors import CloudlessError
from cloudless.testing import simloop
from cloudless.testing.sim import checks
from cloudless.testing.sim.world import COORDINATOR, World

SAFETY_S = 90.0
LIVENESS_S = 240.0


@dataclass(frozen=True)
class Outcome:
    seed: int
    history: str  # a hash of every step
    state_hash: str
    entries: int
    virtual_s: float
    faults: int


class SimulationFailed(AssertionError):
    """A check did not hold; the message names the seed that shows it again."""


def run_seed(seed: int, *, agents: int = 20) -> Outcome:
    """Runs one seed. Raises SimulationFailed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    shared = Path("/dev/shm")  # noqa: S108 - journals sync often; nothing secret is in them
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as scratch:
        try:
            return simloop.run(lambda loop: _main(loop, seed, Path(scratch), agents))
        except (AssertionError, CloudlessError, simloop.Deadlock, simloop.TimeLimit) as error:
            raise SimulationFailed(f"seed {seed}: {error} (again: make sim SEED={seed})") from error
        finally:
            structlog.reset_defaults()


async def _main(loop: simloop.SimLoop, seed: int, scratch: Path, agents: int) -> Outcome:
    rng = random.Random(seed)
    world = World(loop, rng, scratch, agents=agents)
    history = checks.History()
    await world.start()

    def observe(state: object) -> None:
        checks.always(state)  # type: ignore[arg-type]
        checks.no_second_copy(world)
        assert world.coordinator.store is not None
        history.add(round(loop.time(), 6), world.coordinator.store.snapshot.index)

    world.coordinator.observers.append(observe)
    work = _Work(world, random.Random(rng.getrandbits(64)))
    faults = _Faults(world, random.Random(rng.getrandbits(64)))
    writing = loop.create_task(work.run(SAFETY_S))
    await faults.run(SAFETY_S)
    await faults.heal()
    await writing
    deadline = loop.time() + LIVENESS_S
    while missing := checks.converged(world, work.wanted):
        _raise_failures(world)
        assert loop.time() < deadline, f"not converged after {LIVENESS_S:.0f} s of peace: {missing}"
        await asyncio.sleep(0.5)
    _raise_failures(world)
    store = world.coordinator.store
    assert store is not None
    entries = -1
    while entries != store.snapshot.index:  # nothing is under way any more
        entries = store.snapshot.index
        await asyncio.sleep(2)
    state = store.snapshot.state
    live = snapshot.state_hash(state)
    # what a restart reads from the disk is what the member held
    await world.coordinator.crash(power_cut=True)
    await world.coordinator.start()
    again = world.coordinator.store
    assert again is not None
    assert again.snapshot.index == entries, f"the log ends at {again.snapshot.index}, the member was at {entries}"
    assert snapshot.state_hash(again.snapshot.state) == live, "the log gives another state than the member held"
    history.add(live)
    await world.stop()
    return Outcome(seed, history.digest(), live, entries, loop.time(), faults.count)


def _raise_failures(world: World) -> None:
    for failure in world.failures:
        raise AssertionError(f"a task died: {failure!r}") from failure


class _Work:
    """A client that creates, changes, scales and deletes workloads, and remembers what was acknowledged."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.wanted: dict[str, int] = {}
        self._count = 0

    async def run(self, seconds: float) -> None:
        end = self._world.loop.time() + seconds
        while self._world.loop.time() < end:
            await self._one()
            await asyncio.sleep(self._rng.expovariate(0.5))

    async def _one(self) -> None:
        self._count += 1
        request_id = f"work-{self._count}"
        name = f"w{self._rng.randrange(8)}"
        coordinator = self._world.coordinator
        choice = self._rng.random()
        try:
            if name in self.wanted and choice < 0.2:
                await coordinator.write(commands.DeleteWorkload("default", name), request_id=request_id)
                del self.wanted[name]
            elif name in self.wanted and choice < 0.5:
                replicas = self._rng.randrange(1, 7)
                await coordinator.write(commands.ScaleWorkload("default", name, replicas), request_id=request_id)
                self.wanted[name] = replicas
            else:
                metadata, spec = self._spec(name)
                await coordinator.write(commands.PutWorkload(metadata, spec), request_id=request_id)
                self.wanted[name] = spec.replicas
        except CloudlessError as error:
            # a workload that is still being deleted cannot be written yet
            if error.code not in ("failed_precondition", "not_found"):
                raise

    def _spec(self, name: str) -> tuple[Metadata, WorkloadSpec]:
        container = Container(
            name="main",
            image="example.local/app:1",
            args=(str(self._rng.randrange(4)),),
            resources=Resources(
                requests=ResourceAmounts(
                    cpu_millis=self._rng.choice((100, 500, 1500)), memory_bytes=self._rng.choice((64, 512)) * 2**20
                )
            ),
        )
        spread = (SpreadConstraint("zone", 1),) if self._rng.random() < 0.5 else ()
        spec = WorkloadSpec(
            replicas=self._rng.randrange(1, 7),
            priority=50,
            containers=(container,),
            placement=Placement(spread=spread),
        )
        return defaults.apply(Metadata(name=name), spec)


class _Faults:
    """Breaks things at random, a few at a time."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.count = 0
        self._kinds: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (3, self._cut_agent),
            (2, self._one_way),
            (2, self._kill_agent),
            (2, self._power_cycle),
            (2, self._crash_coordinator),
            (2, self._exit_container),
            (1, self._loss),
            (1, self._calm),
        )

    async def run(self, seconds: float) -> None:
        end = self._world.loop.time() + seconds
        weights = [weight for weight, _ in self._kinds]
        while self._world.loop.time() < end:
            await asyncio.sleep(self._rng.expovariate(0.4))
            (_, fault) = self._rng.choices(self._kinds, weights)[0]
            self.count += 1
            await fault()

    async def heal(self) -> None:
        self._world.network.heal()
        self._world.network.quality.loss = 0.0
        if self._world.coordinator.store is None:
            await self._world.coordinator.start()
        for agent in self._world.agents:
            agent.start()

    def _agent(self) -> str:
        return self._rng.choice(self._world.agents).name

    async def _cut_agent(self) -> None:
        name = self._agent()
        self._world.network.cut(name, COORDINATOR)
        self._world.network.cut(COORDINATOR, name)

    async def _one_way(self) -> None:
        ends = [self._agent(), COORDINATOR]
        self._rng.shuffle(ends)
        self._world.network.cut(ends[0], ends[1])

    async def _kill_agent(self) -> None:
        agent = self._rng.choice(self._world.agents)
        await agent.kill()
        await asyncio.sleep(self._rng.uniform(0, 8))
        agent.start()

    async def _power_cycle(self) -> None:
        agent = self._rng.choice(self._world.agents)
        await agent.power_cycle()
        await asyncio.sleep(self._rng.uniform(0, 8))
        agent.start()

    async def _crash_coordinator(self) -> None:
        await self._world.coordinator.crash(power_cut=self._rng.random() < 0.5)
        await asyncio.sleep(self._rng.uniform(0.1, 8))
        await self._world.coordinator.start()

    async def _exit_container(self) -> None:
        device = self._rng.choice(self._world.agents).device
        for replica_id in sorted(device.sandboxes):
            for container in sorted(device.sandboxes[replica_id].containers):
                device.exit(replica_id, container, code=1, oom_killed=self._rng.random() < 0.3)

    async def _loss(self) -> None:
        self._world.network.quality.loss = self._rng.choice((0.05, 0.3))

    async def _calm(self) -> None:
        self._world.network.heal()
        self._world.network.quality.loss = 0.0
