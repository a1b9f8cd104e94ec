"""The simulated fabric: coordinators and agents, made of the same parts as the real programs.

Only the edges are replaced: event loop and processes (`sim_raft.processes`), connections (`simnet`, `member_network`),
the coordinators' disks (`disk.SimDisk`), containers (`runtime.FakeRuntime`). Agents' journals are real files in a
scratch folder.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cloudless.config import RaftConfig, SessionConfig, StoreConfig
from cloudless.coordinator.core import commands
from cloudless.core.model import JoinToken
from cloudless.errors import CloudlessError, Unavailable
from cloudless.testing.member_network import MemberLinkQuality, MemberNetwork
from cloudless.testing.sim.agents import SimAgent
from cloudless.testing.sim.coordinators import SimCoordinator
from cloudless.testing.sim.ledger import Ledger
from cloudless.testing.sim.profile import Profile
from cloudless.testing.sim.tenures import Tenures
from cloudless.testing.sim_raft.processes import PROCESS, ProcessLoop, outside
from cloudless.testing.simnet import SimNetwork, SimStream

ZONES: Final = 3
_WRITE_S: Final = 5.0
_SYN_S: Final = 3.0  # who dials a machine without power waits so long for nothing
_LOOK_S: Final = 0.5

Answer = Callable[[SimCoordinator, SimStream], Coroutine[Any, Any, None]]


class World:
    """Everything of one run. Randomness comes from `rng` alone, so that a seed fixes it all."""

    def __init__(
        self,
        loop: ProcessLoop,
        rng: random.Random,
        scratch: Path,
        profile: Profile,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.loop = loop
        self.rng = random.Random(rng.getrandbits(64))
        self.profile = profile
        self.failures: list[BaseException] = []  # of checks and of background tasks: errors of the run
        self._trace = trace
        self._closed = False
        self.session_config = SessionConfig(node_lease_ms=profile.node_lease_ms)
        self.store_config = StoreConfig(
            engine="raft",
            segment_bytes=profile.segment_bytes,
            snapshot_entries=profile.snapshot_entries,
            raft=RaftConfig(heartbeat_ms=profile.heartbeat_ms, election_ms=profile.election_ms),
        )
        self.network = SimNetwork(random.Random(rng.getrandbits(64)), context=outside)
        self.members = MemberNetwork(
            random.Random(rng.getrandbits(64)),
            MemberLinkQuality(delay_max_s=0.005),
            loop=_Timers(loop),  # type: ignore[arg-type]
        )
        self.ledger = Ledger(self)
        self.tenures = Tenures(self)
        self._scratch = scratch
        names = [f"c{i + 1}" for i in range(profile.coordinators)]
        self.coordinators = {name: SimCoordinator(self, name) for name in names}
        self.agents = [SimAgent(self, f"n{i:02}", scratch=scratch) for i in range(profile.agents)]
        self.twins: dict[str, SimAgent] = {}  # second devices of an identity, by identity
        loop.set_exception_handler(self._unhandled)

    async def start(self) -> None:
        for coordinator in self.coordinators.values():
            coordinator.found(list(self.coordinators))
            coordinator.start()
        self.loop.create_task(self._look())
        for zone in range(ZONES):
            token = JoinToken(
                id=f"join-{zone}", node_pattern="*", zone=f"z{zone}", max_uses=10_000, expires_at_ms=2**60
            )
            await self.write(commands.CreateToken(token), request_id=f"token-{zone}")
        for number, agent in enumerate(self.agents):
            enrollment = commands.EnrollNode(
                token_id=f"join-{number % ZONES}", node_id=agent.name, public_key_sha256=f"key-{agent.name}"
            )
            await self.write(enrollment, request_id=f"enroll-{agent.name}")
        for agent in self.agents:
            agent.start()

    def close(self) -> None:
        """What is left of dead processes cleans up from now on, and proves nothing."""
        self._closed = True

    def note(self, text: str) -> None:
        if self._trace is not None and not self._closed:
            self._trace(f"{self.loop.time():9.3f} {text}")

    # Errors

    @contextmanager
    def checking(self) -> Iterator[None]:
        """A check that fails in here is noted, and not raised into the process that happens to run."""
        try:
            yield
        except AssertionError as error:
            if self._closed:
                return
            self.note(f"!! {error}")
            self.failures.append(error)

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        process = PROCESS.get()
        if error is not None and (process is None or process.alive):
            self.note(f"!! {context.get('message')}: {error!r}")
            self.failures.append(error)

    def raise_failures(self) -> None:
        for failure in self.failures:
            if isinstance(failure, AssertionError):
                raise failure
            raise AssertionError(f"a task died: {failure!r}") from failure

    async def run_for_ever(self, work: Awaitable[None]) -> None:
        await work
        raise AssertionError("what runs for ever has ended")

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.ledger.look()
            with self.checking():
                self.tenures.look()

    # Who is there

    def devices(self) -> Iterator[SimAgent]:
        """All that there are, the second ones of an identity among them."""
        yield from self.agents
        yield from self.twins.values()

    def add_twin(self, identity: str) -> SimAgent:
        """Another device that says to be this node. It is not started yet."""
        number = len(self.twins)
        twin = SimAgent(self, f"{identity}-twin-{number}", scratch=self._scratch, identity=identity)
        self.twins[identity] = twin
        return twin

    def up(self) -> list[SimCoordinator]:
        """Those that take calls."""
        return [coordinator for coordinator in self.coordinators.values() if coordinator.store is not None]

    def leader(self) -> SimCoordinator | None:
        """The one that leads in the newest term, as far as it knows itself."""
        leading = [coordinator for coordinator in self.up() if coordinator.leading]
        return max(leading, key=lambda coordinator: coordinator.store.term, default=None)  # type: ignore[union-attr]

    def majority(self) -> list[str]:
        """The coordinators that reach, both ways, so many others that they can be of a majority."""
        ready = [name for name, coordinator in self.coordinators.items() if coordinator.hub and coordinator.responsive]
        needed = len(self.coordinators) // 2 + 1
        return [name for name in ready if sum(name == other or self._hears(name, other) for other in ready) >= needed]

    def _hears(self, one: str, other: str) -> bool:
        return not self.members.is_cut(one, other) and not self.members.is_cut(other, one)

    def both_ways(self, one: str, other: str) -> bool:
        return not self.network.is_cut(one, other) and not self.network.is_cut(other, one)

    def linked(self, one: str, other: str) -> bool:
        """Whether two coordinators hear each other in every respect."""
        return self._hears(one, other) and self.both_ways(one, other)

    # Who calls whom

    async def dial(self, source: str, address: str, answer: Answer) -> SimStream:
        """Within the process that dials. Raises Unavailable."""
        near, far = await self.network.connect(source, address)
        there = self.coordinators[address]
        process = there.process
        if process is None or there.hub is None:
            near.break_off()
            if there.off:
                await asyncio.sleep(_SYN_S)
            raise Unavailable(f"{address} refuses the connection", reason="CoordinatorUnreachable")
        self.loop.enter(process, lambda: there.spawn(answer(there, far), may_fail=True))
        return near

    async def write(self, command: Any, *, request_id: str) -> None:
        """Repeats a write under its id, at any coordinator, until it is acknowledged, as clients do. Raises what it is
        refused with. From outside."""
        while True:
            candidates = self.up()
            there = self.rng.choice(candidates) if candidates else None
            try:
                if there is None or there.process is None:
                    raise Unavailable("down")
                store = there.store
                assert store is not None
                propose = lambda: store.propose(command, actor="user/sim", request_id=request_id)  # noqa: B023, E731
                await self.loop.ask(there.process, propose, timeout_s=_WRITE_S)
                return
            except (TimeoutError, ConnectionError):
                continue
            except CloudlessError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.2)


class _Timers:
    """What the member network needs of an event loop; what is under way outlives its sender."""

    def __init__(self, loop: ProcessLoop) -> None:
        self._loop = loop
        self.time = loop.time

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_at(when, callback, *args, context=outside)
