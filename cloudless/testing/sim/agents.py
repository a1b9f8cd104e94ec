"""An agent's process on its device. The device (and what runs on it) outlives the process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudless.agent.grants import Granted
from cloudless.agent.journal import Journal
from cloudless.agent.link import LinkServices, Stream
from cloudless.agent.session import Session
from cloudless.agent.supervisor import Supervisor
from cloudless.core.model import Assignment, DeviceClass, DeviceInfo, NodeUsage, RuntimeInfo
from cloudless.core.spec import ResourceAmounts
from cloudless.testing.runtime import FakeDevice, FakeRuntime
from cloudless.testing.sim import authority
from cloudless.testing.sim.hosts import Host

if TYPE_CHECKING:
    from cloudless.testing.sim.world import World

CAPACITY: Final = ResourceAmounts(cpu_millis=4000, memory_bytes=4 * 2**30, storage_bytes=100 * 2**30)


class _Device(FakeDevice):
    """Shows what the agent makes its runtime do."""

    def __init__(self, agent: SimAgent, directory: Path) -> None:
        super().__init__(agent.clock, directory)
        self._agent = agent

    def enter(self, call: str, replica_id: str = "") -> None:
        super().enter(call, replica_id)
        if call in ("stop_container", "remove_sandbox"):
            self._agent.world.ledger.stops(self._agent.name, replica_id, call)


class _Supervisor(Supervisor):
    """Shows what the agent is told."""

    agent: SimAgent

    async def assign(self, revision: int, assignments: Sequence[Assignment], granted: Granted | None = None) -> bool:
        accepted = await super().assign(revision, assignments, granted)
        if accepted:
            self.agent.world.ledger.assigned(self.agent.name, revision, assignments)
        return accepted


class SimAgent(Host):
    def __init__(self, world: World, name: str, *, zone: str, scratch: Path) -> None:
        super().__init__(world, name)
        self.zone = zone
        self.device: FakeDevice = _Device(self, scratch / name / "device")
        names = list(world.coordinators)
        self.rng.shuffle(names)
        self._enrolled_with = tuple(names[: world.profile.told])
        self._journal = scratch / name / "journal"
        self._boots = 1
        self.sessions = 0  # that it dialled

    def start(self) -> None:
        if self.process is not None:
            return
        self.begin()
        self.spawn(self._run())

    async def _run(self) -> None:
        world = self.world
        rng = random.Random(self.rng.getrandbits(64))
        grants = authority.grants(self.name)
        journal = Journal(self._journal, fabric=authority.TRUST_DOMAIN, grants=grants)
        runtime = FakeRuntime(self.device, name="containerd")

        async def healthy(*_: Any) -> tuple[bool, str]:
            return True, ""

        supervisor = _Supervisor(runtime, journal, self.clock, healthy, jitter=rng.random)
        supervisor.agent = self
        supervisor.load()
        info = DeviceInfo(
            device_class=DeviceClass.SERVER,
            arch="amd64",
            os="linux",
            hostname=self.name,
            capacity=CAPACITY,
            runtimes=(RuntimeInfo(name="containerd", version="sim", available=True),),
        )
        services = LinkServices(
            node=supervisor,
            clock=self.clock,
            boot_id=f"{self.name}-boot-{self._boots}",
            instance_id=f"{self.process}",
            device=lambda: info,
            usage=lambda: NodeUsage(battery_percent=-1),
            open_channel=lambda _message, _stream: None,
            learn_coordinators=journal.learn_coordinators,
            grants=grants,
            journal_refused=lambda: journal.refused,
        )
        session = Session(
            self._dial,
            services,
            addresses=lambda: journal.coordinators or self._enrolled_with,
            jitter=rng.random,
        )
        self.spawn(supervisor.run())
        await world.run_for_ever(session.run())

    async def _dial(self, address: str) -> Stream:
        self.sessions += 1
        return await self.world.dial(self.name, address, lambda there, stream: there.connect(self.name, stream))

    def power_cycle(self) -> None:
        """The device lost its power: everything on it was killed. The agent is not started yet."""
        self.end(silently=True)
        self.device.power_cycle()
        self._boots += 1
