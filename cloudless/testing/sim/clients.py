"""Who uses the fabric: a client that changes workloads, and one that reads the events."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_right
from contextlib import closing
from typing import Final

from cloudless.coordinator.core import commands
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.core import defaults
from cloudless.core.model import Event
from cloudless.core.spec import (
    Container,
    Metadata,
    Placement,
    ResourceAmounts,
    Resources,
    SpreadConstraint,
    WorkloadSpec,
)
from cloudless.errors import CloudlessError, Compacted, WatchLagged
from cloudless.testing.sim.world import World

_STAY_S: Final = (1.0, 12.0)  # with one coordinator


class Work:
    """Creates, changes, scales and deletes workloads, and remembers what was acknowledged."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.wanted: dict[str, int] = {}
        self._count = 0

    async def run(self, seconds: float) -> None:
        end = self._world.loop.time() + seconds
        while self._world.loop.time() < end:
            await self._one()
            await asyncio.sleep(self._rng.expovariate(1.0))

    async def _one(self) -> None:
        self._count += 1
        request_id = f"work-{self._count}"
        name = f"w{self._rng.randrange(6)}"
        choice = self._rng.random()
        try:
            if name in self.wanted and choice < 0.2:
                await self._world.write(commands.DeleteWorkload("default", name), request_id=request_id)
                del self.wanted[name]
            elif name in self.wanted and choice < 0.5:
                replicas = self._rng.randrange(1, 6)
                await self._world.write(commands.ScaleWorkload("default", name, replicas), request_id=request_id)
                self.wanted[name] = replicas
            else:
                metadata, spec = self._spec(name)
                await self._world.write(commands.PutWorkload(metadata, spec), request_id=request_id)
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
                    cpu_millis=self._rng.choice((100, 300, 700)), memory_bytes=self._rng.choice((64, 256)) * 2**20
                )
            ),
        )
        spread = (SpreadConstraint("zone", 1),) if self._rng.random() < 0.5 else ()
        spec = WorkloadSpec(
            replicas=self._rng.randrange(1, 6),
            priority=50,
            containers=(container,),
            placement=Placement(spread=spread),
        )
        return defaults.apply(Metadata(name=name), spec)


class EventReader:
    """Follows the events, now through one coordinator and now through another, as WatchEvents lets it: each event
    must come once, in the order of the log."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.seen: tuple[int, int] = (0, 0)
        self.attachments = 0

    async def run(self) -> None:
        while True:
            candidates = self._world.up()
            if not candidates:
                await asyncio.sleep(0.5)
                continue
            there = self._rng.choice(candidates)
            process, store = there.process, there.store
            assert process is not None
            assert store is not None
            self.attachments += 1
            number = self.attachments
            try:
                await self._world.loop.ask(
                    process,
                    lambda: self._follow(store, number),  # noqa: B023
                    timeout_s=self._rng.uniform(*_STAY_S),
                )
            except (CloudlessError, TimeoutError, ConnectionError):
                await asyncio.sleep(0.1)

    async def _follow(self, store: Store[State], number: int) -> None:
        """Within the coordinator's process: what `rpc.services.events` does behind its barrier."""
        await store.read_barrier()
        snapshot = store.snapshot
        try:
            with closing(store.watch(snapshot.index)) as batches:
                for event in snapshot.state.events:
                    if (event.index, event.sequence) > self.seen:
                        self._take(event, number)
                async for batch in batches:
                    for event in batch.events:
                        self._take(event, number)
        except (WatchLagged, Compacted):
            return

    def _take(self, event: Event, number: int) -> None:
        if number != self.attachments:
            return  # the stream to this coordinator was given up
        world, key = self._world, (event.index, event.sequence)
        with world.checking():
            events = world.ledger.events
            expected = bisect_right(events, self.seen)
            assert expected < len(events), f"event {key} is unknown"
            assert events[expected] == key, f"event {key} came in place of {events[expected]}"
            self.seen = key
