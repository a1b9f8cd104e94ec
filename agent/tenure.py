"""The node's leases on what it runs: the shell around `core.tenure`, which has the rules.

Keeps trusted time, says which replicas may not run, and wakes when that changes. Trusted time is saved now and then
(first soon, then seldom: a memory card shall live), so that a device that has no clock of its own counts on from
there after a reboot.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog
from prometheus_client import Gauge

from cloudless.agent.core import tenure as rules
from cloudless.agent.core.tenure import Lease, TimePoint
from cloudless.agent.grants import Granted
from cloudless.clock import Clock
from cloudless.core.model import Assignment

log = structlog.get_logger(__name__)

# The loop's own clock does not count sleep, so that leases are looked at now and then.
_LOOK_INTERVAL_S: Final = 15.0
_LOOK_INTERVAL_S_MIN: Final = 0.01
_SAVE_DELAY_MS_MIN: Final = 15_000
_SAVE_DELAY_MS_MAX: Final = 600_000

EXPIRED = Gauge("cloudless_replicas_lease_expired", "Replicas that may not run because their lease has expired.")


def boottime_ms() -> int:
    """Milliseconds since the device booted, sleep included; where the system does not tell, a clock that may leave
    sleep out."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


class Tenure:
    """One per supervisor. `boottime` is a clock as `boottime_ms`, `boot_id` names this boot. Event loop only.

    Without a lease (an earlier coordinator sent the set, unsigned) nothing expires."""

    def __init__(self, clock: Clock, *, boottime: Callable[[], int] | None = None, boot_id: str = "") -> None:
        self.lease: Lease | None = None
        self._clock = clock
        self._boottime = boottime or clock.monotonic_ms
        self._boot_id = boot_id
        self._saved: Lease | None = None  # the newest one in the journal
        self._time = TimePoint(0, 0)
        self._changed = asyncio.Event()
        self._expired: tuple[str, ...] = ()
        self._saved_at_ms = self._boottime()
        self._save_delay_ms = 0  # the first time at once

    def resume(self, lease: Lease | None, saved: TimePoint | None) -> None:
        """What the journal had; once, before all else."""
        self.lease = self._saved = lease
        if lease is not None:
            self._time = rules.resumed(
                lease,
                saved,
                wall_ms=self._clock.now_ms(),
                boottime_ms=self._boottime(),
                boot_id=self._boot_id,
            )

    def take(self, lease: Lease | None) -> None:
        """A coordinator's word, heard just now: trusted time is the time of its issue."""
        self.lease = lease
        if lease is not None:
            self._time = TimePoint(lease.issued_at_ms, self._boottime(), self._boot_id)
        self._changed.set()

    def covers(self, granted: Granted | None) -> bool:
        """Whether the journal has this very set already, signed or not, so that only its lease is new."""
        if granted is None:
            return self.lease is None
        return self.renewed_by(granted.lease) and self._saved is not None and self._saved.digest == granted.lease.digest

    def renewed_by(self, lease: Lease) -> bool:
        """Whether it is a lease on the assignments that the node has."""
        return self.lease is not None and self.lease.digest == lease.digest

    def worth_saving(self, lease: Lease, assignments: Iterable[Assignment]) -> bool:
        """Whether a renewal is so much newer than the saved lease that it is worth a write; a link that comes and goes
        brings one each time."""
        return self._saved is None or rules.worth_saving(self._saved, lease, assignments)

    def saved(self, lease: Lease | None) -> None:
        """The journal has it."""
        self._saved = lease

    def now_ms(self) -> int:
        """Trusted time; means nothing without a lease."""
        return self._time.at(self._boottime())

    def expired(self, assignment: Assignment) -> bool:
        """Whether this replica may not run now."""
        return self.lease is not None and rules.expired(self.lease, assignment, now_ms=self.now_ms())

    async def run(
        self,
        assignments: Callable[[], Iterable[Assignment]],
        on_change: Callable[[], None],
        save: Callable[[TimePoint], Awaitable[None]],
    ) -> None:
        """Calls `on_change` whenever other replicas than before may not run, and saves trusted time now and then.
        Ends by cancellation, with a last save."""
        try:
            while True:
                self._changed.clear()
                self._look(assignments(), on_change)
                await self._save_if_due(save)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._delay_s(assignments())):
                        await self._changed.wait()
        finally:
            await self._save(save)

    def _look(self, assignments: Iterable[Assignment], on_change: Callable[[], None]) -> None:
        now = tuple(sorted(each.replica_id for each in assignments if self.expired(each)))
        if now == self._expired:
            return
        lapsed, renewed = sorted(set(now) - set(self._expired)), sorted(set(self._expired) - set(now))
        self._expired = now
        EXPIRED.set(len(now))
        if lapsed:
            log.warning(
                "lease.expired",
                replicas=lapsed,
                cause="no coordinator has renewed their lease in time",
                remedy="they are started again when a coordinator is in reach; see disruption.leaseDuration",
            )
        if renewed:
            log.info("lease.renewed", replicas=renewed)
        on_change()

    def _delay_s(self, assignments: Iterable[Assignment]) -> float:
        if self.lease is None:
            return _LOOK_INTERVAL_S
        now_ms = self.now_ms()
        ends_ms = rules.next_end_ms(self.lease, assignments, now_ms=now_ms)
        if ends_ms is None:
            return _LOOK_INTERVAL_S
        return min(max((ends_ms - now_ms) / 1000, _LOOK_INTERVAL_S_MIN), _LOOK_INTERVAL_S)

    async def _save_if_due(self, save: Callable[[TimePoint], Awaitable[None]]) -> None:
        if self._boottime() - self._saved_at_ms >= self._save_delay_ms:
            await self._save(save)

    async def _save(self, save: Callable[[TimePoint], Awaitable[None]]) -> None:
        if self.lease is None:
            return
        self._saved_at_ms = self._boottime()
        self._save_delay_ms = min(max(2 * self._save_delay_ms, _SAVE_DELAY_MS_MIN), _SAVE_DELAY_MS_MAX)
        try:
            await save(TimePoint(self.now_ms(), self._saved_at_ms, self._boot_id))
        except OSError as error:  # the next save may succeed; until then a reboot starts from an older time
            log.warning("journal.write_failed", file="clock", cause=str(error))
