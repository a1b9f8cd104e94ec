"""Where each entry of the log lies, in memory: its segment, its place there, its term."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence

from cloudless.errors import Compacted

Place = tuple[int, int, int]  # segment, start and end of the record in it


class Index:
    """Entries are numbered without a gap behind `base_index`, the last one that was compacted away. Four columns of
    plain numbers: a million entries take 32 MB. Not locked; `Log` does that."""

    def __init__(self) -> None:
        self.base_index = 0
        self.base_term = 0
        self._segments = array("Q")
        self._starts = array("Q")
        self._ends = array("Q")
        self._terms = array("Q")

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._terms)

    @property
    def last_term(self) -> int:
        return self._terms[-1] if self._terms else self.base_term

    def begin(self, index: int, term: int) -> None:
        """Forgets every entry; the next one follows this index and term."""
        self.base_index, self.base_term = index, term
        self._cut(0, len(self._terms))

    def add(self, place: Place, *, term: int) -> None:
        """The next entry."""
        segment, start, end = place
        self._segments.append(segment)
        self._starts.append(start)
        self._ends.append(end)
        self._terms.append(term)

    def drop_from(self, index: int, *, term_before: int) -> None:
        """Forgets this entry and all behind it."""
        keep = index - self.base_index - 1
        if keep < 0:  # the entries before were in segments that are compacted away
            self.base_index, self.base_term, keep = index - 1, term_before, 0
        self._cut(keep, len(self._terms))

    def last_index_in(self, segment: int) -> int:
        """The last entry of the oldest segment; the one before the first where it holds none."""
        return self.base_index + bisect_right(self._segments, segment)

    def drop_up_to(self, index: int) -> None:
        """Forgets the entries up to this one, which is there or the one before the first."""
        count = index - self.base_index
        if count:
            self.base_term = self._terms[count - 1]
            self.base_index = index
            self._cut(0, count)

    def term_at(self, index: int) -> int:
        """Also of the entry before the first. Raises Compacted, or IndexError behind the end."""
        if index == self.base_index:
            return self.base_term
        if index < self.base_index:
            raise self.compacted(index)
        if index > self.last_index:
            raise IndexError(f"entry {index} is behind the end of the log, {self.last_index}")
        return self._terms[index - self.base_index - 1]

    def places(self, from_index: int, to_index: int) -> Sequence[Place]:
        """Of `from_index` up to, not including, `to_index`; fewer at the end. Raises Compacted."""
        if from_index <= self.base_index:
            raise self.compacted(from_index)
        first = from_index - self.base_index - 1
        last = max(first, min(to_index, self.last_index + 1) - self.base_index - 1)
        return list(zip(self._segments[first:last], self._starts[first:last], self._ends[first:last], strict=True))

    def compacted(self, index: int) -> Compacted:
        return Compacted(f"entry {index} was compacted; the log begins at {self.base_index + 1}")

    def _cut(self, start: int, end: int) -> None:
        for column in (self._segments, self._starts, self._ends, self._terms):
            del column[start:end]
