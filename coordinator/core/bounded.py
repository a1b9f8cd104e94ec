"""A log that keeps its newest entries: persistent, with appends that do not copy it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from cloudless.core.quick import quick_frozen

T = TypeVar("T")

_CHUNK: Final = 128


@quick_frozen
class BoundedLog(Generic[T]):
    """An immutable sequence of the last `limit` entries, oldest first.

    Full chunks are shared between versions, so that an append copies at most one chunk and the list of chunks.
    Which entries are kept depends on their sequence alone, never on where chunks begin: a member that started
    from a snapshot drops the same entries as one that applied everything.
    """

    limit: int
    chunks: tuple[tuple[T, ...], ...] = ()  # full ones
    tail: tuple[T, ...] = ()  # fewer than _CHUNK entries
    skip: int = 0  # entries of the first chunk that have been dropped

    def __len__(self) -> int:
        return len(self.chunks) * _CHUNK + len(self.tail) - self.skip

    def __iter__(self) -> Iterator[T]:
        skip = self.skip
        for chunk in self.chunks:
            yield from chunk[skip:]
            skip = 0
        yield from self.tail

    def newest_first(self) -> Iterator[T]:
        """The entries from the newest to the oldest."""
        remaining = len(self)
        for chunk in (self.tail, *reversed(self.chunks)):
            for entry in reversed(chunk):
                if remaining == 0:
                    return
                remaining -= 1
                yield entry

    def extended(self, entries: Iterable[T]) -> tuple[BoundedLog[T], tuple[T, ...]]:
        """This log with `entries` at its end, and the oldest entries that had to leave, oldest first."""
        tail = (*self.tail, *entries)
        chunks = self.chunks
        if len(tail) >= _CHUNK:
            full = len(tail) - len(tail) % _CHUNK
            chunks = (*chunks, *(tail[i : i + _CHUNK] for i in range(0, full, _CHUNK)))
            tail = tail[full:]
        surplus = len(chunks) * _CHUNK + len(tail) - self.skip - self.limit
        if surplus <= 0:
            return BoundedLog(self.limit, chunks, tail, self.skip), ()
        first = self.skip
        gone: list[T] = []
        while surplus and chunks:
            part = chunks[0][first : first + surplus]
            gone += part
            surplus -= len(part)
            first += len(part)
            if first == _CHUNK:
                chunks, first = chunks[1:], 0
        if surplus:  # a limit below the size of a chunk: only the tail is left
            gone += tail[first : first + surplus]
            tail, first = tail[first + surplus :], 0
        return BoundedLog(self.limit, chunks, tail, first), tuple(gone)
