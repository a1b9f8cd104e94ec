"""What every filter says of every node, and that in words: rejections by reason, and one line for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from cloudless.coordinator.core.scheduler import explain
from cloudless.coordinator.core.scheduler.filters import Filter, Part, Room
from cloudless.coordinator.core.scheduler.table import CAPACITY, Bools, Codes, Ints, NodeTable
from cloudless.core.model import FilterRejection

_FEW_REASONS: Final = 8
_NOTHING: Final[Ints] = np.empty(0, np.int64)


class Verdict:
    """One filter about all nodes: 0 where it has nothing against one, and else which of its reasons, from 1."""

    __slots__ = ("codes", "free", "limited", "name", "reasons", "room", "rows")

    def __init__(self, name: str, codes: Codes, reasons: list[str]) -> None:
        self.name = name
        self.codes = codes
        self.reasons = reasons
        self.rows: tuple[FilterRejection, ...] | None = None  # None: to be made, or made anew

        self.room: Room | None = None  # with `free` and `limited`, of the filters about room
        self.free: Ints = _NOTHING
        self.limited: Bools | None = None  # None: every node

    def reason_at(self, row: int) -> str | None:
        code = int(self.codes[row])
        return self.reasons[code - 1] if code else None


def judge(table: NodeTable, filters: Iterable[Filter]) -> list[Verdict]:
    """The verdicts of the filters that object to a node."""
    found = []
    for each in filters:
        reasons: list[str] = []
        codes = None
        for part in each.parts:
            said = _judge_part(table, part, reasons)
            if said is not None:
                codes = said if codes is None else np.where(codes == 0, said, codes)
        if codes is not None:
            found.append(Verdict(each.name, codes, reasons))
    return found


def _judge_part(table: NodeTable, part: Part, reasons: list[str]) -> Codes | None:
    facet = table.facet(part.facet)
    if part.equals is not None:
        against = part.check(None)
        if against is None:
            return None
        reasons.append(against)
        wanted = facet.lookup.get(part.equals, -1)
        return np.where(facet.codes == wanted, 0, len(reasons)).astype(np.int32)
    codes = np.zeros(len(facet.values), np.int32)
    numbers: dict[str, int] = {}
    for position, value in enumerate(facet.values):
        against = part.check(value)
        if against is not None:
            if against not in numbers:
                reasons.append(against)
                numbers[against] = len(reasons)
            codes[position] = numbers[against]
    if not numbers:
        return None
    found: Codes = codes[facet.codes]
    return found


def judge_room(table: NodeTable, room: Room) -> Verdict:
    capacity = table.facts[CAPACITY][room.row]
    free: Ints = capacity - table.used[room.row]
    lacking = room.ask > free
    limited = None
    if not room.always:
        limited = capacity > 0
        lacking &= limited
    verdict = Verdict(room.name, lacking.astype(np.int32), [f"insufficient {room.name}"])
    verdict.room, verdict.free, verdict.limited = room, free, limited
    return verdict


class Verdicts:
    """All verdicts, in the filters' order."""

    def __init__(self, table: NodeTable, verdicts: Sequence[Verdict], *, ids_max: int | None) -> None:
        self._table = table
        self._ids_max = ids_max
        self._all = list(verdicts)
        self._obstacles: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self._all)

    def blocked(self) -> Bools:
        """The nodes that a filter objects to."""
        found = np.zeros(len(self._table), np.bool_)
        for verdict in self._all:
            found |= verdict.codes != 0
        return found

    def only(self, *names: str) -> Ints:
        """The rows of the nodes that no filter objects to but some of these."""
        by_these, by_others = np.zeros(len(self._table), np.bool_), np.zeros(len(self._table), np.bool_)
        for verdict in self._all:
            (by_these if verdict.name in names else by_others)[verdict.codes != 0] = True
        return np.flatnonzero(by_these & ~by_others)

    def at(self, row: int) -> list[Verdict]:
        """Those that object to the node."""
        return [verdict for verdict in self._all if verdict.codes[row]]

    def take(self, row: int) -> bool:
        """One replica more is on the node, which was feasible; whether it still is, as far as room goes."""
        fell = False
        for verdict in self._all:
            room = verdict.room
            if room is None:
                continue
            verdict.free[row] -= room.ask
            if room.ask > verdict.free[row] and (verdict.limited is None or verdict.limited[row]):
                verdict.codes[row] = 1
                verdict.rows = None
                fell = True
        return not fell

    def fell(self, row: int) -> None:
        """To be called when a node that was feasible is so no more."""
        if self._obstacles is not None:
            name = self.at(row)[0].name
            self._obstacles[name] = self._obstacles.get(name, 0) + 1

    def replaced(self, verdict: Verdict, codes: Codes) -> None:
        """The verdict is another one, about any node."""
        verdict.codes = codes
        verdict.rows = None
        self._obstacles = None

    # -- in words -----------------------------------------------------------------------------------------

    def obstacles(self) -> str:
        """Counts each rejected node once, under its first obstacle."""
        if self._obstacles is None:
            self._obstacles = {}
            open_still = np.ones(len(self._table), np.bool_)
            for verdict in self._all:
                hit = (verdict.codes != 0) & open_still
                count = int(np.count_nonzero(hit))
                if count:
                    self._obstacles[verdict.name] = self._obstacles.get(verdict.name, 0) + count
                    open_still &= ~hit
        return explain.obstacles(self._obstacles)

    def rejections(self) -> tuple[FilterRejection, ...]:
        """Every reason against every node: by filter and reason, in the order of the filters."""
        found: list[FilterRejection] = []
        for verdict in self._all:
            if verdict.rows is None:
                verdict.rows = tuple(self._rows(verdict))
            found += verdict.rows
        return tuple(found)

    def _rows(self, verdict: Verdict) -> list[FilterRejection]:
        found = []
        for reason, rows, count in sorted(self._groups(verdict), key=lambda group: group[0]):
            ids = tuple(self._table.ids[row] for row in rows[: self._ids_max].tolist())
            words = self._room_words(verdict, rows) or reason
            found.append(FilterRejection(verdict.name, words, ids, count))
        return found

    def _groups(self, verdict: Verdict) -> list[tuple[str, Ints, int]]:
        if len(verdict.reasons) <= _FEW_REASONS:
            groups = [(reason, np.flatnonzero(verdict.codes == i + 1)) for i, reason in enumerate(verdict.reasons)]
            merged: dict[str, Ints] = {}
            for reason, rows in groups:
                if len(rows):
                    merged[reason] = np.union1d(merged[reason], rows) if reason in merged else rows
            return [(reason, rows, len(rows)) for reason, rows in merged.items()]
        order = np.argsort(verdict.codes, kind="stable")
        codes = verdict.codes[order]
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        merged = {}
        for rows, code in zip(np.split(order, starts[1:]), codes[starts].tolist(), strict=True):
            if code:
                reason = verdict.reasons[code - 1]
                merged[reason] = np.union1d(merged[reason], rows) if reason in merged else rows
        return [(reason, rows, len(rows)) for reason, rows in merged.items()]

    def _room_words(self, verdict: Verdict, rows: Ints) -> str:
        if verdict.room is None:
            return ""
        return verdict.room.reason(free=int(verdict.free[rows].max()), nodes=len(rows))

    def rejections_at(self, row: int) -> tuple[FilterRejection, ...]:
        """Every reason against one node."""
        ids, rows = (self._table.ids[row],), np.array([row])
        return tuple(
            FilterRejection(v.name, self._room_words(v, rows) or v.reason_at(row) or "", ids, 1) for v in self.at(row)
        )
