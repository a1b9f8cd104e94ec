"""Who was refused at the member listener, as security events: strangers, nodes, and coordinators under another's id.

Anybody who reaches the port can be refused as often as it likes; what that writes into the log is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Counter

from cloudless.clock import Clock
from cloudless.coordinator.core.commands import RecordEvent
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.core.model import Severity
from cloudless.errors import CloudlessError

EVENTS_PER_MINUTE_MAX: Final = 10
_MINUTE_MS: Final = 60_000
_RETRY_DELAY_S: Final = 1.0

REFUSED = Counter("cloudless_member_refused_total", "Connections refused at the member listener.", ["reason"])

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """`who` is what the certificate says (a SPIFFE id, or empty), `peer` the address it came from, `reason` CamelCase.
    `before` counts those that were refused since the last one that was recorded."""

    peer: str
    who: str
    reason: str
    detail: str
    before: int = 0


class MemberRefusals:
    """Event loop only."""

    def __init__(self, coordinator_id: str, clock: Clock) -> None:
        self._coordinator_id = coordinator_id
        self._clock = clock
        self._recorded_at_ms: deque[int] = deque(maxlen=EVENTS_PER_MINUTE_MAX)  # monotonic
        self._repeated: dict[tuple[str, str, str], int] = {}  # when this one was recorded for this reason
        self._passed_over = 0
        self._waiting: asyncio.Queue[Refusal] = asyncio.Queue(EVENTS_PER_MINUTE_MAX)

    def refused(self, *, peer: str, who: str, reason: str, detail: str) -> None:
        """Counts it; records it, unless the same was in the last minute, as one who goes on knocking makes it, or too
        many were."""
        REFUSED.labels(reason).inc()
        now_ms = self._clock.monotonic_ms()
        times = self._recorded_at_ms
        same = (peer.rpartition(":")[0], who, reason)
        if now_ms - self._repeated.get(same, -_MINUTE_MS) < _MINUTE_MS:
            self._passed_over += 1
            return
        if (len(times) == times.maxlen and now_ms - times[0] < _MINUTE_MS) or self._waiting.full():
            self._passed_over += 1
            return
        times.append(now_ms)
        self._repeated = {key: at_ms for key, at_ms in self._repeated.items() if now_ms - at_ms < _MINUTE_MS}
        self._repeated[same] = now_ms
        log.warning("security.member_refused", peer=peer, who=who, reason=reason, detail=detail, more=self._passed_over)
        self._waiting.put_nowait(Refusal(peer, who, reason, detail, self._passed_over))
        self._passed_over = 0

    async def record(self, store: Store[State]) -> None:
        """Brings them into the log, for ever. One that cannot be written now, because there is no leader, waits."""
        refusal = await self._waiting.get()
        while True:
            if await self._written(store, refusal):
                refusal = await self._waiting.get()
            else:
                await asyncio.sleep(_RETRY_DELAY_S)

    async def _written(self, store: Store[State], refusal: Refusal) -> bool:
        metadata = {"peer": refusal.peer[:256], "reason": refusal.reason[:256], "certificate": refusal.who[:256]}
        if refusal.before:
            metadata["before"] = str(refusal.before)
        command = RecordEvent(
            type="security.member_refused",
            severity=Severity.WARNING,
            resource=f"coordinator/{self._coordinator_id}",
            description=f"refused at the member listener: {refusal.detail}"[:1024],
            metadata=metadata,
        )
        try:
            await store.propose(command, actor=f"coordinator/{self._coordinator_id}")
        except CloudlessError as error:
            if error.retryable:
                return False
            log.warning("member_refusal.not_recorded", reason=error.reason, cause=error.message)
        return True
