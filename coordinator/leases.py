"""Which nodes fell silent: what was heard of each, here or by another coordinator, and the transitions that follow.

Leases are the leader's own, on its monotonic clock, and are never entries of the log; only transitions are. What a
silence means is decided in `core.liveness`, how long it may last is learned in `core.arrivals` by the coordinator that
has the session, and told to the others. A node has one contact, wherever its session is: an agent that moves from one
coordinator to another within the grace was never away.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import structlog
from prometheus_client import Counter

from cloudless.clock import Clock
from cloudless.config import SessionConfig
from cloudless.coordinator.core.arrivals import Arrivals, Backlog, Weather
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
from cloudless.coordinator.core.node_health import with_health
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.core.model import Node, NodeState
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

_LOOK_INTERVAL_MS_MIN = 20
_LOOK_INTERVAL_MS_MAX = 10_000
_LOOK_REST = 20  # so many times as long as a look at thousands of nodes took, there is no other
_PROPOSALS_AT_ONCE = 128
_BREAK_GRACE_PERCENT = 170  # of the heartbeat interval, where there are several coordinators
HERE = ""  # the holder of the sessions of this coordinator
LEADERSHIP_LOST = "LeadershipLost"

TRANSITIONS = Counter("cloudless_node_transitions_total", "Nodes recorded as unreachable or lost.", ["state"])


class _Told(NamedTuple):
    """Another coordinator's judgement of a node: the silence that it takes for its end, and whether that is over.
    `current`: it is heard itself."""

    patience_ms: int
    silent: bool
    current: bool = True


class Leases:
    """The contacts of all coordinators with every node. Event loop only; `run` records who fell silent, while this
    coordinator leads. `shared` says whether there are other coordinators; `on_silent` is told of a node with a session
    here that fell silent, while another one leads."""

    def __init__(
        self,
        store: Store[State],
        clock: Clock,
        config: SessionConfig,
        *,
        actor: str,
        shared: Callable[[], bool] = lambda: False,
        on_silent: Callable[[str], None] = lambda node_id: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._actor = actor
        self._shared = shared
        self._on_silent = on_silent
        interval_ms = config.heartbeat_interval_ms
        self._alone = Terms.of(
            heartbeat_interval_ms=interval_ms,
            heartbeat_misses=config.heartbeat_misses,
            node_lease_ms=config.node_lease_ms,
        )
        # An agent whose session broke has to find another coordinator first, and that one has to tell.
        self._here = dataclasses.replace(self._alone, break_grace_ms=_BREAK_GRACE_PERCENT * interval_ms // 100)
        # What another coordinator heard is told once per interval.
        self._elsewhere = dataclasses.replace(
            self._here, heartbeat_timeout_ms=self._alone.heartbeat_timeout_ms + interval_ms
        )
        # No node is given up for a shorter silence.
        self._least_ms = min(config.silence_misses_min, config.heartbeat_misses) * interval_ms
        self._contacts: dict[str, Contact] = {}
        self._arrivals: dict[str, Arrivals] = {}  # of the nodes that have, or had, a session here
        self._weather = Weather()
        self._backlog = Backlog()
        self._bad_weather, self._behind_ms, self._weather_known_until_ms = False, 0, 0
        self._told: dict[str, _Told] = {}  # what the coordinator that has a node's session has learned
        self._said_silent: dict[str, int | None] = {}  # nodes that `on_silent` was told of, and when they were heard
        self._holders: dict[str, str] = {}  # the coordinator that has, or had last, the session of a node
        self._term: int | None = None  # the one in which this coordinator leads
        self._recording: dict[asyncio.Task[None], None] = {}
        self._began_at_ms = clock.monotonic_ms()
        self._to_judge: dict[str, None] = {}
        self._look_again_at_ms = 0  # monotonic; when the earliest deadline of any node comes
        self._rest_until_ms = 0  # monotonic; no look at all of them before
        self._judge_due = asyncio.Event()

    # What happened. Times are monotonic; `holder` is the coordinator whose word it is.

    def connected(self, node_id: str, *, at_ms: int, holder: str = HERE, patience_ms: int = 0) -> None:
        """A session of the node began, and was last heard at `at_ms`. An older claim than the one that is known
        changes nothing. `patience_ms`: see `heard`."""
        if holder == HERE:
            arrivals = self._arrivals_of(node_id)
            arrivals.pause()
            arrivals.arrived(at_ms=at_ms, interval_ms=self._config.heartbeat_interval_ms)
        else:
            self._told_of(node_id, at_ms=at_ms, patience_ms=patience_ms)
        known = self._contacts.get(node_id, NO_CONTACT)
        if holder != self._holders.get(node_id, holder) and known.connected and (known.heard_at_ms or 0) > at_ms:
            return
        self._contacts[node_id] = Contact(heard_at_ms=at_ms)
        self._holders[node_id] = holder
        self._judge_soon(node_id)

    def heard(
        self, node_id: str, *, at_ms: int, holder: str = HERE, patience_ms: int = 0, late_ms: int | None = None
    ) -> None:
        """A message came over its session. Of the holder, the newest word counts; another becomes the holder where it
        heard the node later. `patience_ms`: the silence that the other coordinator takes for the node's end; 0: it does
        not say. `late_ms`: how much longer a heartbeat took than others of the node; None: not known."""
        if holder == HERE:
            if late_ms is not None:
                self._backlog.read(late_ms, at_ms=at_ms)
            arrivals = self._arrivals.get(node_id) or self._arrivals_of(node_id)
            if arrivals.arrived(at_ms=at_ms, interval_ms=self._config.heartbeat_interval_ms):
                self._weather.late(node_id, at_ms=at_ms)
        else:
            self._told_of(node_id, at_ms=at_ms, patience_ms=patience_ms)
        contact = self._contacts.get(node_id, NO_CONTACT)
        if self._holders.get(node_id, holder) == holder:
            self._holders[node_id] = holder
            self._contacts[node_id] = dataclasses.replace(contact, heard_at_ms=at_ms)
        elif at_ms > max(contact.heard_at_ms or 0, contact.broke_at_ms or 0):
            self.connected(node_id, at_ms=at_ms, holder=holder)

    def _arrivals_of(self, node_id: str) -> Arrivals:
        arrivals = self._arrivals.get(node_id)
        told = self._told.pop(node_id, None)
        if arrivals is None and told is not None and told.patience_ms:
            arrivals = Arrivals.presumed(told.patience_ms, interval_ms=self._config.heartbeat_interval_ms)
        if arrivals is None:
            arrivals = Arrivals()
        self._arrivals[node_id] = arrivals
        return arrivals

    def _told_of(self, node_id: str, *, at_ms: int, patience_ms: int) -> None:
        silent = 0 < patience_ms <= self._clock.monotonic_ms() - at_ms
        self._told[node_id] = _Told(patience_ms, silent)
        if silent:
            self._judge_soon(node_id)

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
                if (told := self._told.get(node_id)) is not None:
                    self._told[node_id] = told._replace(silent=False, current=False)

    def forget(self, node_id: str) -> None:
        """The node was removed."""
        tables: tuple[dict[str, Any], ...]
        tables = (self._contacts, self._holders, self._arrivals, self._told, self._said_silent)
        for table in tables:
            table.pop(node_id, None)

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
        self._look_again_at_ms = self._clock.monotonic_ms()
        self._judge_due.set()
        for task in self._recording:
            task.cancel()

    # What it means

    async def run(self) -> None:
        """Judges for ever, while this coordinator leads."""
        self._look_again_at_ms = self._clock.monotonic_ms()
        while True:
            self._judge_due.clear()
            term = self._term
            began_ms = self._clock.monotonic_ms()
            verdicts = self._look() if term is not None else self._tell_silent()
            now_ms = self._clock.monotonic_ms()
            rest_ms = _LOOK_REST * (now_ms - began_ms)
            self._rest_until_ms = now_ms + rest_ms
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
            wait_ms = max(wait_ms, _LOOK_INTERVAL_MS_MIN, rest_ms)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._judge_due.wait()
            late_ms = self._clock.monotonic_ms() - now_ms - wait_ms
            if late_ms > self._config.heartbeat_interval_ms:
                self._stood_still(late_ms + wait_ms)  # it began somewhere in the wait

    def _stood_still(self, late_ms: int) -> None:
        """This process did not run (it was stopped, the disk or the machine stalled): what the nodes said meanwhile
        is not read yet. That time counts against nobody. What was read already is as of now."""
        log.warning("leases.stood_still", late_ms=late_ms)
        now_ms = self._clock.monotonic_ms()

        def later(at_ms: int | None) -> int | None:
            return None if at_ms is None else min(at_ms + late_ms, now_ms)

        self._began_at_ms = min(self._began_at_ms + late_ms, now_ms)
        self._look_again_at_ms += late_ms
        for arrivals in self._arrivals.values():
            arrivals.pause()
        self._told = {node_id: told._replace(silent=False) for node_id, told in self._told.items()}
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

    def patience_ms(self, node_id: str) -> int:
        """The silence that is taken for the end of a node with a session here; 0: nothing is known of it."""
        arrivals = self._arrivals.get(node_id)
        return 0 if arrivals is None else self._learned_ms(arrivals, bad_weather=self._is_weather_bad())

    def _is_weather_bad(self) -> bool:
        """Asked for each of thousands of nodes: so it may be a moment old, as how far behind this coordinator is."""
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._weather_known_until_ms:
            interval_ms = self._config.heartbeat_interval_ms
            self._weather_known_until_ms = now_ms + interval_ms // 20
            # A clock that was set back looks like that too: it may cost some time, not the verdict.
            behind_ms = self._backlog.behind_ms(now_ms=now_ms)
            self._behind_ms = min(behind_ms, self._config.silence_misses_max * interval_ms)
            self._bad_weather = self._weather.is_bad(nodes=len(self._arrivals), interval_ms=interval_ms, now_ms=now_ms)
        return self._bad_weather

    def _learned_ms(self, arrivals: Arrivals, *, bad_weather: bool) -> int:
        patience_ms = arrivals.patience_ms(
            interval_ms=self._config.heartbeat_interval_ms,
            misses_min=self._config.silence_misses_min,
            misses_max=self._config.silence_misses_max,
            bad_weather=bad_weather,
        )
        return patience_ms + self._behind_ms

    def _patience_ms(self, node_id: str, *, bad_weather: bool) -> int | None:
        """As `judge` takes it. Of a node elsewhere the word is up to an interval old, unless it says just that: that
        the node is silent."""
        if self._holders.get(node_id, HERE) == HERE:
            arrivals = self._arrivals.get(node_id)
            return None if arrivals is None else self._learned_ms(arrivals, bad_weather=bad_weather)
        told = self._told.get(node_id)
        if told is None or not told.patience_ms or not told.current:
            return None
        return told.patience_ms if told.silent else told.patience_ms + self._config.heartbeat_interval_ms

    def _tell_silent(self) -> list[tuple[Node, Judgement]]:
        """While another coordinator leads: it hears at once of a node here that fell silent. Judges nobody."""
        now_ms = self._clock.monotonic_ms()
        self._to_judge = {}
        if now_ms < self._look_again_at_ms:
            return []
        self._look_again_at_ms = now_ms + self._config.heartbeat_interval_ms
        bad_weather = self._is_weather_bad()
        for node_id, arrivals in self._arrivals.items():
            contact = self._contacts.get(node_id, NO_CONTACT)
            heard_at_ms = contact.heard_at_ms
            if heard_at_ms is None or not contact.connected or self._holders.get(node_id) != HERE:
                continue
            due_ms = heard_at_ms + self._learned_ms(arrivals, bad_weather=bad_weather)
            if now_ms < due_ms:
                self._look_again_at_ms = min(self._look_again_at_ms, due_ms)
            elif self._said_silent.get(node_id) != heard_at_ms:
                self._said_silent[node_id] = heard_at_ms
                self._on_silent(node_id)
        return []

    def _look(self) -> list[tuple[Node, Judgement]]:
        """Every judgement that says something, by node id: of all nodes when the earliest deadline has come, else of
        those that something happened to, so that a thousand agents that connect cost no thousand looks at all."""
        now_ms = self._clock.monotonic_ms()
        nodes = self._store.snapshot.state.nodes
        shared = self._shared()
        chosen: Iterable[str] = self._to_judge
        if now_ms >= max(self._look_again_at_ms, self._rest_until_ms):
            chosen = nodes
            self._look_again_at_ms = now_ms + _LOOK_INTERVAL_MS_MAX
        bad_weather = self._is_weather_bad()
        verdicts: list[tuple[Node, Judgement]] = []
        for node_id in chosen:
            node = nodes.get(node_id)
            if node is None:
                self.forget(node_id)  # removed; its session ended after that
                continue
            before = self._contacts.get(node_id, NO_CONTACT)
            heard_at_ms = before.heard_at_ms
            if (
                heard_at_ms is not None
                and now_ms < heard_at_ms + self._least_ms
                and node.state is NodeState.READY
                and before.connected
                and before.unreachable_since_ms is None
            ):
                # Nothing can be said of it yet: so it is with nearly all of thousands.
                self._look_again_at_ms = min(self._look_again_at_ms, heard_at_ms + self._least_ms)
                continue
            contact = leased(before, node.state, now_ms=now_ms)
            if contact is not before:
                self._contacts[node_id] = contact
            terms = self._terms(node_id, shared=shared)
            verdict = judge(
                node.state,
                contact,
                terms,
                began_at_ms=self._began_at_ms,
                now_ms=now_ms,
                patience_ms=self._patience_ms(node_id, bad_weather=bad_weather),
            )
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
            command = with_health(
                ReportNode(node.id, verdict.state, verdict.reason),
                self._store.snapshot.state,
                now_ms=self._clock.now_ms(),
            )
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
