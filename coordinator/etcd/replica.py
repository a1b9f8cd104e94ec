"""This member's copy of the log in etcd: read at the start, then kept up by a watch; entries are applied in order."""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from cloudless.coordinator.engine import StateHost
from cloudless.coordinator.etcd.client import EtcdClient, after_prefix, get
from cloudless.coordinator.etcd.layout import Head, Keys, SnapshotPointer, decode_entries
from cloudless.coordinator.wal.record import LogEntry
from cloudless.errors import CloudlessError, Compacted, Corrupt, FailedPrecondition, Internal, Unavailable

log = structlog.get_logger(__name__)

APPLY_SLICE_S: Final = 0.005
OUTCOMES_MAX: Final = 16_384
_KEYS_PER_PAGE: Final = 16
_ATTEMPTS: Final = 20
_RETRY_S: Final = 0.2


class Replica:
    """`head` is the newest entry that this member knows to be in etcd. Event loop only."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        host: StateHost,
        *,
        on_leader: Callable[[str, int], None],
        on_leader_gone: Callable[[int], None],
        on_applied: Callable[[], None],
    ) -> None:
        self._client = client
        self._keys = keys
        self._host = host
        self._on_leader = on_leader
        self._on_leader_gone = on_leader_gone
        self._on_applied = on_applied
        self._loop = asyncio.get_running_loop()
        self.head = Head()
        self.first_index = 1
        self._revision = 0  # of etcd; everything up to it was seen
        self._ready: dict[int, LogEntry] = {}
        self._draining = False
        self._outcomes: OrderedDict[int, Any] = OrderedDict()
        self._waiting: dict[int, list[asyncio.Future[Any]]] = {}
        self._failure: asyncio.Future[None] = self._loop.create_future()

    # Reading

    async def load(self) -> None:
        """At the start. Raises Corrupt, FailedPrecondition (the store is ahead of etcd), Unavailable."""
        await self._load(self._install_now)

    async def follow(self) -> None:
        """Keeps up, for ever. Raises Corrupt and what else cannot be mended by going on."""
        while True:
            try:
                await self._check_head()
                async for answer in self._client.watch(self._keys.prefix, from_revision=self._revision + 1):
                    for event in answer.events:
                        self._on_event(event)
                    self._revision = max(self._revision, answer.header.revision)
                    self._raise_failure()
            except Compacted as error:
                log.info("etcd.reading_anew", cause=error.message)
                await self._load(self._host.install)
            except Unavailable as error:
                log.info("etcd.watch_restarted", cause=error.message)
                await asyncio.sleep(_RETRY_S)

    async def _check_head(self) -> None:
        """An etcd that was put back to an older state would have this member wait for ever, with a state that is no
        longer true."""
        # What was applied before the question: more may be by the time of the answer.
        applied, revision = self._host.applied_index, self._revision
        answer = await self._client.range(self._keys.head)
        head = Head.decode(answer.kvs[0].value, answer.kvs[0].mod_revision) if answer.kvs else Head()
        if head.index < applied or answer.header.revision < revision:
            raise Corrupt(
                f"etcd holds {head.index} entries, this coordinator has applied {applied}: "
                "it was put back to an older state",
                remedy="restart every coordinator: they then go on from what etcd has",
            )

    async def _load(self, install: Callable[[bytes], Awaitable[object]]) -> None:
        for _ in range(_ATTEMPTS):
            try:
                await self._load_once(install)
                return
            except Compacted as error:  # the snapshot was replaced while it was read
                log.info("etcd.reading_anew", cause=error.message)
        raise Unavailable("etcd forgets its revisions faster than they can be read", reason="EtcdUnavailable")

    async def _load_once(self, install: Callable[[bytes], Awaitable[object]]) -> None:
        keys, host = self._keys, self._host
        answer = await self._client.txn([], [get(keys.head), get(keys.leader), get(keys.snapshot)])
        heads, leaders, pointers = (response.response_range.kvs for response in answer.responses)
        revision = answer.header.revision
        head = Head.decode(heads[0].value, heads[0].mod_revision) if heads else Head()
        if host.applied_index > head.index:
            raise FailedPrecondition(
                f"the state is of entry {host.applied_index}, etcd has {head.index}",
                reason="StateAheadOfEtcd",
                remedy="restart this coordinator: it then goes on from what etcd has",
            )
        if pointers:
            pointer = SnapshotPointer.decode(pointers[0].value)
            self.first_index = max(self.first_index, pointer.index + 1)
            if pointer.index > host.applied_index:
                await install(await self._read_snapshot(pointer, revision))
        await self._read_log(revision, head)
        self.advance(head)
        await self.applied(head.index)
        self._revision = revision
        for pair in leaders:
            self._on_leader(pair.value.decode("utf-8", "replace"), pair.create_revision)
        if not leaders:
            self._on_leader("", 0)

    async def _install_now(self, body: bytes) -> None:
        self._host.load(body)

    async def _read_snapshot(self, pointer: SnapshotPointer, revision: int) -> bytes:
        parts: list[bytes] = []
        for number in range(pointer.parts):
            answer = await self._client.range(self._keys.part(pointer, number), revision=revision)
            parts.extend(pair.value for pair in answer.kvs)
        body = b"".join(parts)
        if len(body) != pointer.length or zlib.crc32(body) != pointer.crc32:
            raise Corrupt(
                f"the snapshot of entry {pointer.index} in etcd is damaged",
                remedy="restore etcd from its backup, or start a new cluster from one of `cloudlessctl cluster backup`",
            )
        return body

    async def _read_log(self, revision: int, head: Head) -> None:
        """Takes up the entries behind the applied one, which etcd has to have."""
        keys, wanted = self._keys, self._host.applied_index + 1
        if wanted > head.index:
            return
        # The first one may stand in the middle of its group.
        found = await self._client.range(
            keys.log, keys.entries(wanted + 1), revision=revision, limit=1, newest_first=True
        )
        start = found.kvs[0].key if found.kvs else keys.entries(wanted)
        end = after_prefix(keys.log)
        reached = wanted - 1
        while True:
            answer = await self._client.range(start, end, revision=revision, limit=_KEYS_PER_PAGE)
            for pair in answer.kvs:
                first = keys.first_index(pair.key)
                if first > reached + 1:
                    break
                entries = decode_entries(pair.value, first_index=first)
                reached = max(reached, first + len(entries) - 1)
                self.accept(entries)
            await asyncio.sleep(0)
            if not answer.more or not answer.kvs:
                break
            start = answer.kvs[-1].key + b"\0"
        if reached != head.index:
            raise Corrupt(
                f"entries are missing in etcd: those behind {reached}, up to {head.index}",
                remedy="something deleted keys below store.etcd.prefix; restore etcd from its backup",
            )

    def _on_event(self, event: Any) -> None:
        keys, pair = self._keys, event.kv
        deleted = event.type == event.DELETE
        if pair.key == keys.head:
            if deleted:
                raise Corrupt("the head of the log was deleted from etcd", remedy="restore etcd from its backup")
            self.advance(Head.decode(pair.value, pair.mod_revision))
        elif pair.key == keys.leader:
            if deleted:
                self._on_leader_gone(pair.mod_revision)
            else:
                self._on_leader(pair.value.decode("utf-8", "replace"), pair.create_revision)
        elif pair.key == keys.snapshot and not deleted:
            self.first_index = max(self.first_index, SnapshotPointer.decode(pair.value).index + 1)
        elif pair.key.startswith(keys.log) and not deleted:
            first = keys.first_index(pair.key)
            if first > self._host.applied_index + len(self._ready) + 1:
                raise Compacted(f"entries before {first} were not seen")
            self.accept(decode_entries(pair.value, first_index=first))

    # Applying

    def advance(self, head: Head) -> None:
        """This one was seen in etcd."""
        if head.revision > self.head.revision:
            self.head = head

    def accept(self, entries: Sequence[LogEntry]) -> None:
        """Entries that are in etcd; those that are known already are passed over."""
        applied = self._host.applied_index
        for entry in entries:
            if entry.index > applied:
                self._ready[entry.index] = entry
        if not self._draining:
            self._drain()

    def _drain(self) -> None:
        self._draining = False
        began_s = self._loop.time()
        while (entry := self._ready.pop(self._host.applied_index + 1, None)) is not None:
            try:
                outcome = self._host.apply(entry)
            except Exception as error:
                log.exception("store.apply_bug", index=entry.index, term=entry.term)
                bug = Internal(f"applying entry {entry.index} failed: {error!r}", remedy="report this as a bug")
                self.fail(error if isinstance(error, CloudlessError) else bug)
                return
            self._outcomes[entry.index] = outcome
            if len(self._outcomes) > OUTCOMES_MAX:
                self._outcomes.popitem(last=False)
            for future in self._waiting.pop(entry.index, ()):
                if not future.done():
                    future.set_result(outcome)
            if self._ready and self._loop.time() - began_s > APPLY_SLICE_S:
                self._draining = True
                self._loop.call_soon(self._drain)
                return
        if self._ready:  # what a snapshot covered meanwhile
            applied = self._host.applied_index
            self._ready = {index: entry for index, entry in self._ready.items() if index > applied}
        self._on_applied()

    def outcome(self, index: int) -> asyncio.Future[Any]:
        """Of the entry at this index, once it is applied. Fails with Unavailable where it is no longer known."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if index in self._outcomes:
            future.set_result(self._outcomes[index])
        elif index <= self._host.applied_index:
            future.set_exception(Unavailable(f"what entry {index} led to is not known", reason="OutcomeUnknown"))
        else:
            self._waiting.setdefault(index, []).append(future)
        return future

    async def applied(self, index: int) -> None:
        """Returns once this index is applied."""
        while self._host.applied_index < index:
            self._raise_failure()
            future = self.outcome(self._host.applied_index + 1)
            await asyncio.wait((future, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if future.done() and not future.cancelled():
                future.exception()

    def fail(self, error: CloudlessError) -> None:
        """Nothing is applied any more; all that wait get the error."""
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(type(error)(error.message, reason=error.reason, remedy=error.remedy))
                    future.exception()

    def _raise_failure(self) -> None:
        if self._failure.done():
            self._failure.result()
