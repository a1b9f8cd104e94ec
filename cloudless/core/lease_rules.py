"""What validation says of `disruption.leaseDuration`."""

from __future__ import annotations

from collections.abc import Iterator

from cloudless.core.leases import LEASE_MS_MAX, LEASE_MS_MIN
from cloudless.core.spec import Disruption
from cloudless.core.violations import Violation


def lease_violations(disruption: Disruption, path: str = "spec.disruption.leaseDuration") -> Iterator[Violation]:
    """Zero is the default; anything else has to be long enough to be renewed, and short enough to end."""
    stated_ms = disruption.lease_duration_ms
    if stated_ms and not LEASE_MS_MIN <= stated_ms <= LEASE_MS_MAX:
        what = "too short to be renewed in time" if stated_ms < LEASE_MS_MIN else "longer than 90 days"
        remedy = f"use a duration from {LEASE_MS_MIN // 1000}s to {LEASE_MS_MAX // 3_600_000}h"
        yield Violation(path, f"the lease is {what}", remedy)
