"""For how long a node may go on with what it was assigned without hearing from a coordinator (`leaseDuration`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cloudless.core.model import Assignment
from cloudless.core.spec import WorkloadSpec

LEASE_MS: Final = 24 * 3_600_000  # where none is stated
LEASE_MS_MIN: Final = 10_000
LEASE_MS_MAX: Final = 90 * 24 * 3_600_000

RENEWAL_MS_MIN: Final = 30_000
RENEWAL_MS_MAX: Final = 3_600_000


def lease_ms(spec: WorkloadSpec) -> int:
    """The lease of a workload's replicas. Workloads that were written before there were leases have the default one;
    whatever is stored, it is within the bounds."""
    stated = spec.disruption.lease_duration_ms
    return min(max(stated, LEASE_MS_MIN), LEASE_MS_MAX) if stated > 0 else LEASE_MS


def renewal_ms(assignments: Iterable[Assignment]) -> int | None:
    """How often the lease of a set is renewed while its node is connected: ten times within the shortest lease of its
    replicas, but not more often than each half minute nor more seldom than each hour; and three times in any case.
    None: it holds nothing that a lease could end."""
    shortest_ms = min((lease_ms(each.spec) for each in assignments if not each.stopping), default=None)
    if shortest_ms is None:
        return None
    return min(max(shortest_ms // 10, RENEWAL_MS_MIN), RENEWAL_MS_MAX, shortest_ms // 3)
