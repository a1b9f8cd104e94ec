"""One entry being applied: the state as it grows, and what is to be told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cloudless.coordinator.core.outcome import ApplyResult, Change
from cloudless.coordinator.core.state import State
from cloudless.core.model import Coordinator, Event, JoinToken, Node, Replica, Severity, User, WorkloadRecord
from cloudless.core.replacing import replace

_DESCRIPTION_MAX: Final = 1024
_METADATA_MAX: Final = 256


class Transition:
    """Collects the writes of one apply function; lives for one entry only.

    Each `put_*` stamps the entry's index as the object's revision and records the change. Nothing of it reaches
    the state of the machine when the function raises.
    """

    def __init__(self, state: State, *, index: int, now_ms: int, actor: str, request_id: str) -> None:
        self.state = state
        self.index = index
        self.now_ms = now_ms
        self.actor = actor
        self.request_id = request_id
        self.events: list[Event] = []
        self._changes: dict[tuple[str, str, str], Change] = {}

    @property
    def changes(self) -> tuple[Change, ...]:
        """One change per object, in the order in which the objects were first touched."""
        return tuple(self._changes.values())

    def accepted(self, changed: str, *, revision: int | None = None) -> ApplyResult:
        return ApplyResult(accepted=True, revision=self.index if revision is None else revision, changed=changed)

    # -- writes -------------------------------------------------------------------------------------------

    def put_node(self, node: Node) -> None:
        self.state = self.state.with_node(replace(node, revision=self.index))
        self._touch(Change("node", node.id))

    def remove_node(self, node_id: str) -> None:
        self.state = self.state.without_node(node_id)
        self._touch(Change("node", node_id, deleted=True))

    def put_workload(self, record: WorkloadRecord, *, metadata_only: bool = False) -> None:
        self.state = self.state.with_workload(replace(record, revision=self.index))
        metadata = record.metadata
        self._touch(Change("workload", metadata.name, metadata.namespace, metadata_only=metadata_only))

    def note_workload(self, record: WorkloadRecord) -> None:
        """Stores what the fabric notes beside a workload, as how far its rollout is. Its revision stays that of the
        last change that was asked for, so that such notes are in nobody's way who changes what they have read."""
        self.state = self.state.with_workload(record)
        self._touch(Change("workload", record.metadata.name, record.metadata.namespace))

    def remove_workload(self, namespace: str, name: str) -> None:
        self.state = self.state.without_workload(namespace, name)
        self._touch(Change("workload", name, namespace, deleted=True))
        self.emit("workload.deleted", f"workload/{namespace}/{name}", "deleted", namespace=namespace)

    def put_replica(self, replica: Replica) -> None:
        self.state = self.state.with_replica(replace(replica, revision=self.index))
        self._touch(Change("replica", replica.id, replica.namespace, workload=replica.workload))

    def remove_replica(self, replica: Replica) -> None:
        """Forgets a replica, and what only waited for it: a deleted workload, a drain."""
        self.state = self.state.without_replica(replica.id)
        self._touch(Change("replica", replica.id, replica.namespace, deleted=True, workload=replica.workload))
        key = (replica.namespace, replica.workload)
        record = self.state.workloads.get(key)
        if record is not None and record.deleting and key not in self.state.replicas_by_workload:
            self.remove_workload(replica.namespace, replica.workload)
        node = self.state.nodes.get(replica.node_id)
        if node is not None and node.draining and node.id not in self.state.replicas_by_node:
            self.emit("node.drained", f"node/{node.id}", "no replicas are left on the node")

    def put_token(self, token: JoinToken) -> None:
        self.state = self.state.with_token(replace(token, revision=self.index))
        self._touch(Change("token", token.id))

    def remove_tokens(self, token_ids: Sequence[str]) -> None:
        self.state = self.state.without_tokens(token_ids)
        for token_id in token_ids:
            self._touch(Change("token", token_id, deleted=True))

    def put_user(self, user: User) -> None:
        self.state = self.state.with_user(replace(user, revision=self.index))
        self._touch(Change("user", user.name))

    def put_coordinator(self, coordinator: Coordinator) -> None:
        self.state = self.state.with_coordinator(replace(coordinator, revision=self.index))
        self._touch(Change("coordinator", coordinator.id))

    # -- events -------------------------------------------------------------------------------------------

    def emit(
        self,
        event_type: str,
        resource: str,
        description: str,
        *,
        namespace: str = "",
        severity: Severity = Severity.INFO,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        # Part of the text may be a node's own word, and ten thousand events are kept.
        if len(description) > _DESCRIPTION_MAX:
            description = description[: _DESCRIPTION_MAX - 3] + "..."
        self.events.append(
            Event(
                index=self.index,
                sequence=len(self.events),
                type=event_type,
                severity=severity,
                time_ms=self.now_ms,
                request_id=self.request_id,
                actor=self.actor,
                resource=resource,
                namespace=namespace,
                description=description,
                metadata={key: value[:_METADATA_MAX] for key, value in metadata.items()} if metadata else {},
            )
        )

    def _touch(self, change: Change) -> None:
        self._changes[change.kind, change.namespace, change.key] = change
