"""What the node has to say about its replicas, and how much of it the coordinator has confirmed.

The supervisor writes; a session reads: everything after each Welcome, then only what changed since what was
acknowledged. Each change gets the next version number, so a report that must be repeated carries the newest word.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cloudless.core.model import ReplicaStatus


@dataclass(frozen=True, slots=True)
class Observation:
    """Field for field `ReplicaObservation`."""

    replica_id: str
    status: ReplicaStatus
    gone: bool = False


@dataclass(slots=True)
class _Entry:
    observation: Observation
    version: int
    assigned: bool = True  # False: forgotten once its last word was acknowledged


class ReportBook:
    """Event loop only."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._version = 0
        self._acknowledged = 0
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self._version

    def put(self, replica_id: str, status: ReplicaStatus) -> None:
        self._write(Observation(replica_id, status))

    def put_gone(self, replica_id: str) -> None:
        """Nothing of the replica is left. Said until it was acknowledged, and in every full report for as long as
        the coordinator still assigns it."""
        entry = self._entries.get(replica_id)
        self._write(Observation(replica_id, entry.observation.status if entry else ReplicaStatus(), gone=True))

    def _write(self, observation: Observation) -> None:
        entry = self._entries.get(observation.replica_id)
        if entry is not None and entry.observation == observation:
            return
        self._version += 1
        assigned = entry.assigned if entry else True
        self._entries[observation.replica_id] = _Entry(observation, self._version, assigned)
        self._changed.set()

    def set_assigned(self, replica_id: str, assigned: bool) -> None:
        entry = self._entries.get(replica_id)
        if entry is not None:
            entry.assigned = assigned
            self._sweep()

    def get(self, replica_id: str) -> Observation | None:
        entry = self._entries.get(replica_id)
        return entry.observation if entry else None

    def everything(self) -> tuple[Observation, ...]:
        return tuple(entry.observation for _, entry in sorted(self._entries.items()))

    def since(self, version: int) -> tuple[Observation, ...]:
        """What changed after this version, by replica id."""
        return tuple(e.observation for _, e in sorted(self._entries.items()) if e.version > version)

    async def wait_beyond(self, version: int) -> None:
        """Returns once there is something newer than this version."""
        while self._version <= version:
            self._changed.clear()
            await self._changed.wait()

    def acknowledge(self, version: int) -> None:
        """The coordinator has taken in everything up to this version."""
        self._acknowledged = max(self._acknowledged, version)
        self._sweep()

    def _sweep(self) -> None:
        for replica_id, entry in list(self._entries.items()):
            if entry.observation.gone and not entry.assigned and entry.version <= self._acknowledged:
                del self._entries[replica_id]
