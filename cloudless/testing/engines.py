"""Every engine, ready for the conformance suite (`test/conformance/test_engine.py`): one row of `KINDS` each.

A test is a coroutine that gets a `Cluster`: the stores of one fabric's coordinators, which it can close, crash and open
again. It runs on virtual time and simulated disks where the engine allows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from structlog.testing import capture_logs

from cloudless.clock import Clock, SystemClock
from cloudless.config import EtcdConfig, StoreConfig
from cloudless.coordinator.core.outcome import ApplyResult
from cloudless.coordinator.engine import OpenEngine
from cloudless.coordinator.etcd import engine as etcd
from cloudless.coordinator.etcd.engine import open_etcd
from cloudless.coordinator.raft import proposals
from cloudless.coordinator.raft.engine import RaftOptions, open_raft
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import single
from cloudless.coordinator.wal.files import Filesystem
from cloudless.errors import CloudlessError
from cloudless.testing import simloop
from cloudless.testing.disk import PowerCut, SimDisk
from cloudless.testing.etcd import MortalClient, shared_etcd
from cloudless.testing.ledger import Ledger, LedgerMachine, Put
from cloudless.testing.member_network import MemberNetwork

WAIT_S = 20.0  # for what has to happen; on virtual time for most engines


class Backend:
    """What the engines of one test share. This one: nothing; every member has its own disk and is alone."""

    def engine(self, member: str) -> OpenEngine:
        """For one more life of this member."""
        return single.open_single

    def config(self, config: StoreConfig) -> StoreConfig:
        """With what the engine needs."""
        return config

    async def form(self, cluster: Cluster) -> None:
        """The members were opened for the first time, with nothing stored: makes them one cluster."""

    def kill(self, member: str) -> None:
        """Its process ended as with kill -9: nothing that it still tries reaches anybody."""


@dataclass(frozen=True)
class EngineKind:
    """One row. `members`: coordinators of the cluster. `local`: log and snapshots are on the members' disks.
    `replicated`: it has members of its own, and changes them. `limits`: the module with QUEUE_ENTRIES_MAX. `backend`
    gets a folder for real files. `run` runs a test's coroutine to its end."""

    name: str
    members: int
    local: bool
    replicated: bool
    limits: Any
    backend: Callable[[Path], AbstractAsyncContextManager[Backend]]
    run: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


def run_virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    simloop.run(lambda loop: main())


@functools.cache
def _real_loop() -> asyncio.Runner:
    """One for the process: gRPC's poller keeps to the loop that it met first."""
    return asyncio.Runner()


