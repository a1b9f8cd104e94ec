"""What watchers of the store read: the last batches of changes, each once, in order.

A ring for all watches: what a slow one costs is bounded, and it is told when it fell out of the ring.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic

from prometheus_client import Gauge

from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.wal.machine import Applied, S
from cloudless.core.model import Event
from cloudless.core.quick import quick_frozen
from cloudless.errors import Compacted, Unavailable, WatchLagged

WATCHERS = Gauge("cloudless_store_watchers", "Open watches of the store.")

WATCH_BATCHES = 8192  # kept for watchers; one that falls further behind has lagged


@quick_frozen
class Batch(Generic[S]):
    """What the entry at `index` changed, and the state after it. Entries that changed nothing make no batch."""

    index: int
    changes: tuple[Change, ...]
    events: tuple[Event, ...]
    state: S


class Feed(Generic[S]):
    """The last batches, numbered in the order in which they came; watches are positions in it."""

    def __init__(self, index: int) -> None:
        self._batches: dict[int, Batch[S]] = {}  # by number, ascending without a gap
        self._oldest = 0
        self._next = 0
        self._known_from = index  # every batch with a greater index is in the ring
        self._newest_index = index
        self._waiting: dict[asyncio.Future[None], None] = {}  # woken in the order in which they came
        self._replaced_at = 0  # positions before this number are of a state that an installed snapshot replaced
        self._closed = False

    def advance(self, index: int) -> None:
        """An entry that changes nothing: no batch, but positions up to it are known."""
        self._newest_index = index

    def replace(self, index: int) -> None:
        """The state became another one, of this index, and nobody knows what changed in between: who watched has to
        list again (Compacted)."""
        self._batches.clear()
        self._next += 1  # even a watch that had read everything is behind now
        self._oldest = self._replaced_at = self._next
        self._known_from = self._newest_index = index
        self.wake()

    def add(self, index: int, applied: Applied[S]) -> None:
        self._newest_index = index
        if not applied.changes and not applied.events:
            return
        self._batches[self._next] = Batch(index, applied.changes, applied.events, applied.state)
        self._next += 1
        if len(self._batches) > WATCH_BATCHES:
            self._known_from = self._batches.pop(self._oldest).index
            self._oldest += 1
        self.wake()

    def watch(self, from_index: int) -> Watch[S]:
        if from_index < self._known_from:
            raise Compacted(
                f"changes are kept from index {self._known_from} on, index {from_index} is too old",
                remedy="list again and watch from the index of that list",
            )
        if from_index > self._newest_index:
            raise Compacted(
                f"index {from_index} is ahead of this coordinator, which is at {self._newest_index}",
                remedy="list again and watch from the index of that list",
            )
        low, high = self._oldest, self._next
        while low < high:
            middle = (low + high) // 2
            if self._batches[middle].index <= from_index:
                low = middle + 1
            else:
                high = middle
        return Watch(self, low)

    def take(self, number: int) -> Batch[S] | None:
        """The batch of this number, or None when it is yet to come. Raises WatchLagged, Compacted, Unavailable."""
        if number < self._replaced_at:
            raise Compacted(
                f"this coordinator got a snapshot of index {self._known_from} in place of the changes before it",
                remedy="list again and watch from the index of that list",
            )
        if number < self._oldest:
            raise WatchLagged(
                f"the watcher is {self._next - number} changes behind, {WATCH_BATCHES} are kept",
                remedy="list again and watch from the index of that list",
            )
        if number == self._next and self._closed:
            raise Unavailable("the store is closed", reason="StoreClosed")
        return self._batches.get(number)

    async def wait(self) -> None:
        """Until a batch comes, the feed closes, or a watch does."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        finally:
            self._waiting.pop(future, None)

    def close(self) -> None:
        self._closed = True
        self.wake()

    def wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class Watch(Generic[S], AsyncIterator[Batch[S]]):
    """One reader's position in the changes. One task at a time may iterate."""

    def __init__(self, feed: Feed[S], number: int) -> None:
        self._feed = feed
        self._number = number
        self._open = True
        WATCHERS.inc()

    def ready(self) -> Batch[S] | None:
        """The next batch if it is there already. Raises as iteration does."""
        batch = self._feed.take(self._number)
        if batch is not None:
            self._number += 1
        return batch

    async def __anext__(self) -> Batch[S]:
        while True:
            if not self._open:
                raise StopAsyncIteration
            batch = self.ready()
            if batch is not None:
                return batch
            await self._feed.wait()

    def close(self) -> None:
        """Ends the watch; safe to call twice."""
        if self._open:
            self._open = False
            self._feed.wake()
            WATCHERS.dec()
