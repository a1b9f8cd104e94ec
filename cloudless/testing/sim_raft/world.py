"""The simulated cluster: members made of the real store, engine, core and log, and the network between them.

Only the edges are replaced: event loop and processes (`processes`), disks (`disk.SimDisk`), connections
(`member_network`), the state machine (`registers`).
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cloudless.config import RaftConfig, StoreConfig
from cloudless.coordinator.engine import Engine, EngineParts, StateHost
from cloudless.coordinator.raft.core.model import Configuration, Member, encode_configuration
from cloudless.coordinator.raft.engine import open_raft
from cloudless.coordinator.raft.link import Transport
from cloudless.coordinator.raft.options import RaftOptions
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import HardState, LogEntry
from cloudless.errors import CloudlessError, Corrupt, Internal
from cloudless.testing.disk import PowerCut, SimDisk
from cloudless.testing.member_network import MemberLinkQuality, MemberNetwork
from cloudless.testing.sim_raft.oracle import Oracle
from cloudless.testing.sim_raft.process_transport import ProcessTransport
from cloudless.testing.sim_raft.processes import DriftingClock, Process, ProcessLoop, outside
from cloudless.testing.sim_raft.profile import Profile
from cloudless.testing.sim_raft.registers import RegisterMachine, Registers

DATA: Final = Path("/data")
CLUSTER: Final = "sim"
MACHINE: Final = RegisterMachine()


class World:
    """Everything of one run. `running` ends the clients and the faults."""

    def __init__(self, loop: ProcessLoop, rng: random.Random, profile: Profile, oracle: Oracle) -> None:
        self.loop = loop
        self.profile = profile
        self.oracle = oracle
        self.running = True
        self.events = 0
        self._rng = random.Random(rng.getrandbits(64))
        self.config = StoreConfig(
            engine="raft",
            segment_bytes=profile.segment_bytes,
            snapshot_entries=profile.snapshot_entries,
            raft=RaftConfig(heartbeat_ms=profile.heartbeat_ms, election_ms=profile.election_ms),
        )
        self.network = MemberNetwork(
            random.Random(rng.getrandbits(64)),
            self.calm(),
            loop=_Timers(loop),  # type: ignore[arg-type]
            through_wire=profile.through_wire,
        )
        self.members: dict[str, SimMember] = {}
        self.names = 0
        loop.set_exception_handler(self._unhandled)

    def calm(self) -> MemberLinkQuality:
        profile = self.profile
        return MemberLinkQuality(
            delay_max_s=profile.delay_max_s,
            loss=profile.loss,
            duplicate=profile.duplicate,
            reorder=profile.reorder,
            late=profile.late,
            silence_s=0.6,
        )

    def tick(self) -> int:
        """The next position in the order of what clients see."""
        self.events += 1
        return self.events

    # Members

    def begin(self) -> None:
        """The first members: either one that begins a cluster of its own, or all of them, whose logs begin with the
        entry that says so, as they would after having been added."""
        first = [self.new_member() for _ in range(1 if self.profile.grow else self.profile.members)]
        if self.profile.grow:
            first[0].options = RaftOptions(address=first[0].name, bootstrap=True, cluster_id=CLUSTER)
        else:
            voters = tuple(Member(member.name, member.name) for member in first)
            data = encode_configuration(Configuration(CLUSTER, voters))
            for member in first:
                wal = Log.open(
                    member.disk, DATA / "wal", segment_bytes=self.config.segment_bytes, salt=lambda: 1, seconds=_zero
                )
                wal.append([LogEntry(1, 1, data)], hard_state=HardState(1))
                wal.close()
        if self.profile.cut_in_write:
            first[0].disk.cut_power_at = first[0].disk.operations + self.profile.cut_in_write
        for member in first:
            member.start()

    def new_member(self) -> SimMember:
        """Of an id that was never used, with an empty disk, not started."""
        self.names += 1
        name = f"m{self.names}"
        member = self.members[name] = SimMember(self, name, random.Random(self._rng.getrandbits(64)))
        return member

    def live(self) -> list[SimMember]:
        return [member for member in self.members.values() if member.store is not None]

    def survives_without(self, name: str = "") -> bool:
        """Whether every member that is left could do with the disks that are left, by its own configuration."""
        known = False
        for member in self.members.values():
            seen = self.oracle.members.get(member.name)
            if member.gone or member.name == name or seen is None or seen.state is None:
                continue
            voters = seen.state.voters
            left = [voter for voter in voters if voter != name and not self.members[voter].gone]
            known = known or bool(voters)
            if voters and len(left) <= len(voters) // 2:
                return False
        return known

    def leader(self) -> SimMember | None:
        """The one that leads in the newest term, as far as it knows itself."""
        leading = [member for member in self.live() if member.engine is not None and member.engine.leading]
        return max(leading, key=lambda member: member.engine.term, default=None)  # type: ignore[union-attr]

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, (PowerCut, CloudlessError)):
            return
        if self.oracle.violation is None:
            self.oracle.note(f"unhandled: {context.get('message')}: {error!r}")
            self.errors.append(error)

    @functools.cached_property
    def errors(self) -> list[BaseException]:
        """Of callbacks and tasks, which nobody handled: errors of the run."""
        return []


class SimMember:
    """A machine and the process on it. `store` is None while that is down or starting; `gone`: for good."""

    def __init__(self, world: World, name: str, rng: random.Random) -> None:
        self.name = name
        self.gone = False
        self.cache_lies = False  # a sync failed since the machine was started
        self.process: Process | None = None
        self.store: Store[Registers] | None = None
        self.engine: Engine | None = None
        self.options = RaftOptions(address=name)
        self.rng = rng
        profile = world.profile
        self.clock = DriftingClock(
            world.loop,
            rate=rng.uniform(0.95, 1.05) if profile.skewed else 1.0,
            skew_ms=rng.randint(-60_000, 60_000) if profile.skewed else 0,
            origin_s=rng.uniform(0, 1000),
        )
        self.disk = SimDisk(rng.getrandbits(32), base=self.clock.seconds)
        self._world = world
        self._lives = 0
        self._restart: asyncio.TimerHandle | None = None

    @property
    def up(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """From outside. Nothing happens where it runs already."""
        if self.gone or self.process is not None:
            return
        world = self._world
        self._lives += 1
        process = self.process = Process(self.name, self._lives, self.clock)
        transport = ProcessTransport(world.loop, process, world.network.transport(self.name), sends=world.oracle.sends)
        self.disk.on_cut = lambda: self._power_lost(process)
        world.oracle.note(f"{process} starts")
        world.loop.create_task(self._run(process, transport), context=process.context)

    def start_later(self, after_s: float) -> None:
        if self._restart is not None:
            self._restart.cancel()
        loop = self._world.loop
        self._restart = loop.call_at(loop.time() + after_s, self.start, context=outside)

    async def _run(self, process: Process, transport: Transport) -> None:
        world = self._world
        opened: list[Engine] = []

        async def open_engine(parts: EngineParts, host: StateHost) -> Engine:
            watched = _WatchedHost(world.oracle, process, host)
            engine = await open_raft(parts, watched, transport=transport, options=self.options)
            opened.append(engine)
            engine.on_leadership(lambda leading: world.oracle.announced(process, engine.term, leading))
            return engine

        try:
            store = await Store.open(
                DATA,
                machine=MACHINE,
                clock=self.clock,
                config=world.config,
                member=self.name,
                filesystem=self.disk,
                run_blocking=self.disk.run_blocking,
                seconds=self.disk.seconds,
                random_bits=self.rng.getrandbits,
                engine=open_engine,
                propose_timeout_s=1.0,
            )
        except CloudlessError as error:
            self._ended(process, error)
            return
        self.store, self.engine = store, opened[0]
        self._ended(process, await store.wait_failed())

    def _ended(self, process: Process, error: CloudlessError) -> None:
        """The process ends itself, as `main` does; something starts it again."""
        oracle = self._world.oracle
        oracle.note(f"{process} ends: {error.reason}: {error}")
        if isinstance(error, Corrupt):
            oracle.fail("a disk without damage is readable", f"{process}: {error}")
        if isinstance(error, Internal):
            oracle.fail("no errors", f"{process}: {error}")
        oracle.counts[f"ended {error.reason}"] += 1
        self._world.loop.call_soon(self._restarts, process, error.reason, context=outside)

    def _restarts(self, process: Process, reason: str) -> None:
        if self.process is not process:
            return
        self.kill()
        if reason == "MemberRemoved":
            self.gone = True
        else:
            self.start_later(self.rng.uniform(0.1, 0.5))

    def kill(self) -> None:
        """kill -9: the page cache stays."""
        if self.process is not None:
            self._dead()
            self.disk.restart()

    def power_off(self) -> None:
        """What was not synced may be gone."""
        if self.process is not None:
            self._dead()
        self.disk.power_cut()
        self.cache_lies = False

    def wipe(self) -> None:
        """The disk is lost, the id with it."""
        if self.process is not None:
            self._dead()
        self.gone = True
        self._world.oracle.forget(self.name)

    def _power_lost(self, process: Process) -> None:
        """In the middle of a write; the disk raises right after this."""
        if self.process is process:
            self._world.oracle.counts["power cut in a write"] += 1
            self._dead()
            loop = self._world.loop
            loop.call_soon(self._powered_again, context=outside)

    def _powered_again(self) -> None:
        self.disk.power_cut()
        self.cache_lies = False
        if self._world.profile.cut_in_write and self._lives == 1:
            self.disk.cut_power_at = self.disk.operations + self.rng.randint(1, 20)  # also while it recovers
        self.start_later(self.rng.choice((0.05, 0.3, 1.0)))

    def _dead(self) -> None:
        process, self.process = self.process, None
        self.store = self.engine = None
        assert process is not None
        self._world.oracle.note(f"{process} is dead")
        self._world.loop.kill(process)
        self._world.network.crash(self.name)


class _Timers:
    """What the network needs of an event loop; what is under way outlives its sender."""

    def __init__(self, loop: ProcessLoop) -> None:
        self._loop = loop
        self.time = loop.time

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_at(when, callback, *args, context=outside)


class _WatchedHost(StateHost):
    """The store, as the engine sees it; the oracle sees what is applied, loaded and installed."""

    def __init__(self, oracle: Oracle, process: Process, host: StateHost) -> None:
        self._oracle = oracle
        self._process = process
        self._host = host

    @property
    def applied_index(self) -> int:
        return self._host.applied_index

    @property
    def applied_term(self) -> int:
        return self._host.applied_term

    def apply(self, entry: LogEntry) -> Any:
        self._oracle.applies(self._process, entry, self._host.applied_index)
        outcome = self._host.apply(entry)
        self._oracle.applied(entry.index, self._host)
        return outcome

    def load(self, body: bytes) -> tuple[int, int]:
        index, term = self._host.load(body)
        self._oracle.took(self._process, index, term, body)
        return index, term

    async def install(self, body: bytes) -> tuple[int, int]:
        index, term = await self._host.install(body)
        self._oracle.took(self._process, index, term, body)
        return index, term


def _zero() -> float:
    return 0.0