def run_real(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def alone() -> None:
        try:
            await main()
        finally:  # what killed members left
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    _real_loop().run(alone())


@contextlib.asynccontextmanager
async def _alone(directory: Path) -> AsyncIterator[Backend]:
    yield Backend()


class _Raft(Backend):
    """Members of the Raft engine on a simulated network. The first one begins the cluster and adds the others."""

    def __init__(self) -> None:
        self._network = MemberNetwork(random.Random(1))

    def engine(self, member: str) -> OpenEngine:
        options = RaftOptions(address=f"{member}:1", bootstrap=member == "c1", cluster_id="conformance")
        return functools.partial(open_raft, transport=self._network.transport(member), options=options)

    async def form(self, cluster: Cluster) -> None:
        first = cluster.stores["c1"]
        for member in cluster.members[1:]:
            await first.membership.add_learner(member, f"{member}:1")
            await cluster.until(lambda member=member: _votes(first, member))  # type: ignore[misc]

    def kill(self, member: str) -> None:
        self._network.crash(member)


def _votes(store: Store[Ledger], member: str) -> bool:
    return any(m.id == member and m.voter for m in store.status().members)


@contextlib.asynccontextmanager
async def _raft(directory: Path) -> AsyncIterator[Backend]:
    yield _Raft()


class _Etcd(Backend):
    """Coordinators on a real etcd, below a prefix of their own."""

    def __init__(self, directory: Path) -> None:
        prefix = f"/{directory.name}-{uuid.uuid4().hex[:8]}/"
        self._settings = EtcdConfig(endpoints=(shared_etcd(),), prefix=prefix, lease_ttl_ms=1000)
        self._clients: dict[str, MortalClient] = {}

    def engine(self, member: str) -> OpenEngine:
        self._clients[member] = client = MortalClient(self._settings)
        return functools.partial(open_etcd, client=client)

    def config(self, config: StoreConfig) -> StoreConfig:
        return replace(config, etcd=self._settings)

    def kill(self, member: str) -> None:
        self._clients[member].dead = True


@contextlib.asynccontextmanager
async def _etcd(directory: Path) -> AsyncIterator[Backend]:
    yield _Etcd(directory)


KINDS: list[EngineKind] = [
    EngineKind("single", 1, local=True, replicated=False, limits=single, backend=_alone, run=run_virtual),
    EngineKind("raft-1", 1, local=True, replicated=True, limits=proposals, backend=_raft, run=run_virtual),
    EngineKind("raft-3", 3, local=True, replicated=True, limits=proposals, backend=_raft, run=run_virtual),
    EngineKind("etcd-1", 1, local=False, replicated=False, limits=etcd, backend=_etcd, run=run_real),
    EngineKind("etcd-3", 3, local=False, replicated=False, limits=etcd, backend=_etcd, run=run_real),
]


class _Mount:
    """One life's way to its disk: what a dead process still tries does not reach it."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        if self.dead:
            raise OSError(5, "this process is dead")
        return getattr(self._disk, name)


@dataclass(slots=True)
class _Life:
    store: Store[Ledger]
    mount: _Mount


class Cluster:
    """The coordinators `members` of one fabric: `start` them first."""

    def __init__(self, kind: EngineKind, backend: Backend, *, seed: int = 1) -> None:
        loop = asyncio.get_running_loop()
        self.kind = kind
        self.members = tuple(f"c{number}" for number in range(1, kind.members + 1))
        self.random = random.Random(seed)
        self.disks = {
            member: SimDisk(seed * 100 + i, base=loop.time, sync_delay_s=lambda r: r.uniform(0.0001, 0.0003))
            for i, member in enumerate(self.members)
        }
        self.acknowledged: dict[str, tuple[str, int, int]] = {}  # request id -> name, value, revision
        self.errors: list[dict[str, Any]] = []
        self._backend = backend
        self.clocks: dict[str, Clock] = {
            member: simloop.SimClock(loop) if isinstance(loop, simloop.SimLoop) else SystemClock()
            for member in self.members
        }
        self.machine: Callable[[], LedgerMachine] = LedgerMachine
        self._lives: dict[str, _Life] = {}
        self._numbers = itertools.count(1)
        self._formed = False
        self._settings: dict[str, Any] = {}
        loop.set_exception_handler(self._on_exception)

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), PowerCut | OSError | CloudlessError):
            self.errors.append(context)

    # Life

    async def start(self, **settings: Any) -> Store[Ledger]:
        """Opens every member that is not open, forms the cluster if it is new, and returns the store that leads.
        `settings` of the store stay for later lives."""
        self._settings |= settings
        await asyncio.gather(*(self.open(member) for member in self.members if member not in self._lives))
        if not self._formed:
            self._formed = True
            await self._backend.form(self)
        return await self.leader()

    async def open(self, member: str) -> Store[Ledger]:
        mount = _Mount(self.disks[member])
        timeout_s = self._settings.get("propose_timeout_s", WAIT_S)
        config = StoreConfig(**{k: v for k, v in self._settings.items() if k != "propose_timeout_s"})
        store = await Store.open(
            Path("/data"),
            machine=self.machine(),
            clock=self.clocks[member],
            config=self._backend.config(replace(config, engine=self.kind.name.partition("-")[0])),
            member=member,
            filesystem=cast(Filesystem, mount),
            run_blocking=self.disks[member].run_blocking,
            seconds=self.disks[member].seconds,
            random_bits=self.random.getrandbits,
            engine=self._backend.engine(member),
            propose_timeout_s=timeout_s,
        )
        self._lives[member] = _Life(store, mount)
        return store

    @property
    def stores(self) -> dict[str, Store[Ledger]]:
        """Of the members that run, by id."""
        return {member: life.store for member, life in self._lives.items()}

    async def leader(self) -> Store[Ledger]:
        """The store that leads, once there is one that every other running member knows, too."""

        def agreed() -> Store[Ledger] | None:
            known = {store.leader_id for store in self.stores.values()}
            leader = self.stores.get(known.pop()) if len(known) == 1 else None
            return leader if leader is not None and leader.leading else None

        await self.until(lambda: agreed() is not None)
        found = agreed()
        assert found is not None
        return found

    def others(self, store: Store[Ledger]) -> list[Store[Ledger]]:
        return [other for other in self.stores.values() if other is not store]

    async def stop(self, *members: str) -> None:
        """Closes these stores, or all, one after the other."""
        for member in members or tuple(self._lives):
            await self._lives.pop(member).store.close()

    def crash(self, *members: str, power: bool = True) -> None:
        """Ends these processes, or all, as kill -9 does; with `power`, what their disks had not synced may be lost."""
        for member in members or self.members:
            life = self._lives.pop(member, None)
            if life is not None:
                life.mount.dead = True
            self._backend.kill(member)
            if power:
                self.disks[member].power_cut()
            else:
                self.disks[member].restart()

    # Work

    async def put(self, store: Store[Ledger], name: str, value: int = 1, **kwargs: Any) -> ApplyResult:
        request_id = kwargs.pop("request_id", None) or f"r{next(self._numbers)}"
        result = await store.propose(Put(name, value), actor="user/test", request_id=request_id, **kwargs)
        self.acknowledged[request_id] = (name, value, result.revision)
        return result

    async def until(self, condition: Callable[[], object], *, timeout_s: float = WAIT_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - any condition, of several stores
                await asyncio.sleep(0.002)

    async def converge(self) -> Ledger:
        """Waits until every running member has applied what is acknowledged; returns the state, equal everywhere."""
        leader = await self.leader()
        index = await leader.read_barrier()
        for store in self.stores.values():
            await self.until(lambda store=store: store.snapshot.index >= index)  # type: ignore[misc]
            await store.read_barrier()
        by_index: dict[int, set[str]] = {}
        for store in self.stores.values():
            by_index.setdefault(store.snapshot.index, set()).add(LedgerMachine().state_hash(store.snapshot.state))
        assert all(len(hashes) == 1 for hashes in by_index.values()), "members differ at one index"
        state = leader.snapshot.state
        for request_id, (name, _, revision) in self.acknowledged.items():
            assert request_id in state.results, f"{name}, acknowledged at {revision}, is lost"
            assert state.results[request_id].revision == revision
        return state


def conformance(
    kind: EngineKind, test: Callable[[Cluster], Awaitable[None]], directory: Path, *, seed: int = 1
) -> None:
    """Runs one test on one kind of engine; what is left open is closed, and no exception may have been lost."""

    async def main() -> None:
        async with kind.backend(directory) as backend:
            cluster = Cluster(kind, backend, seed=seed)
            await test(cluster)
            for disk in cluster.disks.values():
                disk.capacity_bytes = None
            await cluster.stop()
            assert not cluster.errors, cluster.errors

    with capture_logs():  # to write them out takes longer than the run
        kind.run(main)
