"""Sends of the core, with the entries put in: from memory, or from the log for members that are far behind.

A message that says nothing but what is committed waits for a moment: as a rule the next entries follow soon and say it
as well. That saves two messages of three where one caller writes again and again.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from cloudless.coordinator.engine import RunBlocking
from cloudless.coordinator.raft.cache import RecentEntries
from cloudless.coordinator.raft.core.effects import Send
from cloudless.coordinator.raft.core.events import Event, Unreachable
from cloudless.coordinator.raft.core.messages import AppendEntries, RequestVote
from cloudless.coordinator.raft.link import AnyMessage, Transport
from cloudless.coordinator.raft.measuring import RoundTrips
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.record import LogEntry
from cloudless.errors import Compacted

MESSAGE_ENTRIES_MAX: Final = 1024
MESSAGE_BYTES_MAX: Final = 2**20
LATER_S: Final = 0.002  # a remote caller that was answered proposes again in less
BACKLOG_BYTES_MAX: Final = 8 * 2**20  # of a member: nothing is built for it while so much waits already


class Replication:
    """`leads_in` is the term in which this member leads, or 0."""

    def __init__(
        self,
        wal: Log,
        cache: RecentEntries,
        transport: Transport,
        round_trips: RoundTrips,
        *,
        run_blocking: RunBlocking,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        feed: Callable[[Event], None],
        leads_in: Callable[[], int],
        now_ms: Callable[[], float],
    ) -> None:
        self._wal = wal
        self._cache = cache
        self._transport = transport
        self._round_trips = round_trips
        self._run_blocking = run_blocking
        self._spawn = spawn
        self._feed = feed
        self._leads_in = leads_in
        self._now_ms = now_ms
        self._rounds: dict[str, tuple[int, int]] = {}  # term and round that each member was told last
        self._later: dict[str, AppendEntries] = {}
        self._later_due_s = 0.0
        self._later_armed = False
        self._loop = asyncio.get_running_loop()
        self._reading: dict[str, deque[Send]] = {}  # members for which the log is read; what comes after it, in order

    def send(self, effect: Send) -> None:
        message, to = effect.message, effect.to
        if type(message) is not AppendEntries:
            if type(message) is RequestVote:
                self._round_trips.sent(to, 0, self._now_ms())
            self.tell(to, message)
            return
        told = (message.term, message.round)
        if not effect.fill_to and self._rounds.get(to) == told:
            if not self._later:
                self._later_due_s = self._loop.time() + LATER_S
                if not self._later_armed:
                    self._later_armed = True
                    self._loop.call_at(self._later_due_s, self._send_later)
            self._later[to] = message
            return
        self._rounds[to] = told
        self._later.pop(to, None)
        self._round_trips.sent(to, message.round, self._now_ms())
        if not effect.fill_to:
            self._transport.send(to, message)
        elif to in self._reading:
            self._reading[to].append(effect)
        else:
            self._fill(effect)

    def tell(self, to: str, message: AnyMessage) -> bool:
        """Anything else, behind what this member knows to be committed: the other side may wait for both."""
        later = self._later.pop(to, None)
        if later is not None:
            self._transport.send(to, later)
        return self._transport.send(to, message)

    def _send_later(self) -> None:
        self._later_armed = False
        if not self._later:
            return
        if self._loop.time() < self._later_due_s:  # others waited when this was armed, and left
            self._later_armed = True
            self._loop.call_at(self._later_due_s, self._send_later)
            return
        later, self._later = self._later, {}
        for to, message in later.items():
            if message.term == self._leads_in():
                self._transport.send(to, message)

    def _fill(self, effect: Send) -> None:
        """In several messages where one would be too large."""
        message = effect.message
        assert isinstance(message, AppendEntries)
        to, last = effect.to, effect.fill_to
        previous, previous_term = message.previous_index, message.previous_term
        while previous < last:
            if self._transport.backlog_bytes(to) > BACKLOG_BYTES_MAX:
                return  # the next heartbeat tells the core that the rest is missing
            stop = min(last, previous + MESSAGE_ENTRIES_MAX)
            entries = self._cache.slice(previous + 1, stop, bytes_max=MESSAGE_BYTES_MAX)
            if not entries:
                self._reading[to] = deque()
                self._spawn(self._from_log(effect, previous, previous_term))
                return
            if not self._send(to, message, previous, previous_term, entries):
                return
            previous, previous_term = entries[-1].index, entries[-1].term

    def _send(
        self, to: str, message: AppendEntries, previous: int, previous_term: int, entries: tuple[LogEntry, ...]
    ) -> bool:
        filled = AppendEntries(message.term, previous, previous_term, message.commit_index, message.round, entries)
        if self._transport.send(to, filled):
            return True
        self._feed(Unreachable(to))
        return False

    async def _from_log(self, effect: Send, previous: int, previous_term: int) -> None:
        """While this member leads in one term its log only grows; so what was read is right as long as it does."""
        message = effect.message
        assert isinstance(message, AppendEntries)
        to, last = effect.to, effect.fill_to
        try:
            while previous < last and self._cache.get(previous + 1) is None:
                first, stop = previous + 1, min(last, previous + MESSAGE_ENTRIES_MAX, self._cache.first_index - 1)
                found = await self._run_blocking(functools.partial(self._wal.entries, first, stop + 1))
                if self._leads_in() != message.term or not found:
                    return
                for entries in _by_size(found):
                    if self._transport.backlog_bytes(to) > BACKLOG_BYTES_MAX:
                        return
                    if not self._send(to, message, previous, previous_term, entries):
                        return
                    previous, previous_term = entries[-1].index, entries[-1].term
        except Compacted:
            self._feed(Unreachable(to))  # it needs a snapshot by now
            return
        finally:
            waiting = self._reading.pop(to)
        if previous < last:
            rest = AppendEntries(message.term, previous, previous_term, message.commit_index, message.round)
            waiting.appendleft(Send(to, rest, 0, last))
        for send in waiting:
            if send.message.term == self._leads_in():
                self.send(send)


def _by_size(entries: list[LogEntry]) -> list[tuple[LogEntry, ...]]:
    """In groups that fit into a message each."""
    groups: list[list[LogEntry]] = [[]]
    size = 0
    for entry in entries:
        size += len(entry.data)
        if groups[-1] and size > MESSAGE_BYTES_MAX:
            groups.append([])
            size = len(entry.data)
        groups[-1].append(entry)
    return [tuple(group) for group in groups]
