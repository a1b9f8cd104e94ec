"""Time as a dependency: shells ask a Clock; core code takes `now_ms`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch. May jump; never used for leases or timeouts."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds that only grow, from an arbitrary origin."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000
