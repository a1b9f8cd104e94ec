"""Random clients, and the history of what they asked and were told, for the checker of linearizability.

A client stays with a member until that fails it; then it repeats the operation at another one, under the same request
id. What is refused for certain never happened; whatever may have happened stays open to the end of the history.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final

from cloudless.errors import CloudlessError, Corrupt, DiskFull, Internal, ResourceExhausted
from cloudless.testing.linearizability import UNKNOWN, Operation
from cloudless.testing.sim_raft.registers import Put
from cloudless.testing.sim_raft.world import SimMember, World

ATTEMPTS_MAX: Final = 4


@dataclass(slots=True)
class History:
    """`acknowledged`: request ids with the write that each stands for. `refused`: those that must never be found."""

    operations: dict[str, list[Operation]] = field(default_factory=dict)  # by key
    acknowledged: dict[str, Put] = field(default_factory=dict)
    refused: dict[str, Put] = field(default_factory=dict)
    unknown: dict[str, Put] = field(default_factory=dict)

    def add(self, key: str, operation: Operation) -> None:
        self.operations.setdefault(key, []).append(operation)


class _Refused(Exception):
    """It was not accepted, for certain."""


class _Lost(Exception):
    """Nobody knows whether it was or will be."""


class Client:
    """`name` begins its request ids. Keys that begin with "list" are appended to, the others written and swapped."""

    def __init__(self, world: World, history: History, name: str, number: int, rng: random.Random) -> None:
        self._world = world
        self._history = history
        self._name = name
        self._number = number
        self._rng = rng
        self._target: SimMember | None = None
        self._operations = 0
        self._seen: dict[str, Any] = {}  # what it read last, by key

    async def run(self) -> None:
        world = self._world
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / world.profile.think_s))
            if not world.running:
                return
            await self._operate()

    async def _operate(self) -> None:
        rng, profile = self._rng, self._world.profile
        if rng.random() < profile.bursts:
            # Several at once: they share writes to the disk and messages, and fill the log.
            keys = [f"list{2 * rng.randrange(profile.keys) + 1}" for _ in range(rng.randint(2, 15))]
            await asyncio.gather(*(self.write("append", key, attempts=2) for key in keys))
            return
        number = rng.randrange(profile.keys)
        key = f"list{number}" if number % 2 else f"value{number}"
        if rng.random() < profile.reads:
            await self.read(key)
        elif number % 2:
            await self.write("append", key)
        elif rng.random() < 0.5:
            await self.write("write", key)
        else:
            await self.write("cas", key)

    async def read(self, key: str, *, attempts: int = ATTEMPTS_MAX) -> bool:
        called = self._world.tick()
        for _ in range(attempts):
            try:
                member = self._choose()
                value = await self._read(member, key)
            except (_Refused, _Lost):
                await self._move()
                continue
            self._seen[key] = value
            self._history.add(key, Operation(("read",), value, called, self._world.tick(), self._name))
            self._world.oracle.counts["reads"] += 1
            if self._world.oracle.tracing:
                self._world.oracle.note(f"{self._name} reads {key} = {value} of {member.name}")
            return True
        self._world.oracle.counts["reads without answer"] += 1
        return False

    async def write(self, kind: str, key: str, *, attempts: int = ATTEMPTS_MAX) -> bool:
        """Each value is written once in a run."""
        self._operations += 1
        value = self._operations * 100 + self._number
        request_id = f"{self._name}-{self._operations}"
        put = Put(kind, key, value, self._seen.get(key) if kind == "cas" else None)
        call = (kind, put.expected, value) if kind == "cas" else (kind, value)
        called = self._world.tick()
        possible = False
        for attempt in range(attempts):
            try:
                member = self._choose()
                fits = await self._write(member, put, request_id, first=not attempt)
            except _Refused as error:
                self._world.oracle.note(f"{self._name} is refused {request_id}: {error.__cause__!r}")
                await self._move()
                continue
            except _Lost as error:
                self._world.oracle.note(f"{self._name} does not know of {request_id}: {error.__cause__!r}")
                possible = True
                await self._move()
                continue
            result = fits if kind == "cas" else None
            self._history.add(key, Operation(call, result, called, self._world.tick(), self._name))
            self._history.acknowledged[request_id] = put
            self._world.oracle.counts["writes acknowledged"] += 1
            return True
        if possible:
            self._history.add(key, Operation(call, UNKNOWN, called, None, self._name))
            self._history.unknown[request_id] = put
            self._world.oracle.counts["writes unknown"] += 1
        else:
            self._history.refused[request_id] = put
            self._world.oracle.counts["writes refused"] += 1
        return False

    def _choose(self) -> SimMember:
        target = self._target
        if target is None or target.store is None:
            live = self._world.live()
            if not live:
                raise _Refused
            target = self._target = self._rng.choice(live)
        return target

    async def _move(self) -> None:
        self._target = None
        await asyncio.sleep(self._rng.uniform(0.0, 0.1))

    async def _read(self, member: SimMember, key: str) -> Any:
        store = member.store
        assert store is not None

        async def work() -> Any:
            await store.read_barrier()
            return store.snapshot.state.values.get(key)

        return await self._ask(member, work)

    async def _write(self, member: SimMember, put: Put, request_id: str, *, first: bool) -> bool:
        store, engine, oracle = member.store, member.engine, self._world.oracle
        assert store is not None
        assert engine is not None
        # Some writes are the leader's own work: they may only be committed while it leads.
        term = engine.term if engine.leading and self._rng.random() < 0.3 else None

        async def work() -> tuple[bool, int]:
            result = await store.propose(put, actor="user/sim", request_id=request_id, term=term)
            return result.changed == "updated", store.snapshot.state.answers[request_id][0]

        fits, index = await self._ask(member, work)
        oracle.acknowledged(index, term if first else None)
        if oracle.tracing:
            oracle.note(f"{self._name} is told {request_id} {put} = {fits} at {index} by {member.name}")
        oracle.mix(index, put.value, fits)
        return bool(fits)

    async def _ask(self, member: SimMember, work: Any) -> Any:
        process = member.process
        assert process is not None
        timeout_s = self._rng.choice((0.15, 0.5, 1.5))
        try:
            return await self._world.loop.ask(process, work, timeout_s=timeout_s, cancel=self._rng.random() < 0.5)
        except ConnectionRefusedError as error:
            raise _Refused from error
        except (TimeoutError, ConnectionResetError) as error:
            raise _Lost from error
        except CloudlessError as error:
            self._world.oracle.counts[f"told {error.reason}"] += 1
            if isinstance(error, (Internal, Corrupt)):
                self._world.oracle.fail("no internal errors", f"{process}: {error!r}")
            if isinstance(error, (ResourceExhausted, DiskFull)) or error.reason in ("LeadershipLost", "NoLeader"):
                raise _Refused from error
            raise _Lost from error
