"""An agent's process on its device. The device (and what runs on it) outlives the process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from cloudless.agent.core import model as m
from cloudless.agent.core import owner
from cloudless.agent.grants import Granted, Renewal
from cloudless.agent.journal import Journal
from cloudless.agent.link import LinkServices, Stream
from cloudless.agent.owner_rules import OwnerRules
from cloudless.agent.owner_watch import OwnerWatch
from cloudless.agent.runtime.base import Sandbox
from cloudless.agent.session import Session
from cloudless.agent.supervisor import Supervisor
from cloudless.agent.tenure import Tenure
from cloudless.core.model import Assignment, DeviceClass, DeviceInfo, NodeUsage, ReplicaPhase, RuntimeInfo
from cloudless.core.spec import Container, ResourceAmounts
from cloudless.testing.runtime import Behaviour, FakeDevice, FakeRuntime
from cloudless.testing.sim import authority, workloads
from cloudless.testing.sim.hosts import Host
from cloudless.testing.sim_raft.processes import outside

if TYPE_CHECKING:
    from cloudless.testing.sim.world import World

ROOMY: Final = ResourceAmounts(cpu_millis=64_000, memory_bytes=64 * 2**30, storage_bytes=100 * 2**30)
MAINS_PERCENT: Final = 100
_TERMS: Final = owner.Terms(battery_floor_percent=20, battery_resume_percent=40)
_OVER: Final = (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED, ReplicaPhase.STOPPING)


class _Device(FakeDevice):
    """Shows what the agent makes its runtime do; its containers behave as their arguments say."""

    def __init__(self, agent: SimAgent, directory: Path) -> None:
        super().__init__(agent.clock, directory, behave=_behave, context=outside)
        self._agent = agent

    def enter(self, call: str, replica_id: str = "") -> None:
        super().enter(call, replica_id)
        if call in ("stop_container", "remove_sandbox"):
            self._agent.world.ledger.stops(self._agent, replica_id, call)
        elif call == "start_container":
            self._agent.world.ledger.starts(self._agent, replica_id)


def _behave(_: Sandbox, container: Container, attempt: int) -> Behaviour:
    return workloads.behaviour_of(container.args, attempt)


class _Supervisor(Supervisor):
    """Shows what the agent is told."""

    agent: SimAgent

    async def assign(self, revision: int, assignments: Sequence[Assignment], granted: Granted | None = None) -> bool:
        accepted = await super().assign(revision, assignments, granted)
        if accepted:
            self.agent.world.ledger.assigned(self.agent, revision, assignments)
            self.agent.world.tenures.heard(self.agent, granted.lease if granted else None)
        return accepted

    async def renew(self, renewal: Renewal) -> bool:
        accepted = await super().renew(renewal)
        if accepted:
            self.agent.world.tenures.heard(self.agent, renewal.lease)
        return accepted


class _Owner:
    """What the device's owner allows; as `OwnerWatch`, from the battery alone."""

    def __init__(self) -> None:
        self.terms: owner.Terms | None = _TERMS
        self.verdict = owner.Verdict()
        self.told = owner.told(self.terms, self.verdict)

    def look(self, percent: int) -> None:
        source = "mains" if percent >= MAINS_PERCENT else "battery"
        now = owner.Situation(weekday=0, minute=0, power_source=source, battery_percent=percent)
        self.verdict = owner.decide(self.terms, now, battery_low=self.verdict.battery_low)
        self.told = owner.told(self.terms, self.verdict)


