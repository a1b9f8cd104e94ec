"""Which nodes are there: from what a coordinator has heard of each, to the state that should be recorded.

Leases are local to the leader, on its monotonic clock: a new leader has heard of nobody, and gives every node time
to come back before it says anything of it. Also: which of a node's reports say something new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cloudless.coordinator.core import lifecycle
from cloudless.coordinator.core.commands import ReportedReplica
from cloudless.coordinator.core.state import State
from cloudless.core.model import NodeState, Replica
from cloudless.core.replacing import replace

LEFT = "left"


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient the coordinator is. All in ms, as the settings `session.*` give them.

    `heartbeat_timeout_ms`: as long is a node's last word good, and as long may a node be silent of which nothing has
    been learned; where something was (`core.arrivals`), `judge` is told. `break_grace_ms`: a stream that broke may be
    re-made within it, unnoticed. `return_grace_ms`: as long has a node to connect that was ready when this coordinator
    began to lead.
    """

    heartbeat_timeout_ms: int
    break_grace_ms: int
    return_grace_ms: int
    lease_ms: int

    @classmethod
    def of(cls, *, heartbeat_interval_ms: int, heartbeat_misses: int, node_lease_ms: int) -> Terms:
        timeout_ms = heartbeat_interval_ms * heartbeat_misses
        return cls(timeout_ms, heartbeat_interval_ms, 3 * timeout_ms, node_lease_ms)


@dataclass(frozen=True, slots=True)
class Contact:
    """What is known of one node here. Times are monotonic ms of this coordinator; None: not since it began to lead.

    `broke_at_ms` is None while a session stands; `left` is why the node said goodbye, empty when it did not.
    `unreachable_since_ms` is when it was first seen recorded as unreachable.
    """

    heard_at_ms: int | None = None
    broke_at_ms: int | None = None
    left: str = ""
    unreachable_since_ms: int | None = None

    @property
    def connected(self) -> bool:
        return self.heard_at_ms is not None and self.broke_at_ms is None and not self.left


NO_CONTACT = Contact()


@dataclass(frozen=True, slots=True)
class Judgement:
    """The state to record, None: as it is; why, for people; and when to judge again (monotonic ms), None: when
    something happens."""

    state: NodeState | None = None
    reason: str = ""
    again_at_ms: int | None = None


def leased(contact: Contact, recorded: NodeState | None, *, now_ms: int) -> Contact:
    """The contact, with a lease that begins when its node is first seen recorded as unreachable, and ends with that."""
    unreachable = recorded is NodeState.UNREACHABLE
    if unreachable == (contact.unreachable_since_ms is not None):
        return contact
    return replace(contact, unreachable_since_ms=now_ms if unreachable else None)


def judge(
    recorded: NodeState | None,
    contact: Contact,
    terms: Terms,
    *,
    began_at_ms: int,
    now_ms: int,
    patience_ms: int | None = None,
) -> Judgement:
    """What time alone does to a node. `began_at_ms`: when this coordinator began to lead. `patience_ms`: the silence
    that is taken for this node's end; None: the heartbeat timeout. A node becomes ready only by its own word, so that
    READY is never the answer."""
    if recorded is NodeState.READY:
        silence_ms = terms.heartbeat_timeout_ms if patience_ms is None else patience_ms
        return _judge_ready(contact, terms, began_at_ms=began_at_ms, now_ms=now_ms, silence_ms=silence_ms)
    if recorded is NodeState.UNREACHABLE:
        if is_heard(contact, terms, now_ms=now_ms):
            return Judgement(again_at_ms=(contact.heard_at_ms or now_ms) + terms.heartbeat_timeout_ms)
        since_ms = contact.unreachable_since_ms
        lost_at_ms = (now_ms if since_ms is None else since_ms) + terms.lease_ms
        if now_ms >= lost_at_ms:
            return Judgement(NodeState.LOST, f"unreachable for longer than its lease of {terms.lease_ms // 1000} s")
        return Judgement(again_at_ms=lost_at_ms)
    if contact.connected:
        return Judgement(again_at_ms=(contact.heard_at_ms or now_ms) + terms.heartbeat_timeout_ms)
    return Judgement()


def _judge_ready(contact: Contact, terms: Terms, *, began_at_ms: int, now_ms: int, silence_ms: int) -> Judgement:
    if contact.left:
        return Judgement(NodeState.UNREACHABLE, contact.left)
    if contact.heard_at_ms is None:
        due_ms, reason = began_at_ms + terms.return_grace_ms, "has not connected since the coordinator started"
    else:
        due_ms = contact.heard_at_ms + silence_ms
        reason = f"no heartbeat for {silence_ms} ms"
        if contact.broke_at_ms is not None and contact.broke_at_ms + terms.break_grace_ms <= due_ms:
            due_ms, reason = contact.broke_at_ms + terms.break_grace_ms, "its connection broke"
    if now_ms >= due_ms:
        return Judgement(NodeState.UNREACHABLE, reason)
    return Judgement(again_at_ms=due_ms)


def is_heard(contact: Contact, terms: Terms, *, now_ms: int) -> bool:
    """Whether the node has a session that is not silent."""
    heard_at_ms = contact.heard_at_ms
    return contact.connected and heard_at_ms is not None and now_ms < heard_at_ms + terms.heartbeat_timeout_ms


def news(state: State, node_id: str, reports: Iterable[ReportedReplica]) -> tuple[ReportedReplica, ...]:
    """The reports that would change the state, by replica id. The others (repeats, replicas that are not this
    node's, steps that the lifecycle does not know) are no entries of the log."""
    worthwhile = {}
    for report in reports:
        replica = state.replicas.get(report.replica_id)
        if replica is not None and replica.node_id == node_id and _is_news(replica, report):
            worthwhile[report.replica_id] = report
    return tuple(worthwhile[replica_id] for replica_id in sorted(worthwhile))


def _is_news(replica: Replica, report: ReportedReplica) -> bool:
    if report.gone:
        return replica.stopping
    was, phase = replica.status.phase, report.status.phase
    if was is None or phase is None or not lifecycle.replica_may(was, phase):
        return False
    return report.status != replica.status
