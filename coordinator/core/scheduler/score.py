"""The score of REQ-021: S = w_l*locality + w_r*reliability + w_c*cost + w_u*utilization - w_n*network_penalty.

Every term is between 0 and 1, computed from what is known now; more is better, except for penalties. What is not
known counts as the middle. A spec's soft constraints (spread, preferred affinity and anti-affinity, PreferNoSchedule,
a recent failure on the node) form one more term, `preference`, a penalty that outweighs all others: among nodes that
honour them equally, S decides. A term of affinity with a weight of less than 100 counts for that much less, and is
then one wish among the others.

These functions speak about one node and are the definition; `columns` computes the same, to the bit, for all nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloudless.core.model import DeviceClass, Node, NodePresence, NodeState, NodeUsage, ScoreTerm
from cloudless.core.spec import Placement, ResourceAmounts

UNKNOWN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each term counts; shown in `cluster status` and with every decision."""

    locality: float = 0.30
    reliability: float = 0.25
    cost: float = 0.15
    utilization: float = 0.20
    network: float = 0.10


# What a unit of work costs on a device: 1 is cheapest. A phone's owner pays with battery and wear.
_CHEAPNESS: Final[Mapping[DeviceClass, float]] = {
    DeviceClass.SERVER: 1.0,
    DeviceClass.DESKTOP: 0.9,
    DeviceClass.GATEWAY: 0.7,
    DeviceClass.VPS: 0.7,
    DeviceClass.LAPTOP: 0.6,
    DeviceClass.PHONE: 0.3,
}
COST_LABEL: Final = "cloudless.dev/cost"  # an administrator's: 1 is normal, 0 is free, more is dearer
_COST: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
_RTT_HALF_MS: Final = 50.0  # a round trip of this length makes a node half as near
SETTLED_MINUTES: Final = 10  # a node that has been ready for this long is half way to full reliability

# What share of the time a device of a class is there, for as long as little is known of it itself.
AVAILABILITY_PERMILLE: Final[Mapping[DeviceClass | None, int]] = {
    DeviceClass.SERVER: 990,
    DeviceClass.VPS: 990,
    DeviceClass.GATEWAY: 970,
    DeviceClass.DESKTOP: 850,
    DeviceClass.LAPTOP: 700,
    DeviceClass.PHONE: 600,
    None: 800,
}
HOUR_MS: Final = 3_600_000
WEEK_HOURS: Final = 168
_EPOCH_HOUR: Final = 72  # the first of January 1970 was a Thursday
KNOWN_HOURS: Final = 168  # of observation, after which a device's own record counts as much as its class
LOSSES_HALF: Final = 4.0  # this many losses, weighed by age, halve a node's reliability
FAILED_STARTS_HALF: Final = 8.0
HOURS_AHEAD: Final = 4  # for which a device should stay
# What an observation of so many hours ago still counts: half with every week.
FADING: Final = tuple(0.5 ** (hours / WEEK_HOURS) for hours in range(26 * WEEK_HOURS + 1))


def places_known(placement: Placement, region: str, zone: str) -> tuple[float, int]:
    """How well a place agrees with the preferred regions and zones in their order: a sum, and of how many terms."""
    total, count = 0.0, 0
    for preferred, actual in ((placement.regions, region), (placement.zones, zone)):
        if preferred:
            total += 1 - preferred.index(actual) / len(preferred) if actual in preferred else 0.0
            count += 1
    return total, count


def nearness(usage: NodeUsage | None) -> float | None:
    """By the measured round trip; None where none was measured."""
    return _RTT_HALF_MS / (_RTT_HALF_MS + usage.rtt_us / 1000) if usage is not None and usage.rtt_us > 0 else None


def locality(node: Node, usage: NodeUsage | None, placement: Placement) -> float:
    """How near: the preferred regions and zones in their order, and the measured round trip."""
    total, count = places_known(placement, node.region, node.zone)
    near = nearness(usage)
    if near is not None:
        total, count = total + near, count + 1
    return total / count if count else UNKNOWN


