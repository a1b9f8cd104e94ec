"""A whole state from its objects at once, as a snapshot brings them: `State.with_*` one by one takes three times as
long. `State.validate` compares the indexes that are made here with those that `with_*` make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from immutables import Map

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.bounded import BoundedLog
from cloudless.coordinator.core.outcome import RememberedResult
from cloudless.coordinator.core.state import EVENTS_MAX, NEVER_MS, RESULTS_MAX, State, Touched, WorkloadKey
from cloudless.core.model import Coordinator, Event, JoinToken, Node, Replica, User, WorkloadRecord
from cloudless.core.spec import ResourceAmounts, WorkloadType


class StateBuilder:
    """Add every object once, then `finish`."""

    def __init__(self) -> None:
        self._nodes = Map[str, Node]().mutate()
        self._workloads = Map[WorkloadKey, WorkloadRecord]().mutate()
        self._replicas = Map[str, Replica]().mutate()
        self._tokens = Map[str, JoinToken]().mutate()
        self._users = Map[str, User]().mutate()
        self._coordinators = Map[str, Coordinator]().mutate()
        self._results = Map[str, RememberedResult]().mutate()
        self._events: BoundedLog[Event] = BoundedLog(EVENTS_MAX)
        self._request_ids: BoundedLog[str] = BoundedLog(RESULTS_MAX)
        self._by_node: dict[str, Any] = {}  # the id's own mutation of a Map
        self._by_workload: dict[WorkloadKey, Any] = {}
        self._pending: dict[WorkloadKey, int] = {}
        self._system: dict[WorkloadKey, bool] = {}
        self._reserved: dict[str, ResourceAmounts] = {}
        self._first_token_end_ms = NEVER_MS

    def add_node(self, node: Node) -> None:
        self._nodes[node.id] = node

    def add_workload(self, record: WorkloadRecord) -> None:
        key = (record.metadata.namespace, record.metadata.name)
        self._workloads[key] = record
        if record.spec.type is WorkloadType.SYSTEM:
            self._system[key] = True

    def add_replica(self, replica: Replica) -> None:
        key, node_id = (replica.namespace, replica.workload), replica.node_id
        self._replicas[replica.id] = replica
        _add(self._by_workload, key, replica.id)
        if not node_id:
            self._pending[key] = self._pending.get(key, 0) + 1
            return
        _add(self._by_node, node_id, replica.id)
        self._reserved[node_id] = amounts.plus(self._reserved.get(node_id, amounts.NOTHING), replica.fragment)

    def add_token(self, token: JoinToken) -> None:
        self._tokens[token.id] = token
        self._first_token_end_ms = min(self._first_token_end_ms, token.expires_at_ms)

    def add_user(self, user: User) -> None:
        self._users[user.name] = user

    def add_coordinator(self, coordinator: Coordinator) -> None:
        self._coordinators[coordinator.id] = coordinator

    def add_events(self, events: Sequence[Event]) -> None:
        """The next ones, in order."""
        self._events, _ = self._events.extended(events)

    def add_results(self, results: Sequence[RememberedResult]) -> None:
        """The next ones, in order; their request ids are new."""
        self._request_ids, gone = self._request_ids.extended([result.request_id for result in results])
        for result in results:
            self._results[result.request_id] = result
        for request_id in gone:
            del self._results[request_id]

    def finish(self, trust_domain: str) -> State:
        return State(
            trust_domain=trust_domain,
            nodes=self._nodes.finish(),
            workloads=self._workloads.finish(),
            replicas=self._replicas.finish(),
            tokens=self._tokens.finish(),
            users=self._users.finish(),
            coordinators=self._coordinators.finish(),
            events=self._events,
            request_ids=self._request_ids,
            results=self._results.finish(),
            replicas_by_node=Map({node_id: ids.finish() for node_id, ids in self._by_node.items()}),
            replicas_by_workload=Map({key: ids.finish() for key, ids in self._by_workload.items()}),
            pending=Map(self._pending),
            system_workloads=Map(self._system),
            reserved=Map(self._reserved),
            first_token_end_ms=self._first_token_end_ms,
            touched_nodes=Touched("", None),  # where the chains of this state's successors begin
            touched_workloads=Touched(("", ""), None),
        )


def _add(index: dict[Any, Any], key: Any, member: str) -> None:
    members = index.get(key)
    if members is None:
        members = index[key] = Map[str, bool]().mutate()
    members[member] = True
