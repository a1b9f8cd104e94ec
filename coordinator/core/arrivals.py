"""How long a node may be silent before that means something: learned from how its heartbeats arrive.

An accrual detector (Hayashibara et al., "The phi accrual failure detector", 2004) with a model of what heartbeats
really do: they come on time, or the link loses some. The suspicion of a silence is

    phi = -log10( P(this link loses heartbeats) * P(so many in a row are lost | it does) )

and the node's patience is the silence at which phi reaches `PHI`. On a link that was clean for minutes that is two
heartbeats and some slack; after the first late one, and for a node of which little is known, it is many times that.
What many nodes have in common (the coordinator's own link, a busy machine) is `Weather`. ADR 0015 says why the usual
normal distribution will not do.

One `Arrivals` per node, kept where its session is, never replicated; a few numbers, changed in place, because
thousands of heartbeats come each second.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

# A lossy link gives one silence per second to be judged: a false alarm in three years.
PHI: Final = 8.0
# What a lossy link is presumed to lose, unless it was seen to lose more. Presuming less would save a second or two on
# links that are not clean, and cost a false alarm wherever a clean link turns bad.
LOSS_PRESUMED: Final = 0.4
_PER_HEARTBEAT_PRESUMED: Final = -math.log10(LOSS_PRESUMED)
# A clean heartbeat makes it less likely that the link is a lossy one: by 15 %, though one that loses 30 % shows a clean
# one less often. So links that lose less are not taken for clean either.
_CLEAN: Final = math.log10(0.85)
_ON_TIME: Final = 0.15  # of an interval: less is jitter of either side
_MISSED: Final = 0.6  # of an interval: at least one heartbeat came after the next was due, or never
_LATE_EVIDENCE: Final = 3.0
_MISSED_EVIDENCE: Final = 5.0
# Nothing is believed more firmly than this: what a link was for a day says little of it after a turn in the road.
_CLEAN_AT_MOST: Final = -PHI
_MEMORY: Final = 0.995  # of the share lost, per heartbeat: about the last three minutes
_SHARE_PRIOR: Final = (2.0, 5.0)  # lost, of so many: presumed before anything was seen
_LONGEST_TIMES: Final = 2.0  # silences that are not twice as long as one that was survived mean nothing
_SLACK: Final = 0.4  # of an interval
_SLACK_MS_MIN: Final = 400  # a process may be that late on a busy machine, however short the interval
_BAD_WEATHER: Final = -4.0  # at least so likely is it then that a link is a lossy one
_WEATHER_INTERVALS: Final = 5
_WEATHER_NODES_MIN: Final = 2
_WEATHER_SHARE: Final = 0.05
_UNKNOWN: Final = math.log10(0.5)
_BACKLOG_WINDOW_MS: Final = 500


class Arrivals:
    """What is known of the way that one node's heartbeats come. Times are monotonic ms of one clock."""

    __slots__ = ("_longest", "_lossy", "_lost", "_seen", "at_ms")

    def __init__(self) -> None:
        self.at_ms: int | None = None  # the last one; None: the next gap says nothing
        self._lossy = _UNKNOWN  # log10 of how likely it is that the link is a lossy one
        self._lost, self._seen = _SHARE_PRIOR
        self._longest = 1.0  # gap that was seen, in intervals; fades like the rest

    @classmethod
    def presumed(cls, patience_ms: int, *, interval_ms: int) -> Arrivals:
        """As another coordinator has learned it, which had the node's session before: the last mile is the same."""
        arrivals = cls()
        missed = (patience_ms - _slack_ms(interval_ms)) / interval_ms
        arrivals._lossy = min(max(missed * _PER_HEARTBEAT_PRESUMED - PHI, _CLEAN_AT_MOST), 0.0)
        return arrivals

    def pause(self) -> None:
        """The gap until the next one says nothing of the link: the session is another, or nobody listened."""
        self.at_ms = None

    def arrived(self, *, at_ms: int, interval_ms: int) -> bool:
        """A heartbeat came, or another message that came instead of one. Whether it was late."""
        before_ms, self.at_ms = self.at_ms, at_ms
        if before_ms is None:
            return False
        gap = (at_ms - before_ms) / interval_ms
        if gap < 0.5:
            return False  # what was held up comes all at once, and other messages come in between: no news of the link
        late = gap - 1.0
        missed = 0
        if late <= _ON_TIME:
            self._lossy = max(self._lossy + _CLEAN, _CLEAN_AT_MOST)
        elif late <= _MISSED:
            self._lossy = min(self._lossy + _LATE_EVIDENCE, 0.0)
        else:
            self._lossy = min(self._lossy + _MISSED_EVIDENCE, 0.0)
            missed = math.ceil(late - _ON_TIME)
        self._longest = max(self._longest * _MEMORY, gap)
        self._lost = self._lost * _MEMORY + missed
        self._seen = self._seen * _MEMORY + missed + 1
        return late > _ON_TIME

    def phi(self, missed: int) -> float:
        """The suspicion after so many heartbeats that were due and did not come."""
        return -self._lossy - missed * math.log10(self._share())

    def _share(self) -> float:
        return min(max(self._lost / self._seen, LOSS_PRESUMED), 0.9)

    def patience_ms(self, *, interval_ms: int, misses_min: int, misses_max: int, bad_weather: bool = False) -> int:
        """The silence that is taken for the node's end: so many heartbeats missed that `phi` reaches `PHI`, within the
        bounds, and some slack for the last of them. In bad weather no link counts as clean."""
        lossy = max(self._lossy, _BAD_WEATHER) if bad_weather else self._lossy
        share = self._share()
        per_heartbeat = _PER_HEARTBEAT_PRESUMED if share == LOSS_PRESUMED else -math.log10(share)
        missed = math.ceil((PHI + lossy) / per_heartbeat)
        learned_ms = max(missed, misses_min) * interval_ms + _slack_ms(interval_ms)
        survived_ms = round(_LONGEST_TIMES * self._longest * interval_ms)
        return min(max(learned_ms, survived_ms), misses_max * interval_ms + _slack_ms(interval_ms))