def reliability(node: Node, *, now_ms: int) -> float:
    """How steady: from a half right after the node became ready towards 1 as it stays so, in whole minutes; times
    the share of the time that it is there (by its record, and the less is known, by its class), divided by what it
    lost and what failed to start there, which fades with time; times how likely it is there in the next hours."""
    if node.state is not NodeState.READY:
        return 0.0
    minutes = max(0, now_ms - node.state_since_ms) // 60_000
    value = 0.5 + 0.5 * minutes / (minutes + SETTLED_MINUTES)
    record = node.reliability
    if record is not None:
        prior = AVAILABILITY_PERMILLE[node.device.device_class] / 1000
        hours = max(0, now_ms - record.first_ready_at_ms) // HOUR_MS if record.first_ready_at_ms else 0
        known = hours / (hours + KNOWN_HOURS)
        available = known * (min(1000, max(0, record.available_permille)) / 1000) + (1 - known) * prior
        fading = FADING[min(max(0, now_ms - record.updated_at_ms) // HOUR_MS, len(FADING) - 1)]
        lost = max(0, record.losses_milli) / 1000 * fading
        failed = max(0, record.failed_starts_milli) / 1000 * fading
        value = value * available / (1 + lost / LOSSES_HALF) / (1 + failed / FAILED_STARTS_HALF)
    return value * stays(node.presence, now_ms=now_ms)


def stays(presence: NodePresence | None, *, now_ms: int) -> float:
    """How likely the device is online in each of the next hours: the least likely one counts. 1 where nothing is
    known."""
    hours = week(presence)
    if hours is None:
        return 1.0
    return min(hours[hour] for hour in hours_ahead(now_ms)) / 1000


def week(presence: NodePresence | None) -> tuple[int, ...] | None:
    """How likely the device is online in each hour of the week, per mille. An hour that was not seen yet (-1) is like
    the same hour of the other days, or else 1000. None while nothing is known."""
    if presence is None or len(presence.online_permille) != WEEK_HOURS:
        return None
    hours = tuple(min(1000, permille) for permille in presence.online_permille)
    return hours if min(hours) >= 0 else tuple(_filled(hours, hour) for hour in range(WEEK_HOURS))


def _filled(hours: tuple[int, ...], hour: int) -> int:
    alike = [hours[hour]] if hours[hour] >= 0 else [permille for permille in hours[hour % 24 :: 24] if permille >= 0]
    return sum(alike) // len(alike) if alike else 1000


def hours_ahead(now_ms: int) -> list[int]:
    """The hours of the week, Monday 0 h UTC first, from now on."""
    first = now_ms // HOUR_MS + _EPOCH_HOUR
    return [(first + ahead) % WEEK_HOURS for ahead in range(HOURS_AHEAD)]


def cost(node: Node, usage: NodeUsage | None) -> float:
    """How cheap: by device class and the operator's weight, less on battery (the emptier the less) and on a metered
    link."""
    device = node.device
    value = UNKNOWN if device.device_class is None else _CHEAPNESS[device.device_class]
    source = usage.power_source if usage is not None and usage.power_source else device.power_source
    if source == "battery":
        level = usage.battery_percent if usage is not None and 0 < usage.battery_percent <= 100 else 50
        value *= 0.25 + 0.25 * level / 100
    if _metered(node, usage):
        value *= 0.7
    stated = node.labels.get(COST_LABEL, "")
    if _COST.fullmatch(stated):
        value = min(1.0, value * 2 / (1 + float(stated)))
    return value


def network_penalty(node: Node, usage: NodeUsage | None) -> float:
    """What the link costs: half for a metered one, up to half for a long round trip."""
    far = 0.0
    if usage is not None and usage.rtt_us > 0:
        rtt_ms = usage.rtt_us / 1000
        far = rtt_ms / (rtt_ms + 4 * _RTT_HALF_MS)
    return (0.5 if _metered(node, usage) else 0.0) + 0.5 * far


def utilization(
    used: ResourceAmounts, ask: ResourceAmounts, capacity: ResourceAmounts, *, own: int, wanted: int
) -> float:
    """How full the node would be (bin-packing), less the share of the workload that it holds already (`own` of
    `wanted` replicas): near equals share a workload's replicas, while a small remainder still fills up a node that
    is in use.

    Full is the mean of CPU and memory, reserved and asked for, after this placement. Never below 0: a node that
    holds one of a workload's two replicas is at 0 for the other until it is more than half full, though it is far
    from empty; to the first replica of the next workload it counts as full as it is.
    """
    fills = [
        min(1.0, (float(have) + float(more)) / float(limit))
        for have, more, limit in (
            (used.cpu_millis, ask.cpu_millis, capacity.cpu_millis),
            (used.memory_bytes, ask.memory_bytes, capacity.memory_bytes),
        )
        if limit > 0
    ]
    fill = sum(fills) / len(fills) if fills else 0.0
    return max(0.0, fill - own / max(1, wanted, own))


def _metered(node: Node, usage: NodeUsage | None) -> bool:
    return node.device.metered if usage is None else usage.metered or node.device.metered


def formula(
    *, locality: float, reliability: float, cost: float, utilization: float, network: float, weights: Weights
) -> float:
    return (
        weights.locality * locality
        + weights.reliability * reliability
        + weights.cost * cost
        + weights.utilization * utilization
        - weights.network * network
    )


# -- preference -------------------------------------------------------------------------------------------


def points(excess: int) -> float:
    """What one broken preference counts: at least one and less than two, by how far it is broken."""
    return 0.0 if excess <= 0 else 1 + excess / (1 + excess)


def preference_weight(terms: int) -> float:
    """What the preference term weighs with so many soft constraints beside those that every spec has, so that a
    single broken one of full weight exceeds the whole range of S."""
    return 2.0 * (terms + 2)


def terms(
    *,
    locality: float,
    reliability: float,
    cost: float,
    utilization: float,
    network: float,
    preference: float,
    preference_weight: float,
    weights: Weights,
) -> tuple[ScoreTerm, ...]:
    """The terms as they are stored with a decision; `preference` only where it is not zero."""
    shown = (
        ScoreTerm("locality", locality, weights.locality),
        ScoreTerm("reliability", reliability, weights.reliability),
        ScoreTerm("cost", cost, weights.cost),
        ScoreTerm("utilization", utilization, weights.utilization),
        ScoreTerm("network_penalty", network, weights.network),
    )
    return (*shown, ScoreTerm("preference", preference, preference_weight)) if preference else shown
