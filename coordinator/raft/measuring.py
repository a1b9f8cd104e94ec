"""How slow the disk and the ways to the other members usually are, for timeouts that fit them."""

from __future__ import annotations

from collections import deque
from typing import Final

SAMPLES: Final = 128
PERCENTILE: Final = 0.95


class Slowness:
    """A high percentile of the newest samples, in milliseconds. One sample alone never counts among others: it may be
    of a member that stood still."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def add(self, sample_ms: float) -> None:
        self._samples.append(sample_ms)

    @property
    def value_ms(self) -> float:
        """0 while nothing was measured."""
        if not self._samples:
            return 0.0
        ordered = sorted(self._samples)
        return ordered[int((len(ordered) - 1) * PERCENTILE)]


class RoundTrips:
    """Of a leader, from a broadcast to its answers; of a candidate, from a question to a vote (round 0). One sample is
    under way per member."""

    def __init__(self) -> None:
        self._sent: dict[str, tuple[int, float]] = {}
        self._slowness: dict[str, Slowness] = {}

    def sent(self, to: str, round_number: int, now_ms: float) -> None:
        if to not in self._sent:
            self._sent[to] = (round_number, now_ms)

    def answered(self, sender: str, round_number: int, now_ms: float) -> None:
        sent = self._sent.get(sender)
        if sent is not None and round_number >= sent[0]:
            del self._sent[sender]
            self._slowness.setdefault(sender, Slowness()).add(now_ms - sent[1])

    def forget(self) -> None:
        """Another term: rounds are counted anew."""
        self._sent.clear()

    def lost(self, member: str) -> None:
        self._sent.pop(member, None)

    def slowest_ms(self, members: tuple[str, ...]) -> float:
        """Of these members, the slowest usual round trip."""
        return max((self._slowness[m].value_ms for m in members if m in self._slowness), default=0.0)
