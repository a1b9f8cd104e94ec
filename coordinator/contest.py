"""Refuses the second of two agents with one identity, and says so to both the agent and the operator.

The rule is `core.incumbency`. An agent that moves to another connection has the same instance and is not concerned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog
from prometheus_client import Counter

from cloudless.clock import Clock
from cloudless.config import SessionConfig
from cloudless.coordinator.core.commands import RecordEvent
from cloudless.coordinator.core.incumbency import Answer, Claim, ask, came_first
from cloudless.core.model import Severity
from cloudless.errors import CloudlessError, FailedPrecondition

log = structlog.get_logger(__name__)

EVENT: Final = "security.identity_conflict"
EVENT_INTERVAL_MS: Final = 60_000  # per node: the second agent tries again and again
_NODES_MAX: Final = 1_000  # nodes whose last event is remembered

CONFLICTS: Final = Counter("cloudless_identity_conflicts_total", "Agents refused because their identity is in use.")


class Party(Protocol):
    """An agent's session, here or in the words of another coordinator."""

    @property
    def node_id(self) -> str: ...
    @property
    def instance_id(self) -> str: ...
    @property
    def boot_id(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def began_at_ms(self) -> int: ...
    @property
    def heard_at_ms(self) -> int: ...


class Contests:
    """Event loop only. `incumbent` gives the session that a node has, here or elsewhere, unless it is of that instance;
    the int is how late it is told of what is heard there. `propose` brings an event into the log."""

    def __init__(
        self,
        clock: Clock,
        config: SessionConfig,
        *,
        incumbent: Callable[[str, str], tuple[Any, int] | None],
        propose: Callable[[RecordEvent], Any],
    ) -> None:
        self._clock = clock
        self._interval_ms = config.heartbeat_interval_ms
        self._timeout_ms = config.heartbeat_interval_ms * config.heartbeat_misses
        self._incumbent = incumbent
        self._propose = propose
        self._waiting: dict[str, asyncio.Event] = {}
        self._told_at_ms: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle(self, node_id: str, *, instance_id: str, boot_id: str, address: str) -> None:
        """Returns when this instance may have the node's session: at once where no other one has it, at the latest when
        the other's last word is old. Raises FailedPrecondition (`IdentityInUse`)."""
        arrived_at_ms = self._clock.monotonic_ms()
        while (found := self._incumbent(node_id, instance_id)) is not None:
            incumbent, late_ms = found
            now_ms = self._clock.monotonic_ms()
            timeout_ms = self._timeout_ms + late_ms
            answer = ask(
                _claim(incumbent),
                arrived_at_ms=arrived_at_ms,
                interval_ms=self._interval_ms,
                timeout_ms=timeout_ms,
                now_ms=now_ms,
            )
            if answer is Answer.ADMITTED:
                return
            if answer is Answer.REFUSED:
                raise self.refusal(incumbent, instance_id=instance_id, boot_id=boot_id, address=address)
            event = self._waiting.setdefault(node_id, asyncio.Event())
            due_ms = min(incumbent.heard_at_ms + timeout_ms - now_ms, self._interval_ms // 4)
            try:
                async with asyncio.timeout(max(due_ms, 1) / 1000):
                    await event.wait()
            except TimeoutError:
                continue
            if self._waiting.get(node_id) is event:
                del self._waiting[node_id]

    def ended(self, node_id: str) -> None:
        """A session of the node ended, here or elsewhere."""
        event = self._waiting.pop(node_id, None)
        if event is not None:
            event.set()

    def yields(self, session: Party, sighting: Party) -> FailedPrecondition | None:
        """Why the session here ends, now that another coordinator has one of another instance; None: it stays."""
        mine, theirs = _claim(session), _claim(sighting)
        if came_first(mine, theirs):
            silent = self._clock.monotonic_ms() - mine.heard_at_ms >= self._timeout_ms
            return replaced(session.node_id) if silent else None
        if theirs.heard_at_ms < mine.began_at_ms + self._interval_ms:
            return None  # it may be the former self of the agent here
        return self.refusal(sighting, instance_id=session.instance_id, boot_id=session.boot_id, address=session.address)

    def refusal(self, incumbent: Party, *, instance_id: str, boot_id: str, address: str) -> FailedPrecondition:
        """Tells the operator; the answer is for the agent."""
        CONFLICTS.inc()
        node_id = incumbent.node_id
        log.warning(
            "session.identity_in_use",
            node=node_id,
            instance=instance_id,
            boot=boot_id,
            address=address,
            incumbent_instance=incumbent.instance_id,
            incumbent_boot=incumbent.boot_id,
            incumbent_address=incumbent.address,
        )
        self._record(
            RecordEvent(
                EVENT,
                Severity.WARNING,
                f"node/{node_id}",
                description=f"a second agent with the identity of {node_id} was refused: it came from "
                f"{address or 'an unknown address'} (boot {boot_id or 'unknown'}), the first is connected from "
                f"{incumbent.address or 'an unknown address'} (boot {incumbent.boot_id or 'unknown'})",
                metadata={
                    "address": incumbent.address,
                    "boot_id": incumbent.boot_id,
                    "instance_id": incumbent.instance_id,
                    "refused_address": address,
                    "refused_boot_id": boot_id,
                    "refused_instance_id": instance_id,
                },
            )
        )
        return FailedPrecondition(
            f"another agent with the identity of node {node_id} is connected, "
            f"from {incumbent.address or 'an unknown address'}",
            reason="IdentityInUse",
            remedy="if two devices share one data folder, empty one of them and enrol it anew under its own name",
        )

    def _record(self, event: RecordEvent) -> None:
        now_ms = self._clock.monotonic_ms()
        told_at_ms = self._told_at_ms.get(event.resource)
        if told_at_ms is not None and now_ms - told_at_ms < EVENT_INTERVAL_MS:
            return
        self._told_at_ms.pop(event.resource, None)
        self._told_at_ms[event.resource] = now_ms
        while len(self._told_at_ms) > _NODES_MAX:
            del self._told_at_ms[next(iter(self._told_at_ms))]
        task = asyncio.get_running_loop().create_task(self._write(event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, event: RecordEvent) -> None:
        try:
            await self._propose(event)
        except CloudlessError as error:
            self._told_at_ms.pop(event.resource, None)  # it comes again
            log.warning("session.conflict_not_recorded", resource=event.resource, cause=error.message)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


def replaced(node_id: str) -> FailedPrecondition:
    """Why a session ends that was silent when another agent came."""
    return FailedPrecondition(
        f"another agent with the identity of node {node_id} connected",
        reason="SessionReplaced",
        remedy="if two devices share one data folder, enrol one of them anew under its own name",
    )


def _claim(party: Party) -> Claim:
    return Claim(party.instance_id, party.began_at_ms, party.heard_at_ms)
