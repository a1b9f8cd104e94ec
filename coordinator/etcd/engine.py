"""The engine for those who already run an etcd (3.4 or later): the log, its snapshots and the leader's key live there.

Any member appends, by one transaction that compares and swaps the head of the log; whatever is proposed while one is
under way goes into the next. Every member follows by a watch, and applies. Nothing is kept on the local disk. How
many coordinators there are does not matter to the log: etcd's quorum is the one that counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from cloudless.coordinator.engine import Committed, EngineParts, EngineStatus, MemberStatus, StateHost
from cloudless.coordinator.etcd.client import EtcdClient, delete, get, if_created_at, if_modified_at, put
from cloudless.coordinator.etcd.layout import (
    APPEND_BYTES_MAX,
    PART_BYTES,
    Head,
    Keys,
    SnapshotPointer,
    encode_entries,
)
from cloudless.coordinator.etcd.leadership import Leadership
from cloudless.coordinator.etcd.replica import Replica
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.snapshots import StoredSnapshot
from cloudless.errors import (
    CloudlessError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)

log = structlog.get_logger(__name__)

QUEUE_ENTRIES_MAX: Final = 16_384
ENTRY_BYTES_MAX: Final = APPEND_BYTES_MAX
QUEUE_BYTES_MAX: Final = 64 * 2**20
GROUP_ENTRIES_MAX: Final = 1024
CLOSE_S: Final = 2.0
# Kept behind the snapshot, so that a member that was away for a moment goes on without it.
TRAILING_ENTRIES: Final = 2_000
_RETRY_S: Final = 0.02


@dataclass(slots=True)
class _Pending:
    data: bytes
    term: int | None
    future: asyncio.Future[Committed]


async def open_etcd(parts: EngineParts, host: StateHost, *, client: EtcdClient | None = None) -> EtcdEngine:
    """An `OpenEngine`. `client` is the engine's from then on; made from the settings unless given.

    Raises Unavailable when etcd does not answer, Corrupt for keys that are not the engine's, InvalidArgument.
    """
    client = client or EtcdClient(parts.config.etcd)
    try:
        engine = EtcdEngine(parts, host, client)
        await engine._open()
    except BaseException:
        await client.close()
        raise
    return engine


class EtcdEngine:
    """See the module. Made by `open_etcd`."""

    def __init__(self, parts: EngineParts, host: StateHost, client: EtcdClient) -> None:
        self._parts = parts
        self._host = host
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._keys = keys = Keys(parts.config.etcd.prefix)
        self._listeners: list[Callable[[bool], None]] = []
        self._told = False
        self._leadership = Leadership(
            client,
            keys,
            parts.member,
            ttl_ms=parts.config.etcd.lease_ttl_ms,
            catch_up=self.read_index,
            on_change=self._tell,
        )
        self._replica = Replica(
            client,
            keys,
            host,
            on_leader=self._leadership.seen,
            on_leader_gone=self._leadership.gone,
            on_applied=lambda: None,
        )
        self._queue: deque[_Pending] = deque()
        self._held_entries = 0
        self._held_bytes = 0
        self._due: asyncio.Event = asyncio.Event()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        self._reading: asyncio.Future[int] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._campaign: asyncio.Task[None] | None = None
        self._closed = False
        self._failure: CloudlessError | None = None

    async def _open(self) -> None:
        await self._replica.load()
        self._tasks = [
            self._loop.create_task(self._run(self._replica.follow), name="etcd-follow"),
            self._loop.create_task(self._run(self._append_all), name="etcd-append"),
        ]
        self._campaign = self._loop.create_task(self._run(self._leadership.run), name="etcd-campaign")

    async def _run(self, work: Callable[[], object]) -> None:
        """A part that must run for ever."""
        try:
            await work()  # type: ignore[misc]
        except CloudlessError as error:
            self._fail(error)
        except Exception as error:
            log.exception("etcd.bug")
            self._fail(Internal(f"bug in the etcd engine: {error!r}", remedy="restart, and report this"))

    # Engine

    @property
    def term(self) -> int:
        return self._leadership.term or max(self._leadership.holder_term, self._host.applied_term)

    @property
    def leading(self) -> bool:
        return self._failure is None and not self._closed and self._leadership.leading

    @property
    def failure(self) -> CloudlessError | None:
        return self._failure

    def on_leadership(self, listener: Callable[[bool], None]) -> None:
        self._listeners.append(listener)
        listener(self._told)

    def _tell(self) -> None:
        leads = self._leadership.term > 0
        if leads == self._told:
            return
        self._told = leads
        for listener in list(self._listeners):
            listener(leads)

    async def propose(self, data: bytes, *, term: int | None = None) -> Committed:
        if self._failure is not None:
            raise self._failure.copy()
        if self._closed:
            raise Unavailable("the store is closed", reason="StoreClosed")
        if len(data) > APPEND_BYTES_MAX:
            raise InvalidArgument(
                f"an entry has {len(data)} bytes, {APPEND_BYTES_MAX} are allowed with etcd", reason="TooLarge"
            )
        if term is not None and (not self.leading or self._leadership.term != term):
            raise _no_longer_leads(term)
        if self._held_entries >= QUEUE_ENTRIES_MAX or self._held_bytes + len(data) > QUEUE_BYTES_MAX:
            raise ResourceExhausted(
                f"{self._held_entries} writes wait for etcd",
                reason="ProposalQueueFull",
                remedy="try again in a moment, with fewer writes at once",
            )
        pending = _Pending(data, term, self._loop.create_future())
        self._held_entries += 1
        self._held_bytes += len(data)
        self._idle.clear()
        self._queue.append(pending)
        self._due.set()
        try:
            return await pending.future
        finally:
            self._held_entries -= 1
            self._held_bytes -= len(data)
            if not self._held_entries:
                self._idle.set()

    async def read_index(self) -> int:
        """All that ask while one question is under way share the next one."""
        if self._failure is not None:
            raise self._failure.copy()
        if self._closed:
            raise Unavailable("the store is closed", reason="StoreClosed")
        reading = self._reading
        if reading is None:
            reading = self._reading = asyncio.ensure_future(self._read_index())
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(reading)

    async def _read_index(self) -> int:
        await asyncio.sleep(0)  # whoever asks in this turn of the loop
        self._reading = None
        answer = await self._client.range(self._keys.head)
        head = Head.decode(answer.kvs[0].value, answer.kvs[0].mod_revision) if answer.kvs else Head()
        await self._replica.applied(head.index)
        return head.index

    def status(self) -> EngineStatus:
        holder, applied = self._leadership.holder, self._host.applied_index
        return EngineStatus(
            engine="etcd",
            member=self._parts.member,
            role="leader" if self.leading else "follower",
            leader=holder,
            term=self.term,
            commit_index=max(self._replica.head.index, applied),
            applied_index=applied,
            first_index=self._replica.first_index,
            last_index=max(self._replica.head.index, applied),
            members=(MemberStatus(self._parts.member, leader=self.leading, match_index=applied, contact_age_ms=0),),
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._idle.wait()
        for task in (*self._tasks, *filter(None, (self._campaign,))):
            task.cancel()
        await asyncio.gather(*self._tasks, *filter(None, (self._campaign,)), return_exceptions=True)
        self._refuse(self._queue, Unavailable("the store is closed", reason="StoreClosed"))
        self._replica.fail(Unavailable("the store is closed", reason="StoreClosed"))
        await self._client.close()

    # Appending

    async def _append_all(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            while self._queue:
                group = self._next_group()
                if group:
                    await self._append(group)

    def _next_group(self) -> list[_Pending]:
        """Proposals in order, all of the same condition."""
        group: list[_Pending] = []
        size = 0
        while self._queue and len(group) < GROUP_ENTRIES_MAX:
            pending = self._queue[0]
            if pending.future.done():  # its caller gave up before anything was sent
                self._queue.popleft()
                continue
            if group and (pending.term != group[0].term or size + len(pending.data) > APPEND_BYTES_MAX):
                break
            size += len(pending.data)
            group.append(self._queue.popleft())
        return group

    async def _append(self, group: list[_Pending]) -> None:
        keys, head, fence = self._keys, self._replica.head, group[0].term
        entry_term = max(head.term, self._leadership.holder_term, 1)
        first = head.index + 1
        datas = [pending.data for pending in group]
        compare = [if_modified_at(keys.head, head.revision)]
        if fence is not None:
            compare.append(if_created_at(keys.leader, fence))
        new_head = Head(head.index + len(datas), entry_term)
        try:
            answer = await self._client.txn(
                compare,
                [put(keys.head, new_head.encode()), put(keys.entries(first), encode_entries(entry_term, datas))],
                [get(keys.head), get(keys.leader)],
            )
        except Unavailable as error:
            unknown = Unavailable(error.message, reason="OutcomeUnknown", remedy=error.remedy)
            self._refuse(group, unknown)
            await self._refresh_head()
            return
        except CloudlessError as error:  # refused as a whole
            self._refuse(group, error)
            return
        if not answer.succeeded:
            self._after_refusal(group, answer)
            return
        self._replica.advance(Head(new_head.index, entry_term, answer.header.revision))
        for offset, pending in enumerate(group):
            outcome = self._replica.outcome(first + offset)
            outcome.add_done_callback(functools.partial(_answer, pending, first + offset, entry_term))
        self._replica.accept([LogEntry(first + offset, entry_term, data) for offset, data in enumerate(datas)])

    def _after_refusal(self, group: list[_Pending], answer: object) -> None:
        heads, leaders = (r.response_range.kvs for r in answer.responses)  # type: ignore[attr-defined]
        fence = group[0].term
        if fence is not None and (not leaders or leaders[0].create_revision != fence):
            self._refuse(group, _no_longer_leads(fence))
            return
        if heads:
            self._replica.advance(Head.decode(heads[0].value, heads[0].mod_revision))
        self._queue.extendleft(reversed(group))

    async def _refresh_head(self) -> None:
        """After an append whose outcome is not known: the next one must not build on a guess."""
        while self._failure is None and not self._closed:
            try:
                answer = await self._client.range(self._keys.head)
            except CloudlessError:
                self._refuse(
                    self._queue,
                    Unavailable(
                        "etcd does not answer",
                        reason="NoLeader",
                        remedy="check that etcd runs and has a quorum (`etcdctl endpoint status --cluster`)",
                    ),
                )
                await asyncio.sleep(_RETRY_S)
                continue
            for pair in answer.kvs:
                self._replica.advance(Head.decode(pair.value, pair.mod_revision))
            return

    @staticmethod
    def _refuse(group: list[_Pending] | deque[_Pending], error: CloudlessError) -> None:
        for pending in group:
            if not pending.future.done():
                pending.future.set_exception(error.copy())
        if isinstance(group, deque):
            group.clear()

    def _fail(self, error: CloudlessError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        log.critical("store.failed", cause=str(error))
        if self._campaign is not None:
            self._campaign.cancel()
        self._replica.fail(error)
        self._refuse(self._queue, error)
        self._parts.on_failure(error)

    # Snapshots

    async def save_snapshot(self, snapshot: StoredSnapshot) -> tuple[int, int]:
        """The leader's work; the others have nothing to store."""
        if not self.leading:
            return 0, 0
        term, keys = self._leadership.term, self._keys
        parts = [snapshot.body[at : at + PART_BYTES] for at in range(0, len(snapshot.body), PART_BYTES)]
        checksum = await self._parts.run_blocking(lambda: zlib.crc32(snapshot.body))
        nonce = f"{self._parts.random_bits(32):08x}"
        pointer = SnapshotPointer(snapshot.index, snapshot.term, len(parts), len(snapshot.body), checksum, nonce)
        fence = [if_created_at(keys.leader, term)]
        for number, part in enumerate(parts):
            if not (await self._client.txn(fence, [put(keys.part(pointer, number), part)])).succeeded:
                raise Unavailable("another coordinator leads by now", reason="LeadershipLost")
        keep_from = max(1, snapshot.index - TRAILING_ENTRIES)
        last_dropped = await self._client.range(keys.log, keys.entries(keep_from), limit=1, newest_first=True)
        # That group may reach over the border: it stays.
        operations = [put(keys.snapshot, pointer.encode())]
        if last_dropped.kvs:
            operations.append(delete(keys.log, last_dropped.kvs[0].key))
        answer = await self._client.txn(fence, operations)
        if not answer.succeeded:
            raise Unavailable("another coordinator leads by now", reason="LeadershipLost")
        removed = answer.responses[1].response_delete_range.deleted if last_dropped.kvs else 0
        await self._client.delete(keys.snapshots, keys.parts(pointer))  # older ones sort before it
        if self._parts.config.etcd.compact:
            await self._client.compact(answer.header.revision)
        return len(snapshot.body), int(removed)


def _answer(pending: _Pending, index: int, term: int, done: asyncio.Future[object]) -> None:
    if pending.future.done() or done.cancelled():
        return
    if (error := done.exception()) is not None:
        pending.future.set_exception(error)
    else:
        pending.future.set_result(Committed(index, term, done.result()))


def _no_longer_leads(term: int) -> FailedPrecondition:
    return FailedPrecondition(f"this coordinator no longer leads in term {term}", reason="LeadershipLost")
