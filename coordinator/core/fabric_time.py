"""The fabric's time: a wall clock that members share well enough for deadlines.

A deadline compares what one leader wrote into the log with what another one reads from its clock, hours of overtime or
minutes too early where the two disagree. So a coordinator that follows learns the leader's time from what the leader
writes of its own, and goes on from there when it leads. The rules:

- It runs as the monotonic clock does, and so passes by a wall clock that jumps.
- Towards the own wall clock it moves by at most a tenth of the time that passes: a deadline is wrong by a tenth at
  most, and a wrong clock of an earlier leader is forgotten within ten times its error.
- What a leader wrote is never ahead of it. It goes back to a leader's time only when that leader is heard twice with
  the same difference: a single old entry may just have arrived late.
- None of that holds beyond FAR_MS. A time that is further from the own wall clock than that is not believed: then the
  wall clock counts, at once, so that one mad clock neither freezes the others nor drags them along.

Pure: every call is given both clocks. Nothing of it is stored: a restarted member starts from its own wall clock and
what the log and the snapshot tell.
"""

from __future__ import annotations

from typing import Final

from cloudless.core.model import Event

LEADER_ACTOR: Final = "system/reconciler"
_JUDGED: Final = ("node.unreachable", "node.lost")  # by the leases of the leader
FAR_MS: Final = 10 * 60_000
SLEW: Final = 10  # of so many ms that pass, one goes into nearing the wall clock
_SAME_MS: Final = 1_000
_APART_MS: Final = 500  # what is replayed comes in one go


def is_leaders(event: Event) -> bool:
    """Whether an event comes from the work that only a leader does, and so has the leader's time."""
    return event.actor == LEADER_ACTOR or event.type in _JUDGED


class FabricTime:
    """One per store. All times are ms; `wall_ms` since the epoch, `monotonic_ms` from any origin."""

    def __init__(self) -> None:
        self._time_ms = 0
        self._at_ms: int | None = None  # monotonic, of `_time_ms`; None: nothing was asked or heard yet
        self._passed_ms = 0  # that has not gone into nearing the wall clock yet
        self._behind: tuple[int, int] | None = None  # the skew of a leader that may be behind, and since when

    def now_ms(self, *, wall_ms: int, monotonic_ms: int) -> int:
        """The fabric's time. Goes back only where it was more than FAR_MS ahead of the wall clock."""
        if self._at_ms is None:
            self._time_ms, self._at_ms = wall_ms, monotonic_ms
            return wall_ms
        passed_ms = max(0, monotonic_ms - self._at_ms)
        self._at_ms = monotonic_ms
        self._time_ms += passed_ms
        gap_ms = wall_ms - self._time_ms
        if abs(gap_ms) > FAR_MS:
            self._time_ms, self._passed_ms = wall_ms, 0
            return wall_ms
        steps_ms, self._passed_ms = divmod(self._passed_ms + passed_ms, SLEW)
        steps_ms = min(steps_ms, abs(gap_ms), passed_ms)
        self._time_ms += steps_ms if gap_ms > 0 else -steps_ms
        return self._time_ms

    def heard(self, time_ms: int, *, wall_ms: int, monotonic_ms: int, following: bool) -> None:
        """A leader wrote `time_ms`. `following`: not this coordinator, and it may have written that just now (not while
        the log is replayed)."""
        now_ms = self.now_ms(wall_ms=wall_ms, monotonic_ms=monotonic_ms)
        skew_ms = time_ms - wall_ms  # of the leader's clock; less than that where the entry was on its way for long
        if abs(skew_ms) > FAR_MS:
            return
        if time_ms >= now_ms:
            self._time_ms, self._behind = time_ms, None
        elif following and time_ms < now_ms - _SAME_MS:
            before = self._behind
            if before is None or abs(before[0] - skew_ms) > _SAME_MS:
                self._behind = (skew_ms, monotonic_ms)
            elif monotonic_ms - before[1] >= _APART_MS:
                self._time_ms, self._behind = time_ms, None
