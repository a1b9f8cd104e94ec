"""Holds the node to what its owner allows, with or without a coordinator.

While nothing may run, the supervisor stops what does in good order and starts nothing; afterwards it goes on, unless a
coordinator moved the work meanwhile. A replica of a namespace that the owner does not allow is refused for good: the
coordinator places another one elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from cloudless.agent.owner_watch import OwnerWatch
from cloudless.agent.reports import ReportBook
from cloudless.core.model import Assignment

NAMESPACE_NOT_ALLOWED: Final = "NamespaceNotAllowed"


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
        self._applied: tuple[str, tuple[str, ...]] | None = None

    def apply(self) -> None:
        """Repeatable; acts on changes alone."""
        verdict, terms = self._watch.verdict, self._watch.terms
        reason = verdict.reason if verdict.evicting else ""
        namespaces = terms.namespaces if terms is not None and not verdict.evicting else ()
        if (reason, namespaces) == self._applied:
            return
        self._applied = (reason, namespaces)
        if reason:
            self._supervisor.hold(reason, verdict.message)
        elif namespaces:
            self._supervisor.hold(NAMESPACE_NOT_ALLOWED, self._refusal(namespaces), only=self._is_foreign)
            self._refuse()
        else:
            self._supervisor.release()

    async def run(self) -> None:
        """Refuses what comes with another namespace, until cancelled."""
        version = -1
        while True:
            await self._supervisor.reports.wait_beyond(version)
            version = self._supervisor.reports.version
            self._refuse()

    def _is_foreign(self, assignment: Assignment) -> bool:
        return self._watch.terms is not None and not self._watch.terms.allows_namespace(assignment.namespace)

    def _refuse(self) -> None:
        terms = self._watch.terms
        if terms is None or not terms.namespaces or self._watch.verdict.evicting:
            return
        for replica_id, assignment in self._supervisor.running().items():
            if not terms.allows_namespace(assignment.namespace):
                self._supervisor.evict(replica_id, NAMESPACE_NOT_ALLOWED, self._refusal(terms.namespaces))

    @staticmethod
    def _refusal(namespaces: tuple[str, ...]) -> str:
        return f"the owner of this device allows the namespaces {', '.join(namespaces)}"
