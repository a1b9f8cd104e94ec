"""The score of REQ-021: S = w_l*locality + w_r*reliability + w_c*cost + w_u*utilization - w_n*network_penalty.

Every term is between 0 and 1, computed from what is known now; more is better, except for penalties. What is not
known counts as the middle. A spec's soft constraints (spread, preferred anti-affinity, PreferNoSchedule, a recent
failure on the node) form one more term, `preference`, a penalty that outweighs all others: among nodes that honour
them equally, S decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloudless.coordinator.core.scheduler import topology
from cloudless.coordinator.core.scheduler.filters import Candidate, tolerates
from cloudless.core.model import DeviceClass, Node, NodeState, NodeUsage, ScoreTerm
from cloudless.core.spec import AntiAffinity, ResourceAmounts, SpreadConstraint, TaintEffect, WorkloadSpec

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
_RTT_HALF_MS: Final = 50.0  # a round trip of this length makes a node half as near
_SETTLED_MINUTES: Final = 10  # a node that has been ready for this long is half way to full reliability


def locality(node: Node, usage: NodeUsage | None, spec: WorkloadSpec) -> float:
    """How near: the preferred regions and zones in their order, and the measured round trip."""
    known = []
    for preferred, actual in ((spec.placement.regions, node.region), (spec.placement.zones, node.zone)):
        if preferred:
            known.append(1 - preferred.index(actual) / len(preferred) if actual in preferred else 0.0)
    if usage is not None and usage.rtt_us > 0:
        known.append(_RTT_HALF_MS / (_RTT_HALF_MS + usage.rtt_us / 1000))
    return sum(known) / len(known) if known else UNKNOWN


def reliability(node: Node, *, now_ms: int) -> float:
    """How steady: from a half right after the node became ready towards 1 as it stays so, in whole minutes."""
    if node.state is not NodeState.READY:
        return 0.0
    minutes = max(0, now_ms - node.state_since_ms) // 60_000
    return 0.5 + 0.5 * minutes / (minutes + _SETTLED_MINUTES)


def cost(node: Node, usage: NodeUsage | None) -> float:
    """How cheap: by device class, less on battery (the emptier the less) and on a metered link."""
    device = node.device
    value = UNKNOWN if device.device_class is None else _CHEAPNESS[device.device_class]
    source = usage.power_source if usage is not None and usage.power_source else device.power_source
    if source == "battery":
        level = usage.battery_percent if usage is not None and 0 < usage.battery_percent <= 100 else 50
        value *= 0.25 + 0.25 * level / 100
    return value * 0.7 if _metered(node, usage) else value


def network_penalty(node: Node, usage: NodeUsage | None) -> float:
    """What the link costs: half for a metered one, up to half for a long round trip."""
    far = 0.0
    if usage is not None and usage.rtt_us > 0:
        rtt_ms = usage.rtt_us / 1000
        far = rtt_ms / (rtt_ms + 4 * _RTT_HALF_MS)
    return (0.5 if _metered(node, usage) else 0.0) + 0.5 * far


def utilization(candidate: Candidate, ask: ResourceAmounts, *, wanted: int) -> float:
    """How full the node would be (bin-packing), less the share of the workload that it holds already: near
    equals share a workload's replicas, while a small remainder still fills up a node that is in use.

    Full is the mean of CPU and memory, reserved and asked for, after this placement. Never below 0: a node that
    holds one of a workload's two replicas is at 0 for the other until it is more than half full, though it is far
    from empty; to the first replica of the next workload it counts as full as it is.
    """
    capacity = candidate.node.device.capacity
    fills = [
        min(1.0, (have + more) / limit)
        for have, more, limit in (
            (candidate.used.cpu_millis, ask.cpu_millis, capacity.cpu_millis),
            (candidate.used.memory_bytes, ask.memory_bytes, capacity.memory_bytes),
        )
        if limit > 0
    ]
    fill = sum(fills) / len(fills) if fills else 0.0
    return max(0.0, fill - candidate.own / max(1, wanted, candidate.own))


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


@dataclass(slots=True)
class Spread:
    """One spread constraint of a planning run: how many replicas each place holds."""

    constraint: SpreadConstraint
    counts: Counter[str]
    places: frozenset[str]  # those of eligible nodes, which the skew is measured over
    lowest: int = 0

    def __post_init__(self) -> None:
        self.recount()

    def recount(self) -> None:
        """To be called when the counts have grown."""
        self.lowest = min((self.counts[place] for place in self.places), default=0)

    def excess(self, node: Node) -> int:
        """By how much one more replica on the node would exceed the skew that is allowed."""
        here = self.counts[topology.domain_of(node, self.constraint.topology_key)]
        return here + 1 - self.lowest - max(1, self.constraint.max_skew)


@dataclass(slots=True)
class Preferences:
    """The soft constraints of one planning run. The counts grow as replicas are placed."""

    spec: WorkloadSpec
    spread: Sequence[Spread]
    anti_affinity: Sequence[tuple[AntiAffinity, Counter[str]]]
    failed_on: frozenset[str]  # nodes where a replica of the workload failed and is still there

    @property
    def weight(self) -> float:
        """What the term weighs, so that a single broken preference exceeds the whole range of S."""
        return 2.0 * (len(self.spread) + len(self.anti_affinity) + 2)

    def penalty(self, node: Node) -> float:
        """0 when everything is honoured; each broken preference counts at least one and at most two, by how
        far it is broken, over the weight."""
        points = 0.0
        for spread in self.spread:
            points += _points(spread.excess(node))
        for term, counts in self.anti_affinity:
            points += _points(counts[topology.domain_of(node, term.topology_key)])
        points += _points(int(node.id in self.failed_on))
        if node.taints:
            points += _points(
                sum(
                    taint.effect is TaintEffect.PREFER_NO_SCHEDULE
                    and not tolerates(self.spec.placement.tolerations, taint)
                    for taint in node.taints
                )
            )
        return points / self.weight


def _points(excess: int) -> float:
    return 0.0 if excess <= 0 else 1 + excess / (1 + excess)


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
