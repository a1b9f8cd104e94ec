"""Where each entry of the log lies, in memory: its segment, its place there, its term."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence

from cloudless.errors import Compacted

Place = tuple[int, int, int]  # segment, start and end of the record in it


class Index:
    """Entries are numbered without a gap behind `base_index`, the last one that was compacted away. Two columns of
    plain numbers, and the places where segment or term change: a million entries take 8 MB. Not locked; `Log` does
    that."""

    def __init__(self) -> None:
        self.base_index = 0
        self.base_term = 0
        self._starts = array("I")  # a segment has less than 4 GiB: its records say so too (`record.Record.synced`)
        self._ends = array("I")
        self._terms: list[tuple[int, int]] = []  # (first entry, term)
        self._segments: list[tuple[int, int]] = []  # (first entry, segment)

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._starts)

    @property
    def last_term(self) -> int:
        return self._terms[-1][1] if self._terms else self.base_term

    @property
    def term_runs(self) -> tuple[tuple[int, int], ...]:
        """(first index, term) wherever the term changes, behind the base."""
        return tuple(self._terms)

    def begin(self, index: int, term: int) -> None:
        """Forgets every entry; the next one follows this index and term."""
        self.base_index, self.base_term = index, term
        del self._starts[:], self._ends[:]
        self._terms, self._segments = [], []

    def extend(self, segment: int, term: int, *, starts: Sequence[int], ends: Sequence[int]) -> None:
        """The next entries: all of one term, in one segment."""
        if not starts:
            return
        first = self.last_index + 1
        if not self._terms or self._terms[-1][1] != term:
            self._terms.append((first, term))
        if not self._segments or self._segments[-1][1] != segment:
            self._segments.append((first, segment))
        self._starts.extend(starts)
        self._ends.extend(ends)

    def drop_from(self, index: int, *, term_before: int) -> None:
        """Forgets this entry and all behind it."""
        keep = index - self.base_index - 1
        if keep < 0:  # the entries before were in segments that are compacted away
            self.base_index, self.base_term, keep = index - 1, term_before, 0
        del self._starts[keep:], self._ends[keep:]
        self._terms = [run for run in self._terms if run[0] < index]
        self._segments = [run for run in self._segments if run[0] < index]

    def last_index_in(self, segment: int) -> int:
        """The last entry of the oldest segment; the one before the first where it holds none."""
        for first, other in self._segments:
            if other > segment:
                return first - 1
        return self.last_index

    def drop_up_to(self, index: int) -> None:
        """Forgets the entries up to this one, which is there or the one before the first."""
        count = index - self.base_index
        if count:
            self.base_term = self.term_at(index)
            self._terms = _behind(self._terms, index, self.last_index)
            self._segments = _behind(self._segments, index, self.last_index)
            self.base_index = index
            del self._starts[:count], self._ends[:count]

    def term_at(self, index: int) -> int:
        """Also of the entry before the first. Raises Compacted, or IndexError behind the end."""
        if index == self.base_index:
            return self.base_term
        if index < self.base_index:
            raise self.compacted(index)
        if index > self.last_index:
            raise IndexError(f"entry {index} is behind the end of the log, {self.last_index}")
        return _value_at(self._terms, index)

    def places(self, from_index: int, to_index: int) -> list[Place]:
        """Of `from_index` up to, not including, `to_index`; fewer at the end. Raises Compacted."""
        if from_index <= self.base_index:
            raise self.compacted(from_index)
        stop = min(to_index, self.last_index + 1)
        found: list[Place] = []
        while from_index < stop:
            at = bisect_right(self._segments, from_index, key=_first)
            end = min(stop, self._segments[at][0]) if at < len(self._segments) else stop
            low, high = from_index - self.base_index - 1, end - self.base_index - 1
            segment = self._segments[at - 1][1]
            found += [(segment, *p) for p in zip(self._starts[low:high], self._ends[low:high], strict=True)]
            from_index = end
        return found

    def compacted(self, index: int) -> Compacted:
        return Compacted(f"entry {index} was compacted; the log begins at {self.base_index + 1}")


def _first(run: tuple[int, int]) -> int:
    return run[0]


def _value_at(runs: list[tuple[int, int]], index: int) -> int:
    return runs[bisect_right(runs, index, key=_first) - 1][1]


def _behind(runs: list[tuple[int, int]], index: int, last_index: int) -> list[tuple[int, int]]:
    if index >= last_index:
        return []
    later = [run for run in runs if run[0] > index + 1]
    return [(index + 1, _value_at(runs, index + 1)), *later]
