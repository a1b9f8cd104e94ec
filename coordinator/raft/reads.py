"""Linearizable reads (§6.4): up to where this member has to apply before it may answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cloudless.coordinator.raft.proposals import copy_of, no_leader
from cloudless.errors import CloudlessError

PATIENCE_S: Final = 5.0  # for a leader: longer than any election on good links takes
RETRY_S: Final = 0.02  # after "no leader could confirm it"
ASK_AGAIN_S: Final = 1.0  # where no answer came at all


class _Group:
    """Reads that share one question."""

    __slots__ = ("asked_s", "futures", "since_s")

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.asked_s = 0.0
        self.futures: list[asyncio.Future[int]] = []


class Reads:
    """`seconds` is a monotonic timer; `wake` asks for a turn, in which `ask` is called."""

    def __init__(self, *, seconds: Callable[[], float], wake: Callable[[], None]) -> None:
        self._seconds = seconds
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._next_id = 0  # between this and the core; what travels is the core's own
        self._new: _Group | None = None
        self._asked: dict[int, _Group] = {}
        self._again: list[_Group] = []  # to be asked in the next turn
        self._resting: list[_Group] = []  # to be asked after a pause
        self._confirmed: list[tuple[int, _Group]] = []  # waits for this index to be applied

    @property
    def idle(self) -> bool:
        return not (self._new or self._asked or self._again or self._resting or self._confirmed)

    def add(self) -> asyncio.Future[int]:
        if self._new is None:
            self._new = _Group(self._seconds())
        future: asyncio.Future[int] = self._loop.create_future()
        self._new.futures.append(future)
        return future

    def ask(self) -> list[int]:
        """Ids of the questions that the core has to be asked now."""
        groups, self._again = self._again, []
        if self._new is not None:
            groups.append(self._new)
            self._new = None
        if not groups:
            return []
        now_s = self._seconds()
        ids = []
        for group in groups:
            group.asked_s = now_s
            self._next_id += 1
            self._asked[self._next_id] = group
            ids.append(self._next_id)
        return ids

    def answered(self, number: int, index: int, *, applied_index: int) -> None:
        group = self._asked.pop(number, None)
        if group is None:
            return
        if not index:
            if not self._resting:
                self._loop.call_later(RETRY_S, self._rested)
            self._resting.append(group)
        elif index <= applied_index:
            _resolve(group, index)
        else:
            self._confirmed.append((index, group))

    def applied(self, applied_index: int) -> None:
        if self._confirmed:
            for index, group in self._confirmed:
                if index <= applied_index:
                    _resolve(group, index)
            self._confirmed = [waiting for waiting in self._confirmed if waiting[0] > applied_index]

    def leader_is(self, leader: str) -> None:
        """Who leads is another one, or not known."""
        if leader and self._resting:
            self._rested()

    def sweep(self) -> None:
        now_s = self._seconds()
        for number in [n for n, group in self._asked.items() if group.asked_s + ASK_AGAIN_S <= now_s]:
            self._again.append(self._asked.pop(number))
        for group in self._groups():
            if group.since_s + PATIENCE_S <= now_s:
                _refuse(group, no_leader())
        self._again = [group for group in self._again if not _over(group)]
        self._resting = [group for group in self._resting if not _over(group)]
        self._confirmed = [(index, group) for index, group in self._confirmed if not _over(group)]
        for number in [n for n, group in self._asked.items() if _over(group)]:
            del self._asked[number]
        if self._again:
            self._wake()

    def refuse_all(self, error: CloudlessError) -> None:
        for group in self._groups():
            _refuse(group, error)
        self._new = None
        self._asked.clear()
        self._again.clear()
        self._resting.clear()
        self._confirmed.clear()

    def _rested(self) -> None:
        self._again += self._resting
        self._resting.clear()
        if self._again:
            self._wake()

    def _groups(self) -> list[_Group]:
        new = [self._new] if self._new else []
        confirmed = [group for _, group in self._confirmed]
        return [*new, *self._asked.values(), *self._again, *self._resting, *confirmed]


def _resolve(group: _Group, index: int) -> None:
    for future in group.futures:
        if not future.done():
            future.set_result(index)


def _refuse(group: _Group, error: CloudlessError) -> None:
    for future in group.futures:
        if not future.done():
            future.set_exception(copy_of(error))


def _over(group: _Group) -> bool:
    return all(future.done() for future in group.futures)
