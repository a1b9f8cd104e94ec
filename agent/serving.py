"""Keeps the runtime told which replicas get new connections through their host ports: those that are ready.

Where a workload has none on this node, those that were ready and wait for their hook before the request to stop go on:
who sends requests here has to learn first that they leave, and that is what the hook's time is for.

Level-triggered: the whole set is told whenever it changed, one call at a time, and again with each resync. Nothing is
told before every replica on the node is known, so that an agent's restart takes nobody out of traffic.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from cloudless.agent.runtime.base import Runtime
from cloudless.core.model import Assignment
from cloudless.errors import CloudlessError

log = structlog.get_logger(__name__)

_CALL_S: Final = 30.0
_RETRY_DELAY_S: Final = 1.0
# A runtime that does not answer must not keep a container from being stopped, or from being called ready.
_WITHDRAWAL_S: Final = 2.0


def has_host_ports(assignment: Assignment | None) -> bool:
    return assignment is not None and any(p.host_port for c in assignment.spec.containers for p in c.ports)


class Serving:
    """Event loop only. Replicas without host ports do not matter here."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ready: set[str] = set()
        self._leaving: dict[str, str] = {}  # were ready, and are not asked to stop yet: workload by replica
        self._workloads: dict[str, str] = {}
        self._told: frozenset[str] | None = None
        self._again = False
        self._changed = asyncio.Event()
        self._changed.set()  # that nobody is ready must be told, too
        self._was_told = asyncio.Condition()

    def put(self, replica_id: str, *, workload: str, ready: bool, stopping: bool = False) -> None:
        """What is so now of a replica with host ports; `workload` is namespace/name. Repeatable."""
        if ready:
            self._leaving.pop(replica_id, None)
            if replica_id in self._ready:
                return
            self._ready.add(replica_id)
            self._workloads[replica_id] = workload
        elif replica_id in self._ready:
            self._ready.discard(replica_id)
            if stopping:
                self._leaving[replica_id] = workload
        elif stopping or self._leaving.pop(replica_id, None) is None:
            return
        self._changed.set()

    def _to_serve(self) -> frozenset[str]:
        served = {self._workloads[replica_id] for replica_id in self._ready}
        last = {replica_id for replica_id, workload in self._leaving.items() if workload not in served}
        return frozenset(self._ready | last)

    def refresh(self) -> None:
        """Tells it all again: the runtime may have begun anew."""
        self._again = True
        self._changed.set()

    def is_told(self, replica_id: str) -> bool:
        """Whether the runtime leads new connections to this replica."""
        return self._told is not None and replica_id in self._told

    async def admitted(self, replica_id: str) -> None:
        """Returns once the replica gets new connections, is no longer to get any, or cannot be given any in time."""
        try:
            async with asyncio.timeout(_WITHDRAWAL_S), self._was_told:
                await self._was_told.wait_for(lambda: self.is_told(replica_id) or replica_id not in self._ready)
        except TimeoutError:
            log.warning("serving.not_admitted", replica=replica_id)

    async def withdrawn(self, replica_id: str) -> None:
        """Returns once the replica gets no new connection, or cannot be kept from them in time."""
        if self._leaving.pop(replica_id, None) is not None:
            self._changed.set()
        if replica_id not in self._ready and (self._told is None or replica_id not in self._told):
            return
        try:
            async with asyncio.timeout(_WITHDRAWAL_S), self._was_told:
                await self._was_told.wait_for(lambda: self._told is None or replica_id not in self._told)
        except TimeoutError:
            log.warning("serving.not_withdrawn", replica=replica_id)

    async def run(self, all_known: asyncio.Event) -> None:
        """Tells; once `all_known`. Ends by cancellation."""
        await all_known.wait()
        while True:
            await self._changed.wait()
            self._changed.clear()
            ready = self._to_serve()
            self._workloads = {replica_id: self._workloads[replica_id] for replica_id in self._ready}
            if ready == self._told and not self._again:
                continue
            self._again = False
            try:
                async with asyncio.timeout(_CALL_S):
                    await self._runtime.set_serving(ready)
            except (CloudlessError, TimeoutError, OSError) as error:
                cause = str(error) or "timed out"
                log.warning("serving.not_told", cause=cause, retry_in_ms=int(_RETRY_DELAY_S * 1000))
                self._again = True
                self._changed.set()
                await asyncio.sleep(_RETRY_DELAY_S)
                continue
            async with self._was_told:
                self._told = ready
                self._was_told.notify_all()
