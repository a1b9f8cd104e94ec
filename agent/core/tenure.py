"""For how long a node may run what it was assigned, on a clock that a device without a battery clock has, too.

Trusted time is what a coordinator said last, and the time that has passed since on the boot clock, which counts sleep.
The wall clock has no say while the agent knows better: a jump of it ends no lease and lengthens none. After a restart:

- in the same boot, the saved trusted time goes on by the boot clock;
- after a reboot, it is the latest of the wall clock, the saved trusted time plus the uptime, and the time at which the
  lease was issued. A device whose wall clock is right counts the time it was off. One whose clock is behind does not:
  each time it is off extends its leases by that time, and by what had not been saved. A wall clock that is ahead
  at a reboot ends leases early.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cloudless.core.leases import lease_ms, renewal_ms
from cloudless.core.model import Assignment

LEASE_EXPIRED: Final = "LeaseExpired"


@dataclass(frozen=True, slots=True)
class Lease:
    """A coordinator's word on one set of assignments, its signature checked. Times are its wall clock; `digest` is the
    SHA-256 of the assignments as they were sent."""

    revision: int
    digest: bytes
    issued_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class TimePoint:
    """Trusted time at one moment of the boot clock. `boot_id` is empty where the device tells none."""

    trusted_ms: int
    boottime_ms: int
    boot_id: str = ""

    def at(self, boottime_ms: int) -> int:
        """Trusted time at another moment of the same boot."""
        return self.trusted_ms + max(0, boottime_ms - self.boottime_ms)


def resumed(lease: Lease, saved: TimePoint | None, *, wall_ms: int, boottime_ms: int, boot_id: str) -> TimePoint:
    """Trusted time when an agent starts, from what it finds. See the module."""
    if saved is None:
        trusted_ms = wall_ms
    elif boot_id and saved.boot_id == boot_id:
        trusted_ms = saved.at(boottime_ms)
    else:
        uptime_ms = boottime_ms if boot_id else 0
        trusted_ms = max(wall_ms, saved.trusted_ms + uptime_ms)
    return TimePoint(max(trusted_ms, lease.issued_at_ms), boottime_ms, boot_id)


def ends_at_ms(lease: Lease, assignment: Assignment) -> int:
    """The trusted time from which on the replica may not run any more."""
    return min(lease.expires_at_ms, lease.issued_at_ms + lease_ms(assignment.spec))


def expired(lease: Lease, assignment: Assignment, *, now_ms: int) -> bool:
    """Whether the replica may not run at this trusted time. What stops anyhow does so in its own way."""
    return not assignment.stopping and now_ms >= ends_at_ms(lease, assignment)


def next_end_ms(lease: Lease, assignments: Iterable[Assignment], *, now_ms: int) -> int | None:
    """The trusted time at which the next lease ends; None: none will."""
    ends = (ends_at_ms(lease, each) for each in assignments if not each.stopping)
    return min((end for end in ends if end > now_ms), default=None)


def worth_saving(saved: Lease, lease: Lease, assignments: Iterable[Assignment]) -> bool:
    """Whether a lease is newer than the saved one by a good part of the time between two renewals."""
    interval_ms = renewal_ms(assignments)
    return interval_ms is not None and lease.issued_at_ms - saved.issued_at_ms >= interval_ms // 2
