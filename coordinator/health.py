"""Keeps what the log says of steady nodes from growing old, and counts the replicas that could not start there.

A trickle: a record is written with each transition of its node anyway, and otherwise every few hours; never more than a
few per second, so that thousands of nodes are no burst.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from cloudless.clock import Clock
from cloudless.coordinator.core import node_health
from cloudless.coordinator.core.commands import ReportNode
from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

_TURN_S = 1.0
_ENTRIES_PER_TURN = 3
_LOOK_MS = 60_000


class HealthKeeper:
    """Event loop only. `run` writes while this coordinator leads."""

    def __init__(self, store: Store[State], clock: Clock, *, actor: str) -> None:
        self._store = store
        self._clock = clock
        self._actor = actor
        self._failed_starts: dict[str, int] = {}  # not recorded yet, by node
        self._old: deque[str] = deque()
        self._look_at_ms = 0  # monotonic

    def replica_changed(self, change: Change, before: State, after: State) -> None:
        """A replica of a batch of the log."""
        was, replica = before.replicas.get(change.key), after.replicas.get(change.key)
        if was is None or replica is None or not self._store.leading:
            return
        if node_health.failed_to_start(was.status, replica.status):
            self._failed_starts[replica.node_id] = self._failed_starts.get(replica.node_id, 0) + 1

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_TURN_S)
            if self._store.leading:
                await self._turn()
            else:
                self._failed_starts.clear()
                self._old.clear()
                self._look_at_ms = 0

    async def _turn(self) -> None:
        state, term = self._store.snapshot.state, self._store.term
        if not node_health.is_understood(state):
            self._failed_starts.clear()
            return
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._look_at_ms and not self._old:
            self._look_at_ms = now_ms + _LOOK_MS
            self._old.extend(node_health.to_refresh(state.nodes.values(), now_ms=self._clock.now_ms()))
        for _ in range(_ENTRIES_PER_TURN):
            if self._failed_starts:
                node_id = next(iter(self._failed_starts))
            elif self._old:
                node_id = self._old.popleft()
            else:
                return
            await self._record(node_id, self._failed_starts.pop(node_id, 0), term)

    async def _record(self, node_id: str, failed_starts: int, term: int) -> None:
        state = self._store.snapshot.state
        if node_id not in state.nodes:
            return
        report = node_health.with_health(
            ReportNode(node_id), state, now_ms=self._clock.now_ms(), failed_starts=failed_starts
        )
        try:
            await self._store.propose(report, actor=self._actor, term=term)
        except CloudlessError as error:
            # Nothing is lost but a detail: the next look finds the record old still.
            log.debug("node.health_not_recorded", node=node_id, reason=error.reason, cause=error.message)
