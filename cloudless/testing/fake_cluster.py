"""ClusterService of `fake_control.FakeControl`: three coordinators that are as a test says."""

from __future__ import annotations

# ruff: noqa: N802 (gRPC names the handlers)
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.errors import CloudlessError, FailedPrecondition, NotFound, Unavailable


@dataclass
class FakeCluster:
    """`roles` by id, in order; `asked` answers. `backup`: the bytes of the file; it breaks off after `break_after`."""

    roles: dict[str, str] = field(default_factory=lambda: {"c1": "leader", "c2": "voter", "c3": "voter"})
    asked: str = "c1"
    engine: str = "raft"
    leader: str = "c1"
    term: int = 7
    state_hash: str = "00"
    applied: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    clock_offset_ms: int = 0
    backup: bytes = b""
    break_after: int = -1

    def fill(self, answer: Any, revision: int) -> None:
        """What GetStatus says of coordinators."""
        answer.coordinator_id, answer.store_engine, answer.leader_id = self.asked, self.engine, self.leader
        answer.term, answer.state_hash = self.term, self.state_hash
        answer.first_index, answer.last_index = 1, revision
        answer.applied_index = revision if self.applied is None else self.applied
        answer.wall_clock_ms += self.clock_offset_ms
        answer.role = "leader" if self.leader == self.asked else "follower"
        for name, role in self.roles.items():
            view = answer.coordinators.add(role=role, asked=name == self.asked, match_index=-1, contact_age_ms=-1)
            view.coordinator.id = name
            view.coordinator.version = self.versions.get(name, "0.1.0")
            view.coordinator.api_addresses.append(self.addresses.get(name, f"{name}.test:8443"))
            if self.asked == self.leader:
                view.match_index, view.contact_age_ms = revision, 20


class ClusterHandlers:
    """Mixed into the servicer of FakeControl."""

    _c: Any

    def _AddCoordinator(self, request: Any) -> Any:
        cluster: FakeCluster = self._c.cluster
        if request.id in cluster.roles:
            raise FailedPrecondition(f"coordinator {request.id} is a member already", reason="CoordinatorIdUsed")
        token = types_pb2.JoinToken(id="tok-1", coordinator_id=request.id, max_uses=1, expires_at_ms=1_800_086_400_000)
        return control_pb2.AddCoordinatorResponse(token=token, jwt="a.b.c")

    def _RemoveCoordinator(self, request: Any) -> Any:
        self._known(request.id)
        del self._c.cluster.roles[request.id]
        return control_pb2.RemoveCoordinatorResponse()

    def _PromoteCoordinator(self, request: Any) -> Any:
        self._known(request.id)
        self._c.cluster.roles[request.id] = "voter"
        return control_pb2.PromoteCoordinatorResponse()

    def _TransferLeadership(self, request: Any) -> Any:
        if request.id:
            self._known(request.id)
        self._c.cluster.leader = request.id or "c2"
        return control_pb2.TransferLeadershipResponse(leader_id=self._c.cluster.leader)

    def backup_stream(self) -> Iterator[Any]:
        cluster: FakeCluster = self._c.cluster
        for at in range(0, len(cluster.backup), 1000):
            if 0 <= cluster.break_after <= at:
                raise Unavailable("connection reset")
            yield control_pb2.BackupResponse(data=cluster.backup[at : at + 1000], total_bytes=len(cluster.backup))

    def _known(self, name: str) -> None:
        if name not in self._c.cluster.roles:
            error: CloudlessError = NotFound(f"there is no coordinator {name}", reason="UnknownMember")
            raise error
