"""Holds the node to what its owner allows, with or without a coordinator.

While nothing may run, the supervisor stops what does in good order and starts nothing; afterwards it goes on, unless a
coordinator moved the work meanwhile. A replica of a namespace that the owner does not allow is refused for good, and so
is what no longer fits into the owner's share: the coordinator places another one elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from cloudless.agent.core.owner import Claim, surplus
from cloudless.agent.owner_watch import OwnerWatch
from cloudless.agent.reports import ReportBook
from cloudless.core.model import Assignment, ReplicaPhase
from cloudless.core.quantity import format_bytes, format_cpu
from cloudless.core.spec import ResourceAmounts, WorkloadType

# Why a replica is refused; that it is the owner's will and no fault of the replica is what others go by.
OWNER_TERMS: Final = "OwnerTerms"
_OVER: Final = (ReplicaPhase.SUCCEEDED, ReplicaPhase.FAILED, ReplicaPhase.STOPPING)


class Holder(Protocol):
    """What the rules need of the supervisor."""

    reports: ReportBook

    def evict(self, replica_id: str, reason: str, message: str) -> bool: ...
    def hold(self, reason: str, message: str, *, only: Callable[[Assignment], bool] | None = None) -> None: ...
    def release(self) -> None: ...
    def running(self) -> Mapping[str, Assignment]: ...


class OwnerRules:
    """Event loop only. Call `apply` once before the supervisor runs and whenever the watch tells of a change."""

    def __init__(self, watch: OwnerWatch, supervisor: Holder) -> None:
        self._watch = watch
        self._supervisor = supervisor
        self._applied: tuple[str, str, tuple[str, ...]] | None = None
        self._capacity: ResourceAmounts | None = None

    def apply(self) -> None:
        """Repeatable; acts on changes alone."""
        verdict, terms = self._watch.verdict, self._watch.terms
        reason = verdict.reason if verdict.evicting else ""
        namespaces = terms.namespaces if terms is not None and not verdict.evicting else ()
        wanted = (reason, verdict.message if reason else "", namespaces)
        if wanted == self._applied:
            return
        self._applied = wanted
        if reason:
            self._supervisor.hold(reason, verdict.message)
        elif namespaces:
            self._supervisor.hold(OWNER_TERMS, self._refusal(namespaces), only=self._is_foreign)
            self._refuse()
        else:
            self._supervisor.release()

    def fit(self, capacity: ResourceAmounts) -> None:
        """From now on the replicas fit into this much, which is what the device offers after the owner's share."""
        self._capacity = capacity
        self._shed()

    async def run(self) -> None:
        """Refuses what comes with another namespace or beyond the share, until cancelled."""
        version = -1
        while True:
            await self._supervisor.reports.wait_beyond(version)
            version = self._supervisor.reports.version
            self._refuse()
            self._shed()

    def _is_foreign(self, assignment: Assignment) -> bool:
        return self._watch.terms is not None and not self._watch.terms.allows_namespace(assignment.namespace)

    def _refuse(self) -> None:
        terms = self._watch.terms
        if terms is None or not terms.namespaces or self._watch.verdict.evicting:
            return
        for replica_id, assignment in self._supervisor.running().items():
            if not terms.allows_namespace(assignment.namespace):
                self._supervisor.evict(replica_id, OWNER_TERMS, self._refusal(terms.namespaces))

    def _shed(self) -> None:
        terms, capacity = self._watch.terms, self._capacity
        if terms is None or capacity is None or not terms.limits_capacity or self._watch.verdict.evicting:
            return
        claims = []
        for replica_id, assignment in self._supervisor.running().items():
            observation = self._supervisor.reports.get(replica_id)
            if observation is None or observation.gone or observation.status.phase in _OVER:
                continue
            spec = assignment.spec
            requests = [container.resources.requests for container in spec.containers]
            claim = Claim(
                replica_id,
                system=spec.type is WorkloadType.SYSTEM,
                priority=spec.priority,
                since_ms=observation.status.since_ms,
                cpu_millis=sum(request.cpu_millis for request in requests),
                memory_bytes=sum(request.memory_bytes for request in requests),
            )
            claims.append(claim)
        message = (
            f"the owner of this device offers {format_cpu(capacity.cpu_millis)} CPUs and"
            f" {format_bytes(capacity.memory_bytes)} of memory: less than its replicas request"
        )
        for replica_id in surplus(claims, cpu_millis=capacity.cpu_millis, memory_bytes=capacity.memory_bytes):
            self._supervisor.evict(replica_id, OWNER_TERMS, message)

    @staticmethod
    def _refusal(namespaces: tuple[str, ...]) -> str:
        return f"the owner of this device allows the namespaces {', '.join(namespaces)}"
