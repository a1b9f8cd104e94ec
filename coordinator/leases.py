"""Which nodes fell silent: what this coordinator heard of each, and the transitions that follow.

Leases are the leader's own, on its monotonic clock, and are never entries of the log; only transitions are. What a
silence means is decided in `core.liveness`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterable, Mapping

import structlog
from prometheus_client import Counter

from cloudless.clock import Clock
from cloudless.config import SessionConfig
from cloudless.coordinator.core.commands import ReportNode
from cloudless.coordinator.core.liveness import NO_CONTACT, Contact, Judgement, Terms, judge, leased
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.core.model import Node
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

_LOOK_INTERVAL_MS_MIN = 100
_LOOK_INTERVAL_MS_MAX = 10_000
_PROPOSALS_AT_ONCE = 128

TRANSITIONS = Counter("cloudless_node_transitions_total", "Nodes recorded as unreachable or lost.", ["state"])


class Leases:
    """The contacts of one coordinator with every node. Event loop only; `run` records who fell silent."""

    def __init__(self, store: Store[State], clock: Clock, config: SessionConfig, *, actor: str) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._actor = actor
        self._terms = Terms.of(
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            heartbeat_misses=config.heartbeat_misses,
            node_lease_ms=config.node_lease_ms,
        )
        self._contacts: dict[str, Contact] = {}
        self._began_at_ms = clock.monotonic_ms()
        self._to_judge: set[str] = set()
        self._look_again_at_ms = 0  # monotonic; when the earliest deadline of any node comes
        self._judge_due = asyncio.Event()

    # What happened. Times are monotonic.

    def connected(self, node_id: str, *, at_ms: int) -> None:
        """A session of the node began."""
        self._contacts[node_id] = Contact(heard_at_ms=at_ms)
        self._judge_soon(node_id)

    def heard(self, node_id: str, *, at_ms: int) -> None:
        """A message came over its session."""
        contact = self._contacts.get(node_id, NO_CONTACT)
        self._contacts[node_id] = dataclasses.replace(contact, heard_at_ms=at_ms)

    def disconnected(self, node_id: str, *, left: str) -> None:
        """Its session ended; `left` is why it said goodbye, empty when it did not."""
        contact = self._contacts.get(node_id, NO_CONTACT)
        self._contacts[node_id] = dataclasses.replace(contact, broke_at_ms=self._clock.monotonic_ms(), left=left)
        self._judge_soon(node_id)

    def forget(self, node_id: str) -> None:
        """The node was removed."""
        self._contacts.pop(node_id, None)

    def began_to_lead(self, heard: Mapping[str, int]) -> None:
        """Leases are the leader's: a new one has to hear of every node first. `heard`: when each node that is
        connected was last heard."""
        self._began_at_ms = self._clock.monotonic_ms()
        self._contacts = {node_id: Contact(heard_at_ms=at_ms) for node_id, at_ms in heard.items()}
        self._look_again_at_ms = self._clock.monotonic_ms()
        self._judge_due.set()

    # What it means

    async def run(self) -> None:
        """Judges for ever, while this coordinator leads."""
        self._look_again_at_ms = self._clock.monotonic_ms()
        while True:
            self._judge_due.clear()
            verdicts = self._look() if self._store.leading else []
            for start in range(0, len(verdicts), _PROPOSALS_AT_ONCE):
                await asyncio.gather(*(self._record(n, v) for n, v in verdicts[start : start + _PROPOSALS_AT_ONCE]))
            now_ms = self._clock.monotonic_ms()
            if verdicts:
                # Once more soon: a proposal may have failed.
                self._look_again_at_ms = min(self._look_again_at_ms, now_ms + self._config.heartbeat_interval_ms)
            wait_ms = max(self._look_again_at_ms - now_ms, _LOOK_INTERVAL_MS_MIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._judge_due.wait()

    def _judge_soon(self, node_id: str) -> None:
        self._to_judge.add(node_id)
        self._judge_due.set()

    def _look(self) -> list[tuple[Node, Judgement]]:
        """Every judgement that says something, by node id: of all nodes when the earliest deadline has come, else of
        those that something happened to, so that a thousand agents that connect cost no thousand looks at all."""
        now_ms = self._clock.monotonic_ms()
        nodes = self._store.snapshot.state.nodes
        chosen: Iterable[str] = self._to_judge
        if now_ms >= self._look_again_at_ms:
            chosen = nodes
            self._look_again_at_ms = now_ms + _LOOK_INTERVAL_MS_MAX
        verdicts: list[tuple[Node, Judgement]] = []
        for node_id in chosen:
            node = nodes.get(node_id)
            if node is None:
                self.forget(node_id)  # removed; its session ended after that
                continue
            before = self._contacts.get(node_id, NO_CONTACT)
            contact = leased(before, node.state, now_ms=now_ms)
            if contact is not before:
                self._contacts[node_id] = contact
            verdict = judge(node.state, contact, self._terms, began_at_ms=self._began_at_ms, now_ms=now_ms)
            if verdict.state is not None:
                verdicts.append((node, verdict))
            elif verdict.again_at_ms is not None:
                self._look_again_at_ms = min(self._look_again_at_ms, verdict.again_at_ms)
        self._to_judge = set()
        verdicts.sort(key=lambda row: row[0].id)
        return verdicts

    async def _record(self, node: Node, verdict: Judgement) -> None:
        assert verdict.state is not None
        try:
            await self._store.propose(ReportNode(node.id, verdict.state, verdict.reason), actor=self._actor)
        except CloudlessError as error:
            log.warning("node.transition_not_recorded", node=node.id, to=verdict.state, cause=error.message)
            return
        TRANSITIONS.labels(verdict.state).inc()
        log.info(
            f"node.{verdict.state.lower()}",
            node=node.id,
            transition=f"{node.state}->{verdict.state}",
            cause=verdict.reason,
        )
        self._judge_soon(node.id)  # its lease begins
