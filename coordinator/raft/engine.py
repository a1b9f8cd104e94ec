"""The Raft engine: the pure core of `raft.core`, driven over the log, a transport and the event loop.

engine     what callers see
recovery   from the disk to the core's first state
driver     turns: events into the core, effects out of it
writer     what has to be on the disk
applying   committed entries and installed snapshots, to the host
proposals, forwarding, reads, changes     what callers wait for
replication, snapshots, connections       what other members get
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from cloudless.coordinator.engine import Committed, EngineParts, EngineStatus, MemberStatus, StateHost
from cloudless.coordinator.raft.core.events import Compacted
from cloudless.coordinator.raft.core.model import Role, State, encode_configuration
from cloudless.coordinator.raft.driver import Driver
from cloudless.coordinator.raft.link import Transport
from cloudless.coordinator.raft.options import RaftOptions
from cloudless.coordinator.raft.proposals import Proposal, copy_of, leadership_lost, outcome_unknown
from cloudless.coordinator.raft.recovery import recover
from cloudless.coordinator.raft.roles import role_name
from cloudless.coordinator.raft.snapshots import Newest
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.coordinator.wal.storage import Storage
from cloudless.errors import CloudlessError, Unavailable

__all__ = ["RaftEngine", "RaftOptions", "open_raft"]

log = structlog.get_logger(__name__)

# Of the entries between two snapshots, the part that stays in the log although the newer one covers it: a member that
# was away for a short time gets those instead of the whole snapshot.
TRAILING_PART: Final = 4

TRANSFER_S: Final = 1.0  # for another one to take over before this member closes
FINISH_S: Final = 2.0  # for proposals under way
READY_S: Final = 2.0  # for a sole voter to lead


async def open_raft(
    parts: EngineParts,
    host: StateHost,
    *,
    transport: Transport,
    options: RaftOptions,
    on_recovered: Callable[[RaftEngine], None] = lambda engine: None,
) -> RaftEngine:
    """Recovers the host from the newest snapshot, the log's shape and the configuration, starts the transport, and
    returns a member that takes part. `functools.partial(open_raft, transport=..., options=...)` is an `OpenEngine`.

    `on_recovered` gets the engine before the transport is started: who may be let in depends on its cluster.

    The transport is the engine's from then on: it is closed with the engine, or when this raises. What is committed is
    known only from a leader; so the host catches up with the log after this returned. A sole voter needs no other: it
    has applied its whole log and leads, unless its disk is full.

    Raises Corrupt, DiskFull, FailedPrecondition (MemberRemoved, NotEmpty), Unavailable.
    """
    storage: Storage | None = None
    driver: Driver | None = None
    try:
        internal: list[LogEntry] = []
        storage = Storage.open(parts, host, notice=internal.append, installs=True)
        state = recover(parts, storage, internal, options)
        storage.replay(host, to_index=state.commit_index)
        driver = Driver(parts, host, storage, transport, state, address=options.address)
        engine = RaftEngine(parts, storage, transport, driver)
        on_recovered(engine)
        driver.start()
        if state.voters == (parts.member,):
            await engine.wait_ready()
        return engine
    except BaseException:
        if driver is not None:
            driver.stop()
            await driver.join()
        await transport.close()
        if storage is not None:
            storage.close()
        raise


class RaftEngine:
    """Implements `coordinator.engine.Engine` and `coordinator.engine.Membership`."""

    def __init__(self, parts: EngineParts, storage: Storage, transport: Transport, driver: Driver) -> None:
        self._parts = parts
        self._storage = storage
        self._transport = transport
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._closed: asyncio.Event = asyncio.Event()
        self._saving = asyncio.Lock()

    # Engine

    async def propose(self, data: bytes, *, term: int | None = None) -> Committed:
        self._check_usable()
        driver = self._driver
        state = driver.state
        driver.proposals.check(data)
        if term is not None and (state.role is not Role.LEADER or state.term != term):
            raise leadership_lost(term)
        if driver.writer.full is not None and state.leader in ("", state.id):
            raise copy_of(driver.writer.full)
        future: asyncio.Future[Committed] = self._loop.create_future()
        driver.propose(Proposal(data, since_s=self._parts.seconds(), future=future, fence=term))
        return await future

    async def read_index(self) -> int:
        self._check_usable()
        future = self._driver.reads.add()
        self._driver.wake()
        return await future

    @property
    def term(self) -> int:
        return self._driver.state.term

    @property
    def leading(self) -> bool:
        return self._driver.leadership.leading

    @property
    def failure(self) -> CloudlessError | None:
        return self._driver.failure

    @property
    def state(self) -> State:
        """The core's, for tests and diagnosis."""
        return self._driver.state

    @property
    def cluster_id(self) -> str:
        """Of the configuration in force; "" on a member that has not heard of its cluster yet."""
        return self._driver.state.configuration.cluster_id

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        self._driver.leadership.add(listener)

    def status(self) -> EngineStatus:
        state = self._driver.state
        return EngineStatus(
            engine="raft",
            member=state.id,
            role=role_name(state),
            leader=state.leader,
            term=state.term,
            commit_index=state.commit_index,
            applied_index=self._driver.applying.index,
            first_index=state.log.base_index + 1,
            last_index=state.log.last_index,
            members=tuple(self._member_status(member.id) for member in state.configuration.members),
        )

    def _member_status(self, member_id: str) -> MemberStatus:
        state = self._driver.state
        member = state.configuration.get(member_id)
        assert member is not None
        match_index = contact_age_ms = -1
        if member_id == state.id:
            match_index, contact_age_ms = state.durable_index, 0
        elif (progress := state.progress.get(member_id)) is not None:
            match_index = progress.match_index
            contact_age_ms = max(0, round(self._parts.clock.monotonic_ms() - progress.contact_ms))
        return MemberStatus(
            id=member_id,
            address=member.address,
            voter=member.voter,
            leader=member_id == state.leader,
            match_index=match_index,
            contact_age_ms=contact_age_ms,
        )

    async def save_snapshot(self, snapshot: StoredSnapshot) -> tuple[int, int]:
        async with self._saving:
            self._check_usable()
            driver, storage = self._driver, self._storage
            if snapshot.index < driver.state.snapshot_index:
                raise Unavailable(f"there is a newer snapshot than that of entry {snapshot.index}", reason="Superseded")
            configuration = b""
            if driver.state.configuration.members:
                configuration = encode_configuration(driver.state.configuration_at(snapshot.index))
            stored = replace(snapshot, configuration=configuration)
            size: int = await self._parts.run_blocking(lambda: storage.snapshots.save(stored))
            driver.serving.stored(Newest(snapshot.index, snapshot.term, configuration))
            to_index = min(storage.snapshots.compactable_index(), self._needed_behind(snapshot.index))
            removed: int = await self._parts.run_blocking(lambda: self._compact(to_index))
            if driver.failure is None:
                driver.feed(Compacted(storage.wal.first_index, snapshot.index, snapshot.term))
            return size, removed

    def _compact(self, to_index: int) -> int:
        with self._driver.compacting:
            return self._storage.wal.compact(to_index)

    def _needed_behind(self, snapshot_index: int) -> int:
        """Up to here no member needs the log that is not too far behind anyway."""
        state = self._driver.state
        if len(state.configuration.members) <= 1:
            return snapshot_index
        trailing = snapshot_index - self._parts.config.snapshot_entries // TRAILING_PART
        if state.role is not Role.LEADER:
            return max(trailing, 0)
        slowest = min((progress.match_index for progress in state.progress.values()), default=0)
        return max(min(slowest, snapshot_index), trailing, 0)

    # Membership

    async def add_learner(self, member: str, address: str) -> None:
        self._check_usable()
        await self._driver.changes.change("add", member, address)

    async def promote(self, member: str) -> None:
        self._check_usable()
        await self._driver.changes.change("promote", member)

    async def remove(self, member: str) -> None:
        self._check_usable()
        await self._driver.changes.change("remove", member)

    async def transfer(self, member: str = "") -> str:
        self._check_usable()
        return await self._driver.changes.change("transfer", member)

    # Life

    async def wait_ready(self) -> None:
        """Until this member leads, if that can be soon."""
        give_up_s = self._loop.time() + READY_S
        while not self.leading and self.failure is None and self._driver.writer.full is None:
            if self._loop.time() >= give_up_s:
                return
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """See `Engine.close`; may be repeated."""
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        driver = self._driver
        try:
            if driver.failure is None:
                await self._hand_over()
                await self._finish()
            driver.leadership.set(False)
            driver.stop()
            driver.refuse_all(outcome_unknown("the store is closed"))
            await driver.receiving.close()
            await self._transport.close()
            async with self._saving:
                await driver.join()
                self._storage.close()
        finally:
            self._closed.set()

    async def _hand_over(self) -> None:
        driver = self._driver
        state = driver.state
        if state.role is not Role.LEADER or state.voters == (state.id,):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRANSFER_S):
                reason, leader = await driver.changes.here("transfer", "")
                log.info("raft.handed_over", member=state.id, reason=reason, leader=leader)

    async def _finish(self) -> None:
        """What was proposed is settled by whoever leads now, if that is soon."""
        driver = self._driver
        give_up_s = self._loop.time() + FINISH_S
        while driver.failure is None and (driver.proposals.held or not driver.applying.done):
            alone = driver.state.voters == (driver.state.id,) and driver.writer.full is None
            if self._loop.time() >= give_up_s and not (alone and self.leading):
                return
            await asyncio.sleep(0.005)

    def _check_usable(self) -> None:
        if self._driver.failure is not None:
            raise copy_of(self._driver.failure)
        if self._closing:
            raise Unavailable("the store is closed", reason="StoreClosed")
