"""The replicated state: persistent maps with the indexes that decisions need.

A `State` never changes: each `with_*` returns the next one, sharing all that is equal, so that a snapshot is
simply a reference. Maps iterate in no stable order; whatever affects a decision iterates over sorted ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Any, Final, TypeAlias, TypeVar

from immutables import Map

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.bounded import BoundedLog
from cloudless.coordinator.core.outcome import RememberedResult
from cloudless.coordinator.core.port_sharing import may_share
from cloudless.coordinator.core.runs import is_result
from cloudless.core.model import (
    Coordinator,
    Event,
    JoinToken,
    Node,
    Replica,
    ReplicaPhase,
    User,
    WorkloadRecord,
)
from cloudless.core.quick import quick_frozen
from cloudless.core.replacing import replace
from cloudless.core.spec import ResourceAmounts, WorkloadSpec, WorkloadType

EVENTS_MAX: Final = 10_000
RESULTS_MAX: Final = 50_000
NEVER_MS: Final = 2**63 - 1

WorkloadKey: TypeAlias = tuple[str, str]  # (namespace, name)
Ids: TypeAlias = Map[str, bool]  # a set: the values are all True

_INDEXES: Final = (
    "replicas_by_node",
    "replicas_by_workload",
    "pending",
    "system_workloads",
    "reserved",
    "first_token_end_ms",
)

K = TypeVar("K")

_LINKS_MAX: Final = 8192  # of a chain; a longer one begins anew, so that old links can go


class Touched:
    """A link of the chain of what changed: the key of a node or a workload, and the link before it.

    Whoever derived something from a state finds what changed since by following the links of a later one back to the
    link that it started from. The chain begins anew from time to time; where that link is not found, everything may
    have changed.
    """

    __slots__ = ("before", "key", "length")

    def __init__(self, key: Any, before: Touched | None) -> None:
        kept = before if before is not None and before.length < _LINKS_MAX else None
        self.key = key
        self.before: Touched | None = kept
        self.length: int = 1 if kept is None else kept.length + 1


def touched_since(newest: Touched | None, known: Touched | None) -> list[Any] | None:
    """The keys that changed after `known`, newest first and perhaps repeated; None where that is not known."""
    keys: list[Any] = []
    link = newest
    while link is not known or known is None:
        if link is None:
            return None  # the chain began anew since, or nothing was known of where it began
        keys.append(link.key)
        link = link.before
    return keys


@quick_frozen
class State:
    """Everything that the log has decided so far.

    Desired and observed state of nodes, workloads and replicas, tokens, users, coordinators, the newest events and
    the newest answers by request id. The fields after `results` are indexes: they follow from the others and are
    rebuilt when a snapshot is read.
    """

    trust_domain: str
    nodes: Map[str, Node]
    workloads: Map[WorkloadKey, WorkloadRecord]
    replicas: Map[str, Replica]
    tokens: Map[str, JoinToken]
    users: Map[str, User]
    coordinators: Map[str, Coordinator]  # removed ones too: their ids are never used again
    events: BoundedLog[Event]
    request_ids: BoundedLog[str]  # in the order in which they leave `results`
    results: Map[str, RememberedResult]
    # -- indexes ------------------------------------------------------------------------------------------
    replicas_by_node: Map[str, Ids]  # no entry: none
    replicas_by_workload: Map[WorkloadKey, Ids]
    pending: Map[WorkloadKey, int]  # how many of its replicas are placed nowhere; no entry: none
    system_workloads: Map[WorkloadKey, bool]  # those of type system
    reserved: Map[str, ResourceAmounts]  # per node, the sum of the fragments of its replicas
    first_token_end_ms: int  # the earliest `expires_at_ms` of all tokens, which for a token never changes
    # -- for caches of what follows from a state; says nothing about its content ---------------------------
    touched_nodes: Touched | None = field(default=None, compare=False)  # node, reservation or host ports changed
    touched_workloads: Touched | None = field(default=None, compare=False)

    @classmethod
    def empty(cls, trust_domain: str) -> State:
        return cls(
            trust_domain=trust_domain,
            nodes=Map(),
            workloads=Map(),
            replicas=Map(),
            tokens=Map(),
            users=Map(),
            coordinators=Map(),
            events=BoundedLog(EVENTS_MAX),
            request_ids=BoundedLog(RESULTS_MAX),
            results=Map(),
            replicas_by_node=Map(),
            replicas_by_workload=Map(),
            pending=Map(),
            system_workloads=Map(),
            reserved=Map(),
            first_token_end_ms=NEVER_MS,
        )

    # -- reading ------------------------------------------------------------------------------------------

    def replicas_on(self, node_id: str) -> list[Replica]:
        """The replicas of a node, stopping and lost ones too, by id."""
        return [self.replicas[i] for i in sorted(self.replicas_by_node.get(node_id, ()))]

    def replicas_of(self, namespace: str, name: str) -> list[Replica]:
        """The replicas of a workload, by id."""
        return [self.replicas[i] for i in sorted(self.replicas_by_workload.get((namespace, name), ()))]

    def spec_of(self, replica: Replica) -> WorkloadSpec | None:
        """The spec that a replica runs: that of its generation. None when its workload is gone."""
        record = self.workloads.get((replica.namespace, replica.workload))
        return None if record is None else spec_of_generation(record, replica.generation)

    def host_ports_on(self, node_id: str, *, sharing: WorkloadKey | None = None) -> set[tuple[int, str]]:
        """The host ports of a node that replicas hold, as (port, protocol); stopping replicas still hold theirs.
        Without those that the replicas of the workload `sharing` hold and may share."""
        taken: set[tuple[int, str]] = set()
        for replica_id in self.replicas_by_node.get(node_id, ()):
            replica = self.replicas[replica_id]
            spec = self.spec_of(replica)
            if spec is None or replica.status.phase is ReplicaPhase.LOST or is_result(replica):
                continue
            if (replica.namespace, replica.workload) != sharing or not may_share(spec):
                taken |= amounts.host_ports_of(spec)
        return taken

    # -- the next state -----------------------------------------------------------------------------------

    def with_node(self, node: Node) -> State:
        return replace(self, nodes=self.nodes.set(node.id, node), touched_nodes=Touched(node.id, self.touched_nodes))

    def without_node(self, node_id: str) -> State:
        """Drops a node that has no replicas any more."""
        return replace(self, nodes=self.nodes.delete(node_id), touched_nodes=Touched(node_id, self.touched_nodes))

    def with_workload(self, record: WorkloadRecord) -> State:
        key = (record.metadata.namespace, record.metadata.name)
        system = self.system_workloads
        if record.spec.type is WorkloadType.SYSTEM:
            system = system if key in system else system.set(key, True)
        elif key in system:
            system = system.delete(key)
        touched = Touched(key, self.touched_workloads)
        workloads = self.workloads.set(key, record)
        return replace(self, workloads=workloads, system_workloads=system, touched_workloads=touched)

    def without_workload(self, namespace: str, name: str) -> State:
        """Drops a workload that has no replicas any more."""
        key = (namespace, name)
        system = self.system_workloads.delete(key) if key in self.system_workloads else self.system_workloads
        touched = Touched(key, self.touched_workloads)
        workloads = self.workloads.delete(key)
        return replace(self, workloads=workloads, system_workloads=system, touched_workloads=touched)

    def with_replica(self, replica: Replica) -> State:
        before = self.replicas.get(replica.id)
        replicas = self.replicas.set(replica.id, replica)
        if before is not None and _indexed(before) == _indexed(replica):
            return replace(self, replicas=replicas)
        cleared = self if before is None else self._unindexed(before)
        return replace(cleared._with_index(replica), replicas=replicas)

    def without_replica(self, replica_id: str) -> State:
        before = self.replicas[replica_id]
        return replace(self._unindexed(before), replicas=self.replicas.delete(replica_id))

    def with_token(self, token: JoinToken) -> State:
        first_ms = min(self.first_token_end_ms, token.expires_at_ms)
        return replace(self, tokens=self.tokens.set(token.id, token), first_token_end_ms=first_ms)

    def without_tokens(self, token_ids: Iterable[str]) -> State:
        """Drops these tokens, all of which are there. Looks at every token that stays."""
        tokens = self.tokens.mutate()
        for token_id in token_ids:
            del tokens[token_id]
        kept = tokens.finish()
        first_ms = min((token.expires_at_ms for token in kept.values()), default=NEVER_MS)
        return replace(self, tokens=kept, first_token_end_ms=first_ms)

    def with_user(self, user: User) -> State:
        return replace(self, users=self.users.set(user.name, user))

    def with_coordinator(self, coordinator: Coordinator) -> State:
        return replace(self, coordinators=self.coordinators.set(coordinator.id, coordinator))

    def with_outcome(self, events: Sequence[Event], remembered: RememberedResult | None) -> State:
        """What an entry leaves behind: its events, and the answer to its request id, which is not remembered yet (None:
        it has none). The oldest ones may leave."""
        log = self.events.extended(events)[0] if events else self.events
        if remembered is None:
            return replace(self, events=log) if events else self
        order, gone = self.request_ids.extended((remembered.request_id,))
        results = self.results.set(remembered.request_id, remembered)
        for request_id in gone:
            results = results.delete(request_id)
        return replace(self, events=log, request_ids=order, results=results)

    def with_results(self, remembered: Sequence[RememberedResult]) -> State:
        """Remembers answers to request ids that are new and differ from each other, in this order."""
        order, gone = self.request_ids.extended([r.request_id for r in remembered])
        results = self.results.mutate()
        for result in remembered:
            results[result.request_id] = result
        for request_id in gone:
            del results[request_id]
        return replace(self, request_ids=order, results=results.finish())

    # -- indexes ------------------------------------------------------------------------------------------

    def _with_index(self, replica: Replica) -> State:
        key = (replica.namespace, replica.workload)
        by_workload = _add(self.replicas_by_workload, key, replica.id)
        if not replica.node_id:
            pending = self.pending.set(key, self.pending.get(key, 0) + 1)
            return replace(self, replicas_by_workload=by_workload, pending=pending)
        used = amounts.plus(self.reserved.get(replica.node_id, amounts.NOTHING), replica.fragment)
        return replace(
            self,
            replicas_by_workload=by_workload,
            replicas_by_node=_add(self.replicas_by_node, replica.node_id, replica.id),
            reserved=self.reserved.set(replica.node_id, used),
            touched_nodes=Touched(replica.node_id, self.touched_nodes),
        )

    def _unindexed(self, replica: Replica) -> State:
        key = (replica.namespace, replica.workload)
        by_workload = _discard(self.replicas_by_workload, key, replica.id)
        if not replica.node_id:
            left = self.pending[key] - 1
            pending = self.pending.set(key, left) if left else self.pending.delete(key)
            return replace(self, replicas_by_workload=by_workload, pending=pending)
        by_node = _discard(self.replicas_by_node, replica.node_id, replica.id)
        others = by_node.get(replica.node_id)
        if others is None:
            reserved = self.reserved.delete(replica.node_id)
        else:
            left_over = amounts.minus(self.reserved[replica.node_id], replica.fragment)
            if left_over is None:
                left_over = amounts.total(self.replicas[i].fragment for i in others)
            reserved = self.reserved.set(replica.node_id, left_over)
        return replace(
            self,
            replicas_by_workload=by_workload,
            replicas_by_node=by_node,
            reserved=reserved,
            touched_nodes=Touched(replica.node_id, self.touched_nodes),
        )

    # -- invariants ---------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Raises AssertionError, with the story, when the state contradicts itself. For tests and diagnosis."""
        rebuilt = State.empty(self.trust_domain)
        for record in self.workloads.values():
            rebuilt = rebuilt.with_workload(record)
        for replica in self.replicas.values():
            self._validate_replica(replica)
            rebuilt = rebuilt.with_replica(replica)
        for token in self.tokens.values():
            rebuilt = rebuilt.with_token(token)
        for index in _INDEXES:
            here, there = getattr(self, index), getattr(rebuilt, index)
            assert here == there, f"index {index} is {here}, and should be {there}"
        for node in self.nodes.values():
            held = [r for r in self.replicas_on(node.id) if not r.stopping]
            over = amounts.exceeded(amounts.total(r.fragment for r in held), node.device.capacity)
            assert not over, f"node {node.id} is over-committed in {over}: {[(r.id, r.fragment) for r in held]}"
        for key, record in self.workloads.items():
            assert key == (record.metadata.namespace, record.metadata.name), f"{key} holds {record.metadata}"
            generations = [revision.generation for revision in record.history]
            assert generations == sorted(set(generations)), f"history of {key} is not in order: {generations}"
            assert generations[-1:] == [record.generation], f"{key}: {record.generation} {generations}"
            assert record.history[-1].spec == record.spec, f"newest history of {key} is not its spec"
            assert not record.deleting or key in self.replicas_by_workload, f"{key} is deleted and has no replicas"
        order = list(self.request_ids)
        assert len(order) == len(set(order)), "a request id is remembered twice"
        assert set(order) == set(self.results), "remembered results and their order differ"
        assert len(self.events) <= EVENTS_MAX, f"{len(self.events)} events"
        assert len(order) <= RESULTS_MAX, f"{len(order)} results"

    def _validate_replica(self, replica: Replica) -> None:
        record = self.workloads.get((replica.namespace, replica.workload))
        assert record is not None, f"no workload: {replica}"
        assert spec_of_generation(record, replica.generation) is not None, f"generation is not kept: {replica}"
        assert not record.deleting or replica.stopping, f"workload is deleting, replica is not stopping: {replica}"
        if replica.node_id:
            assert replica.node_id in self.nodes, f"no such node: {replica}"
            assert replica.status.phase is not ReplicaPhase.PENDING, f"placed, yet pending: {replica}"
        else:
            assert replica.status.phase is ReplicaPhase.PENDING, f"placed nowhere, yet not pending: {replica}"
            assert not replica.stopping, f"placed nowhere and stopping: {replica}"
            assert replica.fragment == amounts.NOTHING, f"placed nowhere, yet reserves: {replica}"
        if replica.status.phase is ReplicaPhase.LOST:
            assert replica.stopping, f"lost and not stopping: {replica}"
            assert replica.fragment == amounts.NOTHING, f"lost and still reserving: {replica}"


def spec_of_generation(record: WorkloadRecord, generation: int) -> WorkloadSpec | None:
    """The spec of a generation of a workload; None when it is no longer kept."""
    if generation == record.generation:
        return record.spec
    return next((revision.spec for revision in record.history if revision.generation == generation), None)


def _indexed(replica: Replica) -> tuple[str, str, str, ResourceAmounts, bool]:
    lost = replica.status.phase is ReplicaPhase.LOST  # a lost one holds no host ports any more
    return replica.namespace, replica.workload, replica.node_id, replica.fragment, lost


def _add(index: Map[K, Ids], key: K, member: str) -> Map[K, Ids]:
    members: Ids = index.get(key) or Map()
    return index.set(key, members.set(member, True))


def _discard(index: Map[K, Ids], key: K, member: str) -> Map[K, Ids]:
    members = index[key].delete(member)
    return index.set(key, members) if members else index.delete(key)
