"""Affinity, anti-affinity both ways, required spread, owners and pressure: who is kept where, in which words."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.scheduler import Weights, place
from cloudless.coordinator.core.scheduler.kinds import eligible_nodes
from cloudless.core.model import FilterRejection, NodeUsage, OwnerTerms, WorkloadRecord
from cloudless.core.spec import Affinity, AntiAffinity, Metadata, Placement, SpreadConstraint
from cloudless.testing.fabric_model import NAMESPACE, START_MS, Fabric, device, service


def decide(fabric, placement, count=1, *, name="web", labels=None, usage=None, namespace=NAMESPACE):
    spec = service(replicas=count, placement=placement)
    record = WorkloadRecord(Metadata(name, namespace, labels or {}), spec, 1)
    return place(fabric.state, record, count, weights=Weights(), usage=usage or {}, now_ms=START_MS)


def nodes_of(decisions):
    return [decision.node_id for decision in decisions]


@pytest.fixture
def four():
    """Two zones of two nodes each; db runs on c, in z2."""
    fabric = Fabric()
    for name, zone in (("a", "z1"), ("b", "z1"), ("c", "z2"), ("d", "z2")):
        fabric.join(name, zone=zone)
    run(fabric, "db", "c", labels={"app": "db", "tier": "data"})
    return fabric


def run(fabric, name, node, *, labels=None, **placement):
    spec = service(placement=Placement(node_selector={"node": node}, **placement))
    assert fabric.apply(c.PutWorkload(Metadata(name, NAMESPACE, labels or {}), spec)).result.accepted
    fabric.settle()
    assert fabric.places(name) == [node]


# -- affinity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [Affinity("db"), Affinity(match_labels={"app": "db"})])
@pytest.mark.parametrize(("key", "places"), [("node", {"c"}), ("zone", {"c", "d"}), ("region", set("abcd"))])
def test_required_affinity_keeps_near(four, who, key, places):
    term = dataclasses.replace(who, topology_key=key, required=True)
    (decision,) = decide(four, Placement(affinity=(term,)))
    rejected = {node_id for r in decision.rejections for node_id in r.node_ids}
    assert decision.node_id in places
    assert rejected == set("abcd") - places
    assert all(r.filter == "affinity" for r in decision.rejections)


def test_affinity_to_what_is_nowhere_says_so(four):
    (decision,) = decide(four, Placement(affinity=(Affinity("cache", topology_key="zone", required=True),)))
    assert decision.rejections == (
        FilterRejection("affinity", "affinity: cache is not in the same zone", ("a", "b", "c", "d"), 4),
    )
    assert decision.summary == "no node fits: affinity: 4"
    labelled = Affinity(match_labels={"tier": "data", "app": "web"}, topology_key="zone", required=True)
    (decision,) = decide(four, Placement(affinity=(labelled,)))
    assert decision.rejections[0].reason == "affinity: a workload with app=web,tier=data is not in the same zone"


def test_affinity_to_itself_lets_the_first_one_choose(four):
    together = Placement(affinity=(Affinity(topology_key="zone", required=True),), zones=("z2",))
    chosen = nodes_of(decide(four, together, 4))
    assert set(chosen) == {"c", "d"}


def test_a_stopping_neighbour_is_none_to_be_near_to(four):
    (replica,) = four.replicas("db")
    four.state = four.state.with_replica(dataclasses.replace(replica, stopping=True))
    (decision,) = decide(four, Placement(affinity=(Affinity("db", topology_key="zone", required=True),)))
    assert decision.node_id == ""
    apart = Placement(anti_affinity=(AntiAffinity("db", "zone", True),))
    assert nodes_of(decide(four, apart)) == ["a"], "but it is there until it is gone"


def test_labels_of_other_namespaces_do_not_count(four):
    term = Affinity(match_labels={"app": "db"}, topology_key="node", required=True)
    assert nodes_of(decide(four, Placement(affinity=(term,)), namespace="other")) == [""]


def test_preferred_affinity_outweighs_the_score_and_less_of_it_does_not(four):
    usage = {"c": NodeUsage(metered=True, rtt_us=100_000), "d": NodeUsage(metered=True, rtt_us=100_000)}

    def chosen(weight):
        term = Affinity("db", topology_key="zone", weight=weight)
        return nodes_of(decide(four, Placement(affinity=(term,)), usage=usage))[0]

    assert chosen(100) == chosen(0) == "c", "not stated is 100"
    assert chosen(1) == "a"


# -- anti-affinity ----------------------------------------------------------------------------------------


def test_anti_affinity_by_labels(four):
    term = AntiAffinity(topology_key="zone", required=True, match_labels={"app": "db"})
    (decision,) = decide(four, Placement(anti_affinity=(term,)))
    assert decision.node_id == "a"
    assert decision.rejections == (
        FilterRejection("anti_affinity", "anti-affinity: a workload with app=db is in the same zone", ("c", "d"), 2),
    )


@pytest.mark.parametrize("by_labels", [False, True])
def test_who_required_to_be_apart_keeps_others_away(four, by_labels):
    who = {"match_labels": {"app": "web"}} if by_labels else {"workload": "web"}
    run(four, "shy", "a", anti_affinity=(AntiAffinity(topology_key="zone", required=True, **who),))
    (decision,) = decide(four, Placement(), labels={"app": "web"})
    assert decision.node_id in {"c", "d"}
    assert decision.rejections == (
        FilterRejection("anti_affinity", "anti-affinity: shy keeps others out of the same zone", ("a", "b"), 2),
    )
    assert decide(four, Placement(), name="other")[0].rejections == ()
    four.apply(c.DeleteWorkload(NAMESPACE, "shy"))
    four.settle()
    assert decide(four, Placement(), labels={"app": "web"})[0].rejections == ()


def test_a_wish_to_be_apart_keeps_nobody_away(four):
    run(four, "shy", "a", anti_affinity=(AntiAffinity("web", "zone", False),))
    assert decide(four, Placement())[0].rejections == ()


# -- spread -----------------------------------------------------------------------------------------------


def test_a_required_spread_leaves_pending_what_would_break_it():
    fabric = Fabric()
    fabric.join("a", zone="z1")
    fabric.join("b", zone="z2", info=device(cpu_millis=100))
    spread = Placement(spread=(SpreadConstraint("zone", 1, required=True),))
    decisions = decide(fabric, spread, 4)
    assert sorted(nodes_of(decisions)) == ["", "a", "a", "b"]
    assert [(r.filter, r.reason, r.node_ids) for r in decisions[-1].rejections] == [
        ("cpu", "insufficient cpu: asks 100m, free 0", ("b",)),
        ("spread", "spread: one more here would exceed a skew of 1 over zone", ("a",)),
    ]


# -- owners and pressure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (None, None),
        (OwnerTerms(accepting=True), None),
        (OwnerTerms(accepting=True, namespaces=("default",)), None),
        (
            OwnerTerms(accepting=False, not_accepting_reason="OutsideHours"),
            "its owner admits no work now: OutsideHours",
        ),
        (OwnerTerms(), "its owner admits no work now: NotAccepting"),
        (OwnerTerms(accepting=True, namespaces=("home", "lab")), "its owner admits only the namespaces home, lab"),
    ],
)
def test_the_owner_decides(terms, reason):
    fabric = Fabric()
    fabric.join("a", info=dataclasses.replace(device(), owner=terms))
    (decision,) = decide(fabric, Placement())
    assert [(r.filter, r.reason) for r in decision.rejections] == ([] if reason is None else [("owner", reason)])
    assert eligible_nodes(fabric.state, service(), namespace=NAMESPACE) == ([] if reason else ["a"])


def test_a_node_under_pressure_takes_nothing_new(four):
    (decision,) = decide(four, Placement(zones=("z2",)), usage={"c": NodeUsage(pressure=("memory", "disk"))})
    assert decision.node_id == "d"
    assert decision.rejections == (FilterRejection("pressure", "under pressure: memory, disk", ("c",), 1),)
