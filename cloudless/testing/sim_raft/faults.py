"""What breaks, and for how long. Each fault undoes itself, unless the run ends before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeAlias

from cloudless.coordinator.engine import Membership
from cloudless.errors import CloudlessError
from cloudless.testing.sim_raft.processes import Process
from cloudless.testing.sim_raft.world import SimMember, World

Fault: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
VOTERS_MIN, VOTERS_MAX = 3, 5


class Nemesis:
    """Draws faults until the world ends; `heal` undoes whatever is left."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._changes = 0  # of members, under way
        names = [name for name, _ in world.profile.faults]
        self._faults: list[tuple[str, Fault]] = [(name, getattr(self, name)) for name in names]
        self._weights = [weight for _, weight in world.profile.faults]

    async def run(self) -> None:
        world = self._world
        if world.profile.grow:
            for _ in range(world.profile.members - 1):
                self._begin("add", self.add)
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / world.profile.pause_s))
            if not world.running:
                return
            self._begin(*self._rng.choices(self._faults, self._weights)[0])

    def _begin(self, name: str, fault: Fault) -> None:
        self._world.oracle.counts["faults"] += 1
        self._world.oracle.counts[f"fault {name}"] += 1
        self._world.oracle.note(f"-- {name}")
        task = asyncio.get_running_loop().create_task(fault())
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def heal(self) -> None:
        """Everything works again, and every member that has a disk runs."""
        world = self._world
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        world.network.quality = world.calm()
        for source in world.members:
            for target in world.members:
                world.network.slow(source, target, delay_s=0.0)
        world.network.heal()
        for member in world.members.values():
            member.disk.capacity_bytes = None
            member.disk.sync_delay_s = None
            member.disk.cut_power_at = None
            member.disk.fail_syncs(0)
            member.clock.rate = 1.0
            if member.process is not None and member.process.frozen:
                world.loop.thaw(member.process)
            member.start_later(0.0)

    # Who

    def _any_up(self) -> SimMember | None:
        up = [member for member in self._world.members.values() if member.up]
        return self._rng.choice(up) if up else None

    def _names(self) -> list[str]:
        names = [member.name for member in self._world.members.values() if not member.gone]
        self._rng.shuffle(names)
        return names

    def _a_while(self) -> float:
        return self._rng.choice((0.1, 0.4, 1.0, 2.0)) * self._rng.uniform(0.5, 1.5)

    # Processes and machines

    async def power_cut(self) -> None:
        if member := self._any_up():
            member.disk.cut_power_at = member.disk.operations + self._rng.randint(1, 12)

    async def power_off(self) -> None:
        if member := self._any_up():
            member.power_off()
            member.start_later(self._a_while())

    async def crash(self) -> None:
        if member := self._any_up():
            member.kill()
            member.start_later(self._a_while())

    async def power_off_all(self) -> None:
        for member in self._world.members.values():
            if not member.gone:
                member.power_off()
                member.start_later(self._rng.uniform(0.0, 1.0))

    async def crash_all(self) -> None:
        for member in self._world.members.values():
            if not member.gone:
                member.kill()
                member.start_later(self._rng.uniform(0.0, 1.0))

    async def stop(self) -> None:
        """SIGTERM: it closes its store, and ends when that is done or after two seconds."""
        live = self._world.live()
        if not live:
            return
        member = self._rng.choice(live)
        process, store = member.process, member.store
        assert process is not None
        assert store is not None
        try:
            await self._world.loop.ask(process, store.close, timeout_s=2.0)
            self._world.oracle.counts["stopped in good order"] += 1
        except (CloudlessError, TimeoutError, ConnectionError):
            self._world.oracle.counts["stopped otherwise"] += 1
        finally:
            if member.process is process:
                member.kill()
                member.start_later(self._a_while())

    async def freeze(self) -> None:
        await self._freeze(self._any_up())

    async def freeze_leader(self) -> None:
        await self._freeze(self._world.leader())

    async def _freeze(self, member: SimMember | None) -> None:
        process: Process | None = member.process if member else None
        if process is None or process.frozen:
            return
        process.frozen = True
        await asyncio.sleep(self._a_while())
        if process.alive:
            self._world.loop.thaw(process)

    # Disks

    async def slow_disk(self) -> None:
        if not (member := self._any_up()):
            return
        slowest_s = self._rng.choice((0.02, 0.2, 0.8))
        member.disk.sync_delay_s = lambda rng: rng.uniform(0.0, slowest_s)
        await asyncio.sleep(self._a_while())
        member.disk.sync_delay_s = None

    async def full_disk(self) -> None:
        member = self._any_up()
        if member is None or member.cache_lies:
            return
        member.disk.capacity_bytes = member.disk.used_bytes() + self._rng.choice((0, 100, 500, 4000))
        await asyncio.sleep(self._a_while())
        member.disk.capacity_bytes = None

    async def failing_disk(self) -> None:
        """Writes get lost under a sync that says so. The page cache goes on showing them, also to the next process,
        unless the machine is started anew. The log repairs that when it is opened, for which it needs room: a full disk
        as well is more than it promises to get over."""
        if not (member := self._any_up()):
            return
        life = member.process
        full = member.disk.capacity_bytes is not None
        member.cache_lies = True
        member.disk.fail_syncs(1)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if member.process is not life:
                break
        member.disk.fail_syncs(0)
        if full or self._rng.random() < 0.3:
            member.power_off()
            member.start_later(self._a_while())

    # Network

    async def lossy(self) -> None:
        world, rng = self._world, self._rng
        world.network.quality = replace(
            world.network.quality,
            loss=rng.choice((0.0, 0.1, 0.3)),
            duplicate=rng.choice((0.0, 0.2)),
            reorder=rng.choice((0.0, 0.3)),
            late=rng.choice((0.0, 0.05, 0.2)),
            late_max_s=rng.choice((0.2, 1.0, 3.0)),
            delay_max_s=rng.choice((0.005, 0.05)),
        )
        await asyncio.sleep(self._a_while())
        world.network.quality = world.calm()

    async def isolate(self) -> None:
        if member := self._any_up():
            await self._part([member.name], [name for name in self._names() if name != member.name])

    async def isolate_leader(self) -> None:
        if member := self._world.leader():
            await self._part([member.name], [name for name in self._names() if name != member.name])

    async def halves(self) -> None:
        names = self._names()
        at = self._rng.randint(1, max(1, len(names) - 1))
        await self._part(names[:at], names[at:])

    async def _part(self, one: list[str], other: list[str]) -> None:
        await self._cut([way for a in one for b in other for way in ((a, b), (b, a))])

    async def one_way(self) -> None:
        names = self._names()
        if self._rng.random() < 0.5:
            await self._cut([(names[0], other) for other in names[1:]])
        else:
            await self._cut([(a, b) for a in names for b in names if a != b and self._rng.random() < 0.3])

    async def ring(self) -> None:
        """Each reaches its neighbours alone."""
        names = self._names()
        near = {(a, names[(i + 1) % len(names)]) for i, a in enumerate(names)}
        await self._cut([(a, b) for a in names for b in names if a != b and not {(a, b), (b, a)} & near])

    async def _cut(self, ways: list[tuple[str, str]]) -> None:
        for way in ways:
            self._world.network.cut(*way)
        await asyncio.sleep(self._a_while())
        for way in ways:
            self._world.network.heal(*way)

    async def slow_link(self) -> None:
        names = self._names()
        if len(names) < 2:
            return
        self._world.network.slow(names[0], names[1], delay_s=self._rng.choice((0.02, 0.1, 0.4)))
        await asyncio.sleep(self._a_while())
        self._world.network.slow(names[0], names[1], delay_s=0.0)

    # Clocks

    async def drift(self) -> None:
        if member := self._any_up():
            member.clock.rate = self._rng.choice((0.5, 0.95, 1.05, 2.0))

    async def jump(self) -> None:
        if member := self._any_up():
            member.clock.skew_ms += self._rng.randint(-3_600_000, 3_600_000)

    # Members

    async def transfer(self) -> None:
        names = self._names()
        await self._change(lambda membership: membership.transfer(self._rng.choice((*names, ""))))

    async def add(self) -> None:
        """A learner on an empty disk, which is promoted once it has caught up."""
        if len(self._voters()) >= VOTERS_MAX or not self._alone():
            return
        try:
            await self._add()
        finally:
            self._changes -= 1

    async def remove(self) -> None:
        if not self._alone():
            return
        try:
            await self._remove()
        finally:
            self._changes -= 1

    async def replace(self) -> None:
        """A disk is lost; its member comes back under another id."""
        if self._changes or not self._alone():
            return
        try:
            names = [name for name in self._voters() if self._world.survives_without(name)]
            if not names:
                return
            member = self._world.members[self._rng.choice(names)]
            member.wipe()
            self._world.oracle.counts["disks lost"] += 1
            for _ in range(20):
                if await self._change(lambda membership: membership.remove(member.name)):
                    break
                await asyncio.sleep(0.2)
            await self._add()
        finally:
            self._changes -= 1

    def _alone(self) -> bool:
        """One change after the other, mostly: two at once must be refused properly too."""
        if self._changes and self._rng.random() < 0.8:
            return False
        # A member that was lost stays one of the voters until it is removed; another one must not be lost meanwhile.
        if any(self._world.members[name].gone for name in self._voters()):
            return False
        self._changes += 1
        return True

    async def _add(self) -> None:
        member = self._world.new_member()
        member.start()
        for _ in range(5):
            if await self._change(lambda membership: membership.add_learner(member.name, member.name)):
                break
            await asyncio.sleep(0.1)
        else:
            return
        self._world.oracle.counts["members added"] += 1
        for _ in range(15):
            await asyncio.sleep(0.15)
            if await self._change(lambda membership: membership.promote(member.name)):
                self._world.oracle.counts["members promoted"] += 1
                return

    async def _remove(self) -> None:
        voters = self._voters()
        if len(voters) <= VOTERS_MIN:
            return
        leader = self._world.leader()
        name = leader.name if leader and self._rng.random() < 0.4 else self._rng.choice(voters)
        for _ in range(5):
            if await self._change(lambda membership: membership.remove(name)):
                self._world.oracle.counts["members removed"] += 1
                return
            await asyncio.sleep(0.1)

    def _voters(self) -> list[str]:
        """As the leader has them, or else anyone."""
        member = self._world.leader() or next(iter(self._world.live()), None)
        if member is None or member.store is None:
            return []
        return [status.id for status in member.store.status().members if status.voter]

    async def _change(self, change: Callable[[Membership], Coroutine[Any, Any, Any]]) -> bool:
        live = self._world.live()
        if not live:
            return False
        member = self._rng.choice(live)
        process, store = member.process, member.store
        assert process is not None
        assert store is not None
        try:
            await self._world.loop.ask(process, lambda: change(store.membership), timeout_s=1.5)
        except CloudlessError as error:
            self._world.oracle.counts[f"change refused: {error.reason}"] += 1
            return False
        except (TimeoutError, ConnectionError):
            return False
        self._world.oracle.counts["changes"] += 1
        return True
