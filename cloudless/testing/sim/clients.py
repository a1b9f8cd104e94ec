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
from cloudless.core.model import Event, RolloutAction
from cloudless.core.spec import WorkloadSpec, WorkloadType
from cloudless.errors import CloudlessError, Compacted, WatchLagged
from cloudless.testing.sim.workloads import NAMESPACE, Author, kind_of, names
from cloudless.testing.sim.world import World

_STAY_S: Final = (1.0, 12.0)  # with one coordinator
REFUSED: Final = ("failed_precondition", "not_found", "conflict", "aborted")  # a wish that came too late


class Work:
    """Creates, changes, scales and deletes workloads, interferes with their rollouts and starts runs; remembers what
    was acknowledged. `wanted`: the replicas of services, 0 for other kinds."""

    def __init__(self, world: World, rng: random.Random) -> None:
        profile = world.profile
        self._world = world
        self._rng = rng
        self._names = names(profile.services)
        self.author = Author(
            random.Random(rng.getrandbits(64)),
            agents=profile.agents,
            lease_ms=profile.lease_ms,
            cpu_millis=profile.asked_millis,
        )
        self.wanted: dict[str, int] = {}
        self._specs: dict[str, WorkloadSpec] = {}
        self._count = 0

    async def run(self, seconds: float) -> None:
        end = self._world.loop.time() + seconds
        while self._world.loop.time() < end:
            await self._one()
            await asyncio.sleep(self._rng.expovariate(1 / self._world.profile.think_s))

    async def _one(self) -> None:
        self._count += 1
        name = self._rng.choices(self._names, [3 if name.startswith("s") else 1 for name in self._names])[0]
        wish = self._wish(name)
        if wish is None:
            return
        try:
            await self._world.write(wish, request_id=f"work-{self._count}")
        except CloudlessError as error:
            # A workload that is still being deleted cannot be written yet, a rollout has nothing to promote, ...
            if error.code not in REFUSED:
                raise
            return
        match wish:
            case commands.DeleteWorkload():
                self.wanted.pop(name, None)
                self._specs.pop(name, None)
            case commands.ScaleWorkload(replicas=replicas):
                self.wanted[name] = replicas
            case commands.PutWorkload(spec=spec):
                self._specs[name] = spec
                self.wanted[name] = spec.replicas if spec.type is WorkloadType.SERVICE else 0

    def _wish(self, name: str) -> commands.Command | None:
        spec = self._specs.get(name)
        if spec is None:
            return commands.PutWorkload(*self.author.first(name))
        choice = self._rng.random()
        if choice < 0.1:
            return commands.DeleteWorkload(NAMESPACE, name)
        if choice < 0.5:
            return commands.PutWorkload(*self.author.next(name, spec))
        if kind_of(name) in (WorkloadType.JOB, WorkloadType.CRON):
            return commands.StartRun(NAMESPACE, name)
        if choice < 0.65 and kind_of(name) is WorkloadType.SERVICE:
            # Below minAvailable no number is taken.
            least = max(1, spec.rollout.min_available)
            return commands.ScaleWorkload(NAMESPACE, name, self._rng.randrange(least, 7))
        if choice < 0.72:
            return commands.RestartWorkload(NAMESPACE, name)
        action = self._rng.choices(list(RolloutAction), (2, 4, 4, 2))[0]
        return commands.ControlRollout(NAMESPACE, name, action)


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
