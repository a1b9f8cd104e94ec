"""The terms of the score, and which node wins by them."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.scheduler import Weights, place, score
from cloudless.core.model import (
    DeviceClass,
    Node,
    NodePresence,
    NodeReliability,
    NodeState,
    NodeUsage,
    Taint,
    WorkloadRecord,
)
from cloudless.core.spec import AntiAffinity, Metadata, Placement, ResourceAmounts, SpreadConstraint, TaintEffect
from cloudless.testing.fabric_model import NAMESPACE, START_MS, Fabric, device, service


def decide(fabric, spec, count=1, *, usage=None, now_ms=START_MS, weights=None):
    record = fabric.state.workloads.get((NAMESPACE, "web")) or WorkloadRecord(Metadata("web", NAMESPACE), spec, 1)
    weights = weights or Weights()
    return place(fabric.state, record, count, weights=weights, usage=usage or {}, now_ms=now_ms)


def node(**changes):
    return dataclasses.replace(Node("a", region="eu", zone="z1", state=NodeState.READY, device=device()), **changes)


@pytest.mark.parametrize(
    ("placement", "rtt_us", "expected"),
    [
        (Placement(), 0, 0.5),
        (Placement(regions=("eu", "us")), 0, 1.0),
        (Placement(regions=("us", "eu")), 0, 0.5),
        (Placement(regions=("us",)), 0, 0.0),
        (Placement(regions=("eu",), zones=("z2",)), 0, 0.5),
        (Placement(), 50_000, 0.5),
        (Placement(), 1_000, 50 / 51),
        (Placement(zones=("z1",)), 50_000, 0.75),
    ],
)
def test_locality(placement, rtt_us, expected):
    usage = NodeUsage(rtt_us=rtt_us)
    assert score.locality(node(), usage, placement) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("state", "minutes", "expected"),
    [(NodeState.READY, 0, 0.5), (NodeState.READY, 10, 0.75), (NodeState.READY, 990, 0.995), (NodeState.LOST, 99, 0.0)],
)
def test_reliability(state, minutes, expected):
    value = score.reliability(node(state=state, state_since_ms=START_MS), now_ms=START_MS + minutes * 60_000)
    assert value == pytest.approx(expected)


def test_reliability_is_a_half_when_the_clock_went_back():
    assert score.reliability(node(state_since_ms=START_MS), now_ms=START_MS - 10**6) == 0.5


@pytest.mark.parametrize(
    ("changes", "usage", "expected"),
    [
        ({}, None, 1.0),
        ({"device_class": None}, None, 0.5),
        ({"device_class": DeviceClass.PHONE}, None, 0.3),
        ({"power_source": "battery"}, None, 0.375),
        ({"power_source": "battery"}, NodeUsage(power_source="mains"), 1.0),
        ({}, NodeUsage(power_source="battery", battery_percent=100), 0.5),
        ({}, NodeUsage(power_source="battery", battery_percent=20), 0.3),
        ({"metered": True}, None, 0.7),
        ({}, NodeUsage(metered=True), 0.7),
    ],
)
def test_cost(changes, usage, expected):
    assert score.cost(node(device=dataclasses.replace(device(), **changes)), usage) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metered", "rtt_us", "expected"), [(False, 0, 0.0), (True, 0, 0.5), (False, 200_000, 0.25), (True, 10**12, 1.0)]
)
def test_network_penalty(metered, rtt_us, expected):
    assert score.network_penalty(node(), NodeUsage(metered=metered, rtt_us=rtt_us)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("used", "own", "wanted", "expected"), [(0, 0, 3, 0.1), (2000, 0, 3, 0.35), (2000, 1, 4, 0.1), (0, 3, 3, 0.0)]
)
def test_utilization(used, own, wanted, expected):
    ask, capacity = ResourceAmounts(400, 100), ResourceAmounts(4000, 1000)
    value = score.utilization(ResourceAmounts(used, 0), ask, capacity, own=own, wanted=wanted)
    assert value == pytest.approx(expected)


def test_utilization_counts_what_the_node_holds_of_the_workload_against_it():
    """As the terms appear one after another on a node of 500m and much memory, for replicas of 50m."""
    ask, much = ResourceAmounts(50, 2**26), ResourceAmounts(cpu_millis=500, memory_bytes=24 * 2**30)

    def shown(cpu_millis: int, own: int) -> str:
        used = ResourceAmounts(cpu_millis, cpu_millis // 50 * 2**26)
        return f"{score.utilization(used, ask, much, own=own, wanted=2):.2f}"

    assert shown(0, own=0) == "0.05"
    assert shown(50, own=1) == "0.00", "it holds half of the workload and is a tenth full"
    assert shown(100, own=0) == "0.15", "to another workload it counts as full as it is"


def test_the_total_is_the_formula_of_the_shown_terms():
    fabric = Fabric()
    for name in "abc":
        fabric.join(name)
    spec = service(replicas=3, placement=Placement(spread=(SpreadConstraint("node", 1),)))
    for decision in decide(fabric, spec, 4, weights=Weights(0.1, 0.2, 0.3, 0.4, 0.5)):
        assert decision.candidates[0].node_id == decision.node_id
        totals = [candidate.total for candidate in decision.candidates]
        assert totals == sorted(totals, reverse=True)
        for candidate in decision.candidates:
            terms = {t.name: t for t in candidate.terms}
            assert all(0 <= t.value <= 1 for t in terms.values())
            signed = sum(
                t.value * t.weight * (-1 if t.name in ("network_penalty", "preference") else 1) for t in terms.values()
            )
            assert candidate.total == pytest.approx(signed)


# -- which node wins --------------------------------------------------------------------------------------


@pytest.fixture
def three():
    fabric = Fabric()
    for name in "abc":
        fabric.join(name)
    return fabric


def test_replicas_with_a_spread_each_go_to_their_own_zone(three):
    spec = service(replicas=3, placement=Placement(spread=(SpreadConstraint("zone", 1),)))
    assert sorted(d.node_id for d in decide(three, spec, 3)) == ["a", "b", "c"]


def test_spread_wins_over_every_other_term(three):
    spread = Placement(spread=(SpreadConstraint("zone", 1),), regions=("eu",), zones=("zone-a",))
    usage = {"b": NodeUsage(metered=True, rtt_us=10**6), "c": NodeUsage(metered=True, rtt_us=10**6)}
    assert sorted(d.node_id for d in decide(three, service(replicas=3, placement=spread), 3, usage=usage)) == [
        "a", "b", "c",
    ]  # fmt: skip


def test_a_larger_skew_packs_within_it(three):
    spread = Placement(spread=(SpreadConstraint("zone", 2),), zones=("zone-a",))
    placed = [d.node_id for d in decide(three, service(replicas=6, placement=spread), 6)]
    assert placed[:2] == ["a", "a"]
    assert sorted(placed) == ["a", "a", "a", "b", "b", "c"]


def test_spread_is_a_wish_that_yields_when_a_zone_is_full():
    fabric = Fabric()
    fabric.join("a")
    fabric.join("b", info=device(cpu_millis=100))
    spread = Placement(spread=(SpreadConstraint("zone", 1),))
    assert [d.node_id for d in decide(fabric, service(replicas=4, placement=spread), 4)].count("a") == 3


def test_preferred_anti_affinity_keeps_apart_while_it_can(three):
    apart = Placement(anti_affinity=(AntiAffinity("", "node", False),), zones=("zone-a",))
    placed = [d.node_id for d in decide(three, service(replicas=4, placement=apart), 4)]
    assert sorted(placed) == ["a", "a", "b", "c"]


def test_work_is_packed_onto_a_node_that_is_in_use(three):
    three.put("db", service(cpu_millis=2000, placement=Placement(node_selector={"node": "b"})))
    three.settle()
    assert decide(three, service())[0].node_id == "b"


def test_equal_nodes_share_the_replicas_of_a_workload(three):
    assert sorted(d.node_id for d in decide(three, service(replicas=3), 3)) == ["a", "b", "c"]


def test_ties_go_to_the_first_name(three):
    assert decide(three, service())[0].node_id == "a"


@pytest.mark.parametrize("worse", [{"metered": True}, {"device_class": DeviceClass.PHONE}, {"power_source": "battery"}])
def test_the_cheaper_device_wins(three, worse):
    three.apply(c.ReportNode("a", device=dataclasses.replace(device(), **worse)))
    assert decide(three, service())[0].node_id == "b"


def test_the_preferred_place_wins(three):
    assert decide(three, service(placement=Placement(zones=("zone-c", "zone-b"))))[0].node_id == "c"


def test_the_nearer_node_wins(three):
    usage = {"a": NodeUsage(rtt_us=80_000), "b": NodeUsage(rtt_us=90_000), "c": NodeUsage(rtt_us=2_000)}
    assert decide(three, service(), usage=usage)[0].node_id == "c"


def test_the_steadier_node_wins():
    fabric = Fabric()
    fabric.join("b")
    fabric.now_ms += 3_600_000
    fabric.join("a")
    assert decide(fabric, service(), now_ms=fabric.now_ms)[0].node_id == "b"


def test_a_node_to_be_avoided_is_avoided_while_there_is_another(three):
    taint = Taint("old", "", TaintEffect.PREFER_NO_SCHEDULE)
    three.apply(c.UpdateNode("a", set_taints=(taint,)))
    assert decide(three, service())[0].node_id == "b"
    for name in "bc":
        three.apply(c.UpdateNode(name, cordoned=True))
    assert decide(three, service())[0].node_id == "a"


def test_a_node_on_which_it_just_failed_is_avoided(three):
    three.fails = lambda replica: replica.node_id == "a"
    three.put("web", service())
    three.settle()
    assert three.places("web") == ["b"]


# -- what is known of a device ----------------------------------------------------------------------------

HOUR = 3_600_000
LONG_AGO = START_MS - 10_000 * HOUR


def known(available=1000, losses=0, failed=0, *, updated=START_MS, first=LONG_AGO):
    return NodeReliability(available, losses, failed, updated, first)


def steady(record, *, presence=None, now_ms=START_MS):
    """A node that has been ready for so long that only its record counts."""
    return score.reliability(
        node(state_since_ms=START_MS - 10**15, reliability=record, presence=presence), now_ms=now_ms
    )


def test_the_record_of_a_node_counts():
    assert steady(None) == pytest.approx(1.0, abs=1e-3)
    assert steady(known()) == pytest.approx(1.0, abs=1e-2)
    assert steady(known(500)) == pytest.approx(0.5, abs=1e-2)
    assert steady(known(losses=4000)) == pytest.approx(0.5, abs=1e-2)
    assert steady(known(failed=8000)) == pytest.approx(0.5, abs=1e-2)


def test_what_was_long_ago_counts_less():
    weeks = [steady(known(losses=8000), now_ms=START_MS + week * 168 * HOUR) for week in (0, 1, 3, 100)]
    assert weeks == sorted(weeks)
    assert weeks[1] == pytest.approx(1 / 2, abs=1e-2), "of eight losses four are left after a week"
    assert weeks[-1] == pytest.approx(1.0, abs=1e-2)


def test_of_a_new_device_its_class_says_more():
    def new(kind):
        fresh = known(1000, first=START_MS)
        return score.reliability(
            node(state_since_ms=0, reliability=fresh, device=dataclasses.replace(device(), device_class=kind)),
            now_ms=START_MS,
        )

    assert new(DeviceClass.SERVER) > new(DeviceClass.DESKTOP) > new(DeviceClass.LAPTOP) > new(DeviceClass.PHONE)


def test_a_device_that_usually_leaves_soon_is_less_reliable():
    monday = 4 * 24 * HOUR + 100 * 168 * HOUR  # the first of January 1970 was a Thursday
    at_work = tuple(1000 if hour % 24 in range(8, 18) else 0 for hour in range(168))
    morning, evening = monday + 9 * HOUR, monday + 16 * HOUR
    assert steady(None, presence=NodePresence(at_work), now_ms=morning) > 0.9
    assert steady(None, presence=NodePresence(at_work), now_ms=evening) == 0.0
    unseen = tuple(-1 if hour >= 24 else permille for hour, permille in enumerate(at_work))
    tuesday = evening + 24 * HOUR
    assert steady(None, presence=NodePresence(unseen), now_ms=tuesday) == 0.0, "as on the day that was seen"
    assert steady(None, presence=NodePresence((-1,) * 168), now_ms=evening) > 0.9
    assert steady(None, presence=NodePresence((5, 6)), now_ms=evening) > 0.9


@pytest.mark.parametrize(
    ("stated", "expected"),
    [("1", 0.6), ("3", 0.3), ("0.5", 0.8), ("0", 1.0), ("999999", 0.0), ("dear", 0.6), ("-1", 0.6), ("", 0.6)],
)
def test_the_operators_weight_of_cost(stated, expected):
    info = dataclasses.replace(device(), device_class=DeviceClass.LAPTOP)
    assert score.cost(node(device=info, labels={"cloudless.dev/cost": stated}), None) == pytest.approx(
        expected, abs=1e-4
    )


def test_a_cost_that_the_device_states_itself_does_not_count():
    info = dataclasses.replace(device(), device_class=DeviceClass.LAPTOP, labels={"cloudless.dev/cost": "0"})
    assert score.cost(node(device=info), None) == pytest.approx(0.6)
