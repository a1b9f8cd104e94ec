"""What breaks, and for how long. Each fault undoes itself, unless the run ends before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from cloudless.coordinator.core import commands
from cloudless.core.model import Taint
from cloudless.core.spec import TaintEffect
from cloudless.errors import CloudlessError
from cloudless.testing.sim.agents import MAINS_PERCENT, SimAgent
from cloudless.testing.sim.coordinators import SimCoordinator
from cloudless.testing.sim.hosts import Host
from cloudless.testing.sim.profile import JUMP_MS
from cloudless.testing.sim.workloads import TAINT
from cloudless.testing.sim.world import World

_CLOCK_LOST_MS = 30 * 60_000  # of a device without a battery for its clock, by a reboot

Fault: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
Ways: TypeAlias = list[tuple[str, str]]


class Nemesis:
    """Draws faults for a while; `heal` undoes whatever is left."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.count = 0
        self._told = 0
        self._faults: list[tuple[str, Fault]] = [(name, getattr(self, name)) for name, _ in world.profile.faults]
        self._weights = [weight for _, weight in world.profile.faults]
        if world.profile.twins:
            self._faults.append(("twin", self.twin))
            self._weights.append(1.5)

    async def run(self, seconds: float) -> None:
        world = self._world
        ends_s = world.loop.time() + seconds
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / world.profile.pause_s))
            if world.loop.time() >= ends_s:
                return
            name, fault = self._rng.choices(self._faults, self._weights)[0]
            self.count += 1
            world.note(f"-- {name}")
            task = world.loop.create_task(fault())
            self._tasks[task] = None
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.failures.append(error)

    async def heal(self) -> None:
        """Everything works again, and everything runs."""
        world = self._world
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        world.note("== healed")
        world.network.heal()
        world.network.quality.loss = 0.0
        world.members.heal()
        for coordinator in world.coordinators.values():
            coordinator.disk.sync_delay_s = None
        for twin in world.twins.values():
            twin.end()
            # What a person is told to do: the agent that gave way to it is started anew.
            next(agent for agent in world.agents if agent.name == twin.identity).end()
        world.twins.clear()
        for agent in world.agents:
            agent.drain_battery(MAINS_PERCENT)
            agent.press(())
            agent.grow()
        for host in (*world.coordinators.values(), *world.agents):
            host.thaw()
            host.start_later(0.0)

    # Who

    def _agent(self) -> SimAgent:
        return self._rng.choice(self._world.agents)

    def _coordinator(self) -> SimCoordinator:
        return self._rng.choice(list(self._world.coordinators.values()))

    def _leader(self) -> SimCoordinator:
        return self._world.leader() or self._coordinator()

    def _names(self) -> list[str]:
        names = list(self._world.coordinators)
        self._rng.shuffle(names)
        return names

    def _a_while(self) -> float:
        return self._rng.choice((0.3, 2.0, 5.0, 12.0)) * self._rng.uniform(0.5, 1.5)

    # Agents

    async def cut_agent(self) -> None:
        """From every coordinator."""
        name = self._agent().name
        await self._cut([way for other in self._names() for way in ((name, other), (other, name))])

    async def cut_agent_from_some(self) -> None:
        name, others = self._agent().name, self._names()
        others = others[: self._rng.randint(1, max(1, len(others) - 1))]
        await self._cut([way for other in others for way in ((name, other), (other, name))])

    async def one_way(self) -> None:
        name = self._agent().name
        up = self._rng.random() < 0.5
        await self._cut([(name, other) if up else (other, name) for other in self._names() if self._rng.random() < 0.7])

    async def kill_agent(self) -> None:
        agent = self._agent()
        agent.end()
        await self._back(agent)

    async def restart_agent(self) -> None:
        """At once: the connection of its last life may not have been given up yet."""
        agent = self._agent()
        agent.end(silently=self._rng.random() < 0.5)
        agent.start_later(self._rng.uniform(0.0, 0.3))

    async def power_cycle_agent(self) -> None:
        agent = self._agent()
        agent.power_cycle()
        await self._back(agent)

    async def freeze_agent(self) -> None:
        await self._freeze(self._agent())

    async def exit_containers(self) -> None:
        device = self._agent().device
        for replica_id in sorted(device.sandboxes):
            for container in sorted(device.sandboxes[replica_id].containers):
                device.exit(replica_id, container, code=1, oom_killed=self._rng.random() < 0.3)

    async def loss(self) -> None:
        """Of packets, between agents and coordinators, and between coordinators."""
        self._world.network.quality.loss = self._rng.choice((0.05, 0.3))
        await asyncio.sleep(self._a_while())
        self._world.network.quality.loss = 0.0

    async def flap(self) -> None:
        """A link that comes and goes."""
        name = self._agent().name
        ways = [way for other in self._names() for way in ((name, other), (other, name))]
        for _ in range(self._rng.randint(2, 5)):
            await self._cut(ways, seconds=self._rng.uniform(0.2, 2.5))
            await asyncio.sleep(self._rng.uniform(0.2, 2.5))

    async def reboot_offline(self) -> None:
        """A device restarts while no coordinator is in reach, and some have no clock of their own."""
        agent = self._agent()
        ways = [way for other in self._names() for way in ((agent.name, other), (other, agent.name))]
        cutting = self._world.loop.create_task(self._cut(ways, seconds=self._rng.choice((4.0, 12.0, 30.0))))
        try:
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))
            agent.power_cycle(clock_lost_ms=_CLOCK_LOST_MS if self._rng.random() < 0.3 else 0)
            await asyncio.sleep(self._rng.uniform(0.2, 3.0))
            agent.start()
            await cutting
        finally:
            cutting.cancel()

    async def battery(self) -> None:
        """It goes below what the owner wants to keep, and is charged again."""
        agent = self._agent()
        for percent in (35, 15):
            agent.drain_battery(percent)
            await asyncio.sleep(self._a_while())
        agent.drain_battery(self._rng.choice((30, 45, MAINS_PERCENT)))
        await asyncio.sleep(self._a_while())
        agent.drain_battery(MAINS_PERCENT)

    async def pressure(self) -> None:
        agent = self._agent()
        agent.press(("memory",))
        await asyncio.sleep(self._a_while())
        agent.press(())

    async def jump_of_device(self) -> None:
        self._agent().clock.skew_ms += self._rng.randint(-JUMP_MS, JUMP_MS)

    async def twin(self) -> None:
        """A disk was copied: another device has the identity of one."""
        agent = self._agent()
        if agent.name in self._world.twins:
            return
        twin = self._world.add_twin(agent.name)
        twin.start()
        await asyncio.sleep(self._a_while())
        twin.end()

    # People and nodes

    async def drain(self) -> None:
        name = self._agent().name
        await self._tell(commands.UpdateNode(name, draining=True))
        await asyncio.sleep(self._a_while())
        if self._rng.random() < 0.8:
            await self._tell(commands.UpdateNode(name, cordoned=False))

    async def cordon(self) -> None:
        name = self._agent().name
        await self._tell(commands.UpdateNode(name, cordoned=True))
        await asyncio.sleep(self._a_while())
        await self._tell(commands.UpdateNode(name, cordoned=False))

    async def taint(self) -> None:
        name = self._agent().name
        effect = self._rng.choice((TaintEffect.NO_EXECUTE, TaintEffect.NO_SCHEDULE))
        await self._tell(commands.UpdateNode(name, set_taints=(Taint(TAINT, "", effect),)))
        await asyncio.sleep(self._a_while())
        await self._tell(commands.UpdateNode(name, remove_taints=(TAINT,)))

    async def _tell(self, command: commands.UpdateNode) -> None:
        self._told += 1
        await self._world.write(command, request_id=f"node-{self._told}")

    # Coordinators

    async def crash(self) -> None:
        await self._end(self._coordinator(), silently=False)

    async def crash_leader(self) -> None:
        await self._end(self._leader(), silently=False)

    async def power_off(self) -> None:
        await self._end(self._coordinator(), silently=True)

    async def power_off_leader(self) -> None:
        await self._end(self._leader(), silently=True)

    async def power_off_all(self) -> None:
        silently = self._rng.random() < 0.7
        for coordinator in self._world.coordinators.values():
            coordinator.end(silently=silently)
            coordinator.start_later(self._a_while())

    async def stop(self) -> None:
        """SIGTERM, as before an upgrade."""
        coordinator = self._coordinator()
        await coordinator.stop()
        await self._back(coordinator)

    async def freeze(self) -> None:
        await self._freeze(self._coordinator())

    async def freeze_leader(self) -> None:
        await self._freeze(self._leader())

    async def slow_disk(self) -> None:
        coordinator, slowest_s = self._coordinator(), self._rng.choice((0.02, 0.2))
        coordinator.disk.sync_delay_s = lambda rng: rng.uniform(0.0, slowest_s)
        await asyncio.sleep(self._a_while())
        coordinator.disk.sync_delay_s = None

    async def jump(self) -> None:
        """Of a wall clock. Rollouts wait by the wall clocks of those that lead, so that more would only take longer."""
        self._coordinator().clock.skew_ms += self._rng.randint(-JUMP_MS, JUMP_MS)

    async def transfer(self) -> None:
        there, to = self._coordinator(), self._rng.choice((*self._names(), ""))
        process, store = there.process, there.store
        if process is None or store is None:
            return
        try:
            await self._world.loop.ask(process, lambda: store.membership.transfer(to), timeout_s=3.0)
        except (CloudlessError, TimeoutError, ConnectionError) as error:
            self._world.note(f"not transferred to {to or 'anyone'}: {error!r}")

    # Coordinators among themselves

    async def isolate(self) -> None:
        await self._isolate(self._coordinator())

    async def isolate_leader(self) -> None:
        """From its peers; its agents still reach it."""
        await self._isolate(self._leader())

    async def _isolate(self, one: SimCoordinator) -> None:
        ways = [way for name in self._names() if name != one.name for way in ((one.name, name), (name, one.name))]
        await self._cut(ways, members=True)

    async def cut_leader_from_agents(self) -> None:
        """Its peers still reach it."""
        leader = self._leader().name
        names = [agent.name for agent in self._world.agents]
        await self._cut([way for name in names for way in ((name, leader), (leader, name))])

    async def one_way_members(self) -> None:
        names = self._names()
        if self._rng.random() < 0.5:
            ways = [(names[0], other) for other in names[1:]]
        else:
            ways = [(a, b) for a in names for b in names if a != b and self._rng.random() < 0.3]
        await self._cut(ways, members=True)

    async def cut_observation(self) -> None:
        """Two coordinators have the log in common and no more."""
        one, other = self._names()[:2]
        await self._cut([(one, other), (other, one)])

    # How

    async def _cut(self, ways: Ways, *, members: bool = False, seconds: float = 0.0) -> None:
        world = self._world
        world.note(f"   cut {ways}")
        for way in ways:
            world.network.cut(*way)
            if members:
                world.members.cut(*way)
        await asyncio.sleep(seconds or self._a_while())
        world.note(f"   no longer cut {ways}")
        for way in ways:
            world.network.heal(*way)
            if members:
                world.members.heal(*way)

    async def _end(self, host: Host, *, silently: bool) -> None:
        host.end(silently=silently)
        await self._back(host)

    async def _back(self, host: Host) -> None:
        await asyncio.sleep(self._a_while())
        host.start()

    async def _freeze(self, host: Host) -> None:
        process = host.process
        if process is None or process.frozen:
            return
        host.freeze()
        await asyncio.sleep(self._a_while())
        if host.process is process:
            host.thaw()
