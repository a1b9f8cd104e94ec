"""The kinds of the replicated state that are listed and watched, each described once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.scheduler.topology import labels_of
from cloudless.coordinator.core.state import State
from cloudless.core.model import JoinToken, Node, Replica, WorkloadRecord

T = TypeVar("T")
Key = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Collection(Generic[T]):
    """How one kind is found, ordered and filtered. `touched` names the keys that a change may have altered as the
    API shows them."""

    name: str
    table: Callable[[State], Mapping[Any, T]]
    key: Callable[[T], Key]
    key_parts: int  # 1: a text; 2: a pair of them
    namespace: Callable[[T], str]  # empty: cluster-wide
    labels: Callable[[State, T], Mapping[str, str]]
    touched: Callable[[Change], Iterable[Key]]


def _nothing(_state: State, _item: Any) -> Mapping[str, str]:
    return {}


def _own_key(kind: str) -> Callable[[Change], Iterable[Key]]:
    return lambda change: (change.key,) if change.kind == kind else ()


def _workload_touched(change: Change) -> Iterable[Key]:
    """A workload shows a count of its replicas' states, so that a replica's change touches it too."""
    if change.kind == "workload":
        return ((change.namespace, change.key),)
    return ((change.namespace, change.workload),) if change.kind == "replica" else ()


def _workload_labels(state: State, replica: Replica) -> Mapping[str, str]:
    record = state.workloads.get((replica.namespace, replica.workload))
    return record.metadata.labels if record is not None else {}


NODES: Collection[Node] = Collection(
    name="node",
    table=lambda state: state.nodes,
    key=lambda node: node.id,
    key_parts=1,
    namespace=lambda node: "",
    labels=lambda state, node: labels_of(node),
    touched=_own_key("node"),
)
WORKLOADS: Collection[WorkloadRecord] = Collection(
    name="workload",
    table=lambda state: state.workloads,
    key=lambda record: (record.metadata.namespace, record.metadata.name),
    key_parts=2,
    namespace=lambda record: record.metadata.namespace,
    labels=lambda state, record: record.metadata.labels,
    touched=_workload_touched,
)
REPLICAS: Collection[Replica] = Collection(
    name="replica",
    table=lambda state: state.replicas,
    key=lambda replica: replica.id,
    key_parts=1,
    namespace=lambda replica: replica.namespace,
    labels=_workload_labels,
    touched=_own_key("replica"),
)
TOKENS: Collection[JoinToken] = Collection(
    name="token",
    table=lambda state: state.tokens,
    key=lambda token: token.id,
    key_parts=1,
    namespace=lambda token: "",
    labels=_nothing,
    touched=_own_key("token"),
)
