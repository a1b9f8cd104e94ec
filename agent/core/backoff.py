"""Exponential delays, the randomness passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloudless.core.spec import Backoff

# A delay is up to this share shorter or longer, at random, so that what failed together does not retry together.
JITTER_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Delays:
    """Doubling from `initial_ms` up to `max_ms`; `reset_ms` of good running starts the count afresh."""

    initial_ms: int = 1_000
    max_ms: int = 300_000
    reset_ms: int = 600_000


DEFAULT: Final = Delays()


def from_spec(backoff: Backoff) -> Delays:
    """The delays of a restart policy; what it leaves at 0 takes the default (1 s, 5 min, 10 min)."""
    initial = backoff.initial_ms if backoff.initial_ms > 0 else DEFAULT.initial_ms
    return Delays(
        initial_ms=initial,
        max_ms=max(initial, backoff.max_ms or DEFAULT.max_ms),
        reset_ms=backoff.reset_ms or DEFAULT.reset_ms,
    )


def delay_ms(delays: Delays, *, failures: int, jitter: float) -> int:
    """How long to wait after the given number of failures in a row (1 or more). `jitter` in [0, 1) picks the delay
    evenly from within a fifth of the doubled one, never above the longest."""
    doubled = min(delays.max_ms, delays.initial_ms << min(max(failures, 1) - 1, 32))
    least, most = doubled * (1 - JITTER_SHARE), min(doubled * (1 + JITTER_SHARE), delays.max_ms)
    return max(1, round(least + (most - least) * jitter))
