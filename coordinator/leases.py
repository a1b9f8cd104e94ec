"""Which nodes fell silent: what was heard of each, here or by another coordinator, and the transitions that follow.

Leases are the leader's own, on its monotonic clock, and are never entries of the log; only transitions are. What a
silence means is decided in `core.liveness`. A node has one contact, wherever its session is: an agent that moves from
one coordinator to another within the grace was never away.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping

import structlog
from prometheus_client import Counter

from cloudless.clock import Clock
from cloudless.config import SessionConfig
from cloudless.coordinator.core.commands import ReportNode
from cloudless.coordinator.core.liveness import (
    NO_CONTACT,
    Contact,
    Judgement,
    Terms,
    is_heard,
    judge,
    leased,
)
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.core.model import Node
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

_LOOK_INTERVAL_MS_MIN = 100
_LOOK_INTERVAL_MS_MAX = 10_000
_PROPOSALS_AT_ONCE = 128
HERE = ""  # the holder of the sessions of this coordinator
LEADERSHIP_LOST = "LeadershipLost"

TRANSITIONS = Counter("cloudless_node_transitions_total", "Nodes recorded as unreachable or lost.", ["state"])


class Leases:
    """The contacts of all coordinators with every node. Event loop only; `run` records who fell silent, while this
    coordinator leads. `shared` says whether there are other coordinators."""

    def __init__(
        self,
        store: Store[State],
        clock: Clock,
        config: SessionConfig,
        *,
        actor: str,
        shared: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._actor = actor
        self._shared = shared
        interval_ms = config.heartbeat_interval_ms
        self._alone = Terms.of(
            heartbeat_interval_ms=interval_ms,
            heartbeat_misses=config.heartbeat_misses,
            node_lease_ms=config.node_lease_ms,
        )
        # An agent whose session broke has to find another coordinator first, and that one has to tell.
        self._here = dataclasses.replace(self._alone, break_grace_ms=2 * interval_ms)
        # What another coordinator heard is told once per interval.
        self._elsewhere = dataclasses.replace(
            self._here, heartbeat_timeout_ms=self._alone.heartbeat_timeout_ms + interval_ms
        )
        self._contacts: dict[str, Contact] = {}
        self._holders: dict[str, str] = {}  # the coordinator that has, or had last, the session of a node
        self._term: int | None = None  # the one in which this coordinator leads
        self._recording: dict[asyncio.Task[None], None] = {}
        self._began_at_ms = clock.monotonic_ms()
        self._to_judge: dict[str, None] = {}
        self._look_again_at_ms = 0  # monotonic; when the earliest deadline of any node comes
        self._judge_due = asyncio.Event()

    # What happened. Times are monotonic; `holder` is the coordinator whose word it is.

    def connected(self, node_id: str, *, at_ms: int, holder: str = HERE) -> None:
        """A session of the node began, and was last heard at `at_ms`. An older claim than the one that is known
        changes nothing."""
        known = self._contacts.get(node_id, NO_CONTACT)
        if holder != self._holders.get(node_id, holder) and known.connected and (known.heard_at_ms or 0) > at_ms:
            return
        self._contacts[node_id] = Contact(heard_at_ms=at_ms)
        self._holders[node_id] = holder
        self._judge_soon(node_id)

    def heard(self, node_id: str, *, at_ms: int, holder: str = HERE) -> None:
        """A message came over its session. Of the holder, the newest word counts; another becomes the holder where it
        heard the node later."""
        contact = self._contacts.get(node_id, NO_CONTACT)
        if self._holders.get(node_id, holder) == holder:
            self._holders[node_id] = holder
            self._contacts[node_id] = dataclasses.replace(contact, heard_at_ms=at_ms)
        elif at_ms > max(contact.heard_at_ms or 0, contact.broke_at_ms or 0):
            self.connected(node_id, at_ms=at_ms, holder=holder)

    def disconnected(self, node_id: str, *, left: str, holder: str = HERE) -> None:
        """Its session ended; `left` is why it said goodbye, empty when it did not. Says nothing where the node is
        connected elsewhere by now."""
        if self._holders.get(node_id, holder) != holder:
            return
        self._holders[node_id] = holder
        contact = self._contacts.get(node_id, NO_CONTACT)
        self._contacts[node_id] = dataclasses.replace(contact, broke_at_ms=self._clock.monotonic_ms(), left=left)
        self._judge_soon(node_id)

    def recorded_ready(self, node_id: str) -> None:
        """The log says that the node is ready again: some coordinator hears it. Where that one cannot tell this one of
        it, the log's word is the only one, and is good for as long as a heartbeat."""
        contact = self._contacts.get(node_id, NO_CONTACT)
        now_ms = self._clock.monotonic_ms()
        if is_heard(contact, self._alone, now_ms=now_ms):
            return
        self._contacts[node_id] = Contact(heard_at_ms=now_ms)
        self._holders.pop(node_id, None)
        self._judge_soon(node_id)

    def holder_lost(self, holder: str) -> None:
        """A coordinator fell silent. The silence of its nodes is its own until proven otherwise: each has the time of
        a heartbeat timeout, from now, to turn up elsewhere."""
        now_ms = self._clock.monotonic_ms()
        for node_id, its_holder in self._holders.items():
            contact = self._contacts.get(node_id, NO_CONTACT)
            if its_holder == holder and contact.connected:
                self._contacts[node_id] = dataclasses.replace(contact, heard_at_ms=now_ms)

    def forget(self, node_id: str) -> None:
        """The node was removed."""
        self._contacts.pop(node_id, None)
        self._holders.pop(node_id, None)

    def began_to_lead(self, heard: Mapping[str, tuple[str, int]]) -> None:
        """Leases are the leader's: a new one has to hear of every node first. `heard`: the holder of each connected
        node, and when that heard it last."""
        self._term = self._store.term
        self._began_at_ms = self._clock.monotonic_ms()
        self._contacts = {node_id: Contact(heard_at_ms=at_ms) for node_id, (_, at_ms) in heard.items()}
        self._holders = {node_id: holder for node_id, (holder, _) in heard.items()}
        self._look_again_at_ms = self._clock.monotonic_ms()
        self._judge_due.set()

    def ceased_to_lead(self) -> None:
        """Judges no more, at once. What was proposed already carries the term, so that the log refuses it unless it
        was in time."""
        self._term = None
        for task in self._recording:
            task.cancel()

    # What it means

    async def run(self) -> None:
        """Judges for ever, while this coordinator leads."""
        self._look_again_at_ms = self._clock.monotonic_ms()
        while True:
            self._judge_due.clear()
            term = self._term
            verdicts = self._look() if term is not None else []
            for start in range(0, len(verdicts), _PROPOSALS_AT_ONCE):
                if term is None or term != self._term:
                    break
                await self._record_all(verdicts[start : start + _PROPOSALS_AT_ONCE], term)
            now_ms = self._clock.monotonic_ms()
            if verdicts:
                # Once more soon: a proposal may have failed.
                self._look_again_at_ms = min(self._look_again_at_ms, now_ms + self._config.heartbeat_interval_ms)
            # Never longer than it takes to notice that this process stood still.
            wait_ms = min(self._look_again_at_ms - now_ms, self._config.heartbeat_interval_ms)
            wait_ms = max(wait_ms, _LOOK_INTERVAL_MS_MIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._judge_due.wait()
            late_ms = self._clock.monotonic_ms() - now_ms - wait_ms
            if late_ms > self._config.heartbeat_interval_ms:
                self._stood_still(late_ms)

    def _stood_still(self, late_ms: int) -> None:
        """This process did not run (it was stopped, the disk or the machine stalled): what the nodes said meanwhile
        is not read yet. That time counts against nobody. What was read already is as of now."""
        log.warning("leases.stood_still", late_ms=late_ms)
        now_ms = self._clock.monotonic_ms()

        def later(at_ms: int | None) -> int | None:
            return None if at_ms is None else min(at_ms + late_ms, now_ms)

        self._began_at_ms = min(self._began_at_ms + late_ms, now_ms)
        self._look_again_at_ms += late_ms
        for node_id, contact in self._contacts.items():
            self._contacts[node_id] = dataclasses.replace(
                contact,
                heard_at_ms=later(contact.heard_at_ms),
                broke_at_ms=later(contact.broke_at_ms),
                unreachable_since_ms=later(contact.unreachable_since_ms),
            )

    def _judge_soon(self, node_id: str) -> None:
        self._to_judge[node_id] = None
        self._judge_due.set()

    def _terms(self, node_id: str, *, shared: bool) -> Terms:
        if not shared:
            return self._alone
        return self._here if self._holders.get(node_id, HERE) == HERE else self._elsewhere

    def _look(self) -> list[tuple[Node, Judgement]]:
        """Every judgement that says something, by node id: of all nodes when the earliest deadline has come, else of
        those that something happened to, so that a thousand agents that connect cost no thousand looks at all."""
        now_ms = self._clock.monotonic_ms()
        nodes = self._store.snapshot.state.nodes
        shared = self._shared()
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
            terms = self._terms(node_id, shared=shared)
            verdict = judge(node.state, contact, terms, began_at_ms=self._began_at_ms, now_ms=now_ms)
            if verdict.state is not None:
                verdicts.append((node, verdict))
            elif verdict.again_at_ms is not None:
                self._look_again_at_ms = min(self._look_again_at_ms, verdict.again_at_ms)
        self._to_judge = {}
        verdicts.sort(key=lambda row: row[0].id)
        return verdicts

    async def _record_all(self, verdicts: list[tuple[Node, Judgement]], term: int) -> None:
        tasks = [asyncio.ensure_future(self._record(node, verdict, term)) for node, verdict in verdicts]
        self._recording.update(dict.fromkeys(tasks))
        try:
            await asyncio.wait(tasks)  # ceased_to_lead cancels them, and this goes on
        finally:
            for task in tasks:
                self._recording.pop(task, None)
                task.cancel()
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _record(self, node: Node, verdict: Judgement, term: int) -> None:
        assert verdict.state is not None
        try:
            command = ReportNode(node.id, verdict.state, verdict.reason)
            await self._store.propose(command, actor=self._actor, term=term)
        except CloudlessError as error:
            if is_leadership_lost(error):
                return  # the next leader judges
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


def is_leadership_lost(error: CloudlessError) -> bool:
    """Whether a leader's work came too late: it leads no more in that term. Its successor looks at everything anew."""
    return error.reason == LEADERSHIP_LOST
