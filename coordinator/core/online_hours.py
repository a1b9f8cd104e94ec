"""When a device is usually online, by the hour of the week in UTC: laptops sleep at night, phones charge then.

Kept like the reliability of a node, and in the same entries (`ReportNode.presence`): each hour's average follows the
weeks, the newest the most. An hour that was not seen yet is `UNSEEN`.
"""

from __future__ import annotations

from typing import Final

from cloudless.coordinator.core.reliability import rounded
from cloudless.core.model import Node, NodePresence, NodeState

HOURS: Final = 168
HOUR_MS: Final = 3_600_000
WEEK_MS: Final = HOURS * HOUR_MS
UNSEEN: Final = -1
_NEWEST_SHARE: Final = 0.3  # of an hour's average that the newest week makes, where the whole hour was seen
_SEEN_MS_MAX: Final = 4 * WEEK_MS  # what came before that has no weight
_SHARED: Final = {permille: permille for permille in range(UNSEEN, 1001)}
_EPOCH_HOUR: Final = 72  # 1 January 1970 was a Thursday


def hour_of_week(at_ms: int) -> int:
    """The hour's place, 0 is Monday 0 h in UTC."""
    return (at_ms // HOUR_MS + _EPOCH_HOUR) % HOURS


def observed(node: Node, *, now_ms: int) -> NodePresence | None:
    """The node's record at `now_ms` (wall clock): between the record before and now it was what the log says of it.
    None while nothing was seen of it. Where the clock went back, no time has passed."""
    before = node.presence
    online_since_ms = node.state_since_ms if node.state is NodeState.READY else now_ms
    if before is None:
        if node.state is not NodeState.READY:
            return None
        before = NodePresence((), min(online_since_ms, now_ms))
    hours = [*before.online_permille] if len(before.online_permille) == HOURS else [UNSEEN] * HOURS
    at_ms = max(before.updated_at_ms, now_ms - _SEEN_MS_MAX)
    while at_ms < now_ms:
        until_ms = min(now_ms, (at_ms // HOUR_MS + 1) * HOUR_MS)
        online = max(until_ms - max(at_ms, online_since_ms), 0) / (until_ms - at_ms)
        hour = hour_of_week(at_ms)
        hours[hour] = _averaged(hours[hour], online, seen=(until_ms - at_ms) / HOUR_MS, now_ms=now_ms)
        at_ms = until_ms
    return NodePresence(tuple(hours), max(now_ms, before.updated_at_ms))


def compact(presence: NodePresence) -> NodePresence:
    """The same, with its numbers shared by all nodes: a third of the memory, where there are thousands of nodes."""
    return NodePresence(tuple(_SHARED[permille] for permille in presence.online_permille), presence.updated_at_ms)


def _averaged(permille: int, online: float, *, seen: float, now_ms: int) -> int:
    if permille == UNSEEN:
        return rounded(1000 * online, now_ms)
    return min(max(rounded(permille + _NEWEST_SHARE * seen * (1000 * online - permille), now_ms), 0), 1000)


def likely_online(presence: NodePresence | None, from_ms: int, for_ms: int) -> float | None:
    """The share, 0 to 1, of the time from `from_ms` on (wall clock) that the device is expected to be online, over
    `for_ms`, at most a week. None: nothing is known of it.

    An hour that was not seen yet is like the same hour of the other days, else like all hours that were seen."""
    if presence is None or len(presence.online_permille) != HOURS:
        return None
    hours = presence.online_permille
    seen = [permille for permille in hours if permille != UNSEEN]
    if not seen:
        return None
    usual = sum(seen) / len(seen)
    until_ms = from_ms + min(max(for_ms, 1), WEEK_MS)
    total, at_ms = 0.0, from_ms
    while at_ms < until_ms:
        next_ms = min(until_ms, (at_ms // HOUR_MS + 1) * HOUR_MS)
        total += (next_ms - at_ms) * _expected(hours, hour_of_week(at_ms), usual)
        at_ms = next_ms
    return total / (until_ms - from_ms) / 1000


def _expected(hours: tuple[int, ...], hour: int, usual: float) -> float:
    if hours[hour] != UNSEEN:
        return hours[hour]
    alike = [permille for permille in hours[hour % 24 :: 24] if permille != UNSEEN]
    return sum(alike) / len(alike) if alike else usual
