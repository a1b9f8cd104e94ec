"""The newest entries of the log, in memory: for the followers that keep up, and for applying."""

from __future__ import annotations

from collections.abc import Iterable

from cloudless.coordinator.wal.record import LogEntry

CACHE_BYTES_MAX = 32 * 2**20
# What an entry costs beside its data, about: two Python objects and a place in the list.
ENTRY_OVERHEAD_BYTES = 160
# Places of dropped entries are given back when there are so many of them.
_SPARE_PLACES = 4096


class RecentEntries:
    """Contiguous; ends with the newest entry of the log, whether that is on the disk yet or not. What is not on the
    disk is never dropped, so that an entry is always here or there."""

    def __init__(self, *, last_index: int, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: list[LogEntry | None] = []
        self._dropped = 0  # places at the front whose entries are gone
        self._origin = last_index + 1  # the index of place 0
        self._sliced: tuple[int, int, int, tuple[LogEntry, ...]] = (0, 0, 0, ())

    @property
    def first_index(self) -> int:
        return self._origin + self._dropped

    @property
    def last_index(self) -> int:
        return self._origin + len(self._entries) - 1

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def extend(self, entries: Iterable[LogEntry]) -> None:
        """The next entries of the log."""
        for entry in entries:
            assert entry.index == self._origin + len(self._entries), (entry.index, self.last_index)
            self._entries.append(entry)
            self._bytes += len(entry.data) + ENTRY_OVERHEAD_BYTES

    def truncate_from(self, index: int) -> None:
        """The log lost this entry and all behind it."""
        self._sliced = (0, 0, 0, ())
        if index <= self.first_index:
            self.reset(last_index=index - 1)
            return
        place = index - self._origin
        self._bytes -= sum(len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in self._entries[place:] if entry)
        del self._entries[place:]

    def reset(self, *, last_index: int) -> None:
        """The log goes on behind this index, and nothing before it is known."""
        self._sliced = (0, 0, 0, ())
        self._entries.clear()
        self._bytes = self._dropped = 0
        self._origin = last_index + 1

    def get(self, index: int) -> LogEntry | None:
        place = index - self._origin
        return self._entries[place] if self._dropped <= place < len(self._entries) else None

    def slice(self, from_index: int, to_index: int, *, bytes_max: int) -> tuple[LogEntry, ...]:
        """From `from_index` up to and with `to_index`, as many as fit into `bytes_max`, at least one; nothing where the
        first is not here. Two members that are equally far get one and the same tuple."""
        if self._sliced[:3] == (from_index, to_index, bytes_max):
            return self._sliced[3]
        place = from_index - self._origin
        if not self._dropped <= place < len(self._entries):
            return ()
        found: list[LogEntry] = self._entries[place : to_index - self._origin + 1]  # type: ignore[assignment]
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.data)
            if size > bytes_max and count:
                del found[count:]
                break
        self._sliced = (from_index, to_index, bytes_max, tuple(found))
        return self._sliced[3]

    def shrink(self, *, durable_index: int) -> None:
        """Drops the oldest of the entries up to this one while there are more bytes than allowed."""
        while self._bytes > self._bytes_max and self._dropped < len(self._entries):
            entry = self._entries[self._dropped]
            assert entry is not None
            if entry.index > durable_index:
                break
            self._entries[self._dropped] = None
            self._dropped += 1
            self._bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
        if self._dropped > _SPARE_PLACES:
            del self._entries[: self._dropped]
            self._origin += self._dropped
            self._dropped = 0
