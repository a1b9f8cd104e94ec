"""Watches of any kind: the present state, then each change. Written once; `kinds` says what differs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc.kinds import Collection, Key
from cloudless.coordinator.rpc.listing import Query
from cloudless.coordinator.store import Batch, Store
from cloudless.errors import InvalidArgument

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Present(Generic[T]):
    """The item as it is in `state`, at `revision`."""

    item: T
    state: State
    revision: int


@dataclass(frozen=True, slots=True)
class Gone:
    """Deleted, or no longer what was asked for."""

    key: Key
    revision: int


@dataclass(frozen=True, slots=True)
class Synced:
    """All that there was at `revision` has been sent."""

    revision: int


async def watch(
    store: Store[State], collection: Collection[T], query: Query[T], *, from_revision: int
) -> AsyncIterator[Present[T] | Gone | Synced]:
    """From revision 0: every item that matches, ordered by key, `Synced`, then changes for ever. From a later
    revision (of a list, or of the last message of an earlier watch): the changes after it.

    Each change is reported once per batch, at the batch's state. Raises Compacted where the revision is older than
    what is kept and WatchLagged where the reader is too slow: then list again and watch from there.
    """
    if from_revision < 0:
        raise InvalidArgument("from_revision must not be negative", reason="BadRevision")
    before: State | None = None
    start = from_revision
    if from_revision == 0:
        snapshot = store.snapshot
        before, start = snapshot.state, snapshot.index
        table = collection.table(before)
        for item in sorted(table.values(), key=collection.key):
            if query.matches(collection, before, item):
                yield Present(item, before, start)
        yield Synced(start)
    with closing(store.watch(start)) as batches:
        async for batch in batches:
            for message in _changes(collection, query, batch, before):
                yield message
            before = batch.state


def _changes(
    collection: Collection[T], query: Query[T], batch: Batch[State], before: State | None
) -> Iterable[Present[T] | Gone]:
    keys: dict[Key, str] = {}  # ordered, each once; its namespace
    for change in batch.changes:
        keys.update(dict.fromkeys(collection.touched(change), change.namespace))
    table: Any = collection.table(batch.state)
    for key, namespace in keys.items():
        item = table.get(key)
        if item is not None and query.matches(collection, batch.state, item):
            yield Present(item, batch.state, batch.index)
        elif _was_shown(collection, query, before, key, namespace):
            yield Gone(key, batch.index)


def _was_shown(collection: Collection[T], query: Query[T], before: State | None, key: Key, namespace: str) -> bool:
    """Whether the watcher may know the item. Without the state before, its namespace decides."""
    if before is None:
        return query.visible(namespace)
    table: Any = collection.table(before)
    item = table.get(key)
    return item is not None and query.matches(collection, before, item)