class SimAgent(Host):
    """`name` is its host's, `identity` the node that it says to be: a second device may have the same one."""

    def __init__(self, world: World, name: str, *, scratch: Path, identity: str = "") -> None:
        super().__init__(world, name)
        self.identity = identity or name
        self.device: FakeDevice = _Device(self, scratch / name / "device")
        names = list(world.coordinators)
        self.rng.shuffle(names)
        self._enrolled_with = tuple(names[: world.profile.told])
        self._journal = scratch / name / "journal"
        self.boots = 1
        self.sessions = 0  # that it dialled
        self.battery_percent = MAINS_PERCENT
        self.capacity = ResourceAmounts(
            cpu_millis=world.profile.cpu_millis, memory_bytes=4 * 2**30, storage_bytes=100 * 2**30
        )
        self.pressure: tuple[str, ...] = ()
        self.supervisor: Supervisor | None = None
        self._session: Session | None = None
        self._owner = _Owner()
        self._rules: OwnerRules | None = None
        self.evicting_since_s: float | None = None  # since when its owner lets nothing run, as the agent knows
        self._booted_at_ms = 0

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot-{self.boots}"

    def start(self) -> None:
        if self.process is not None:
            return
        self.begin()
        self.world.tenures.began(self)
        self.spawn(self._run())

    async def _run(self) -> None:
        world = self.world
        rng = random.Random(self.rng.getrandbits(64))
        grants = authority.grants(self.identity)
        journal = Journal(self._journal, fabric=authority.TRUST_DOMAIN, grants=grants)
        runtime = FakeRuntime(self.device, name="containerd")
        tenure = Tenure(self.clock, boottime=self._boottime_ms, boot_id=self.boot_id)
        supervisor = _Supervisor(runtime, journal, self.clock, _probe, jitter=rng.random, tenure=tenure)
        supervisor.agent = self
        self.supervisor = supervisor
        supervisor.load()
        self._owner = _Owner()
        self._look_at_battery()
        self._rules = OwnerRules(cast(OwnerWatch, self._owner), supervisor)
        self._rules.apply()
        services = LinkServices(
            node=supervisor,
            clock=self.clock,
            boot_id=self.boot_id,
            instance_id=f"{self.process}",
            device=self._info,
            usage=self._usage,
            open_channel=lambda _message, _stream: None,
            learn_coordinators=journal.learn_coordinators,
            grants=grants,
            journal_refused=lambda: journal.refused,
        )
        session = self._session = Session(
            self._dial,
            services,
            addresses=lambda: journal.coordinators or self._enrolled_with,
            jitter=rng.random,
        )
        self.spawn(supervisor.run())
        await world.run_for_ever(session.run())

    def _boottime_ms(self) -> int:
        return self.clock.monotonic_ms() - self._booted_at_ms

    def _info(self) -> DeviceInfo:
        return DeviceInfo(
            device_class=DeviceClass.SERVER,
            arch="amd64",
            os="linux",
            hostname=self.name,
            capacity=self.capacity,
            runtimes=(RuntimeInfo(name="containerd", version="sim", available=True),),
            owner=self._owner.told,
        )

    def _usage(self) -> NodeUsage:
        on_mains = self.battery_percent >= MAINS_PERCENT
        return NodeUsage(
            battery_percent=self.battery_percent,
            power_source="mains" if on_mains else "battery",
            pressure=self.pressure,
        )

    async def _dial(self, address: str) -> Stream:
        self.sessions += 1
        return await self.world.dial(self.name, address, lambda there, stream: there.connect(self.identity, stream))

    # What happens to the device; from outside

    def power_cycle(self, *, clock_lost_ms: int = 0) -> None:
        """The device lost its power: everything on it was killed. The agent is not started yet. `clock_lost_ms`: so
        much its wall clock is behind then."""
        self.end(silently=True)
        self.device.power_cycle()
        self.boots += 1
        self._booted_at_ms = self.clock.monotonic_ms()
        self.clock.skew_ms -= clock_lost_ms

    def drain_battery(self, percent: int) -> None:
        """From now on it has so much; MAINS_PERCENT: it is plugged in."""
        self.battery_percent = percent
        if self.process is not None:
            self.world.loop.enter(self.process, self._battery_changed)

    def _battery_changed(self) -> None:
        if self._rules is not None:
            self._look_at_battery()
            self._rules.apply()
            self._device_changed()

    def _look_at_battery(self) -> None:
        self._owner.look(self.battery_percent)
        if not self._owner.verdict.evicting:
            self.evicting_since_s = None
        elif self.evicting_since_s is None:
            self.evicting_since_s = self.world.loop.time()

    def grow(self) -> None:
        """It has more room than anybody asks for."""
        self.capacity = ROOMY
        if self.process is not None:
            self.world.loop.enter(self.process, self._device_changed)

    def _device_changed(self) -> None:
        if self._session is not None:
            self._session.device_changed()

    def press(self, kinds: tuple[str, ...]) -> None:
        """It is short of something; one replica of the lowest priority has to go."""
        self.pressure = kinds
        if kinds and self.process is not None:
            self.world.loop.enter(self.process, self._evict)

    def _evict(self) -> None:
        if self.supervisor is None:
            return
        running = sorted(self.supervisor.running().items(), key=lambda item: (item[1].spec.priority, item[0]))
        for replica_id, _ in running:
            if self.supervisor.evict(replica_id, "Evicted", "the device is short of memory"):
                return

    def may_stop(self, replica_id: str) -> bool:
        """Whether the agent has a reason of its own to stop what it is assigned: a hold, the end of the replica."""
        held = self.supervisor._replicas.get(replica_id) if self.supervisor is not None else None
        return held is not None and (bool(held.state.held) or held.state.phase in _OVER)


async def _probe(_: str, assignment: Assignment, check: m.Check) -> tuple[bool | None, str]:
    ready = all(container.args[1] != "unready" for container in assignment.spec.containers)
    return ready, "" if ready else "not ready"