def _slack_ms(interval_ms: int) -> int:
    return max(round(_SLACK * interval_ms), _SLACK_MS_MIN)


class Weather:
    """Whether heartbeats come late from many nodes at once: then it is not the nodes."""

    __slots__ = ("_late",)

    def __init__(self) -> None:
        self._late: dict[str, int] = {}  # when each node was late last, the latest at the end

    def late(self, node_id: str, *, at_ms: int) -> None:
        self._late.pop(node_id, None)
        self._late[node_id] = at_ms

    def is_bad(self, *, nodes: int, interval_ms: int, now_ms: int) -> bool:
        """`nodes`: how many are heard here."""
        since_ms = now_ms - _WEATHER_INTERVALS * interval_ms
        for node_id in [name for name, at_ms in itertools.takewhile(lambda row: row[1] < since_ms, self._late.items())]:
            del self._late[node_id]
        return len(self._late) >= max(_WEATHER_NODES_MIN, nodes * _WEATHER_SHARE)


class Backlog:
    """How far behind its nodes a coordinator is: how old the heartbeats are that it reads now, half of them at least.
    One that has more to do than it can reads them late, all of them; what a silence of some seconds says is then as
    old. Learned from the nodes' own clocks, each compared with itself alone; those who do not tell the time do not
    count. Where no heartbeat comes, it is not because they are read late."""

    __slots__ = ("_behind_ms", "_late_ms", "_since_ms")

    def __init__(self) -> None:
        self._behind_ms = 0
        self._late_ms: list[int] = []
        self._since_ms = 0

    def read(self, late_ms: int, *, at_ms: int) -> None:
        """A heartbeat was read that took so much longer than that node's quickest."""
        self._turn(at_ms)
        self._late_ms.append(late_ms)

    def behind_ms(self, *, now_ms: int) -> int:
        self._turn(now_ms)
        return self._behind_ms

    def _turn(self, now_ms: int) -> None:
        if now_ms - self._since_ms < _BACKLOG_WINDOW_MS:
            return
        late_ms = sorted(self._late_ms)
        self._behind_ms = late_ms[len(late_ms) // 2] if late_ms else 0
        self._late_ms.clear()
        self._since_ms = now_ms
