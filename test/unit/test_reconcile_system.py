"""One replica on each matching node; and which workloads a change concerns."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.reconcile import dirty_keys
from cloudless.coordinator.core.views import node_reserved, workload_status, workload_view
from cloudless.core.model import NodeState, OwnerTerms, ReplicaPhase, Taint, WorkloadPhase
from cloudless.core.spec import (
    Metadata,
    Placement,
    ResourceAmounts,
    Rollout,
    RolloutStrategy,
    TaintEffect,
    WorkloadType,
)
from cloudless.testing.fabric_model import MIB, NAMESPACE, Fabric, device, service

ROLLING = RolloutStrategy.ROLLING_UPDATE


def each(**changes):
    return service(kind=WorkloadType.SYSTEM, replicas=0, **changes)


@pytest.fixture
def fabric():
    fabric = Fabric()
    for name in "abc":
        fabric.join(name)
    fabric.put("each", each())
    fabric.settle()
    assert fabric.places("each") == ["a", "b", "c"]
    return fabric


def test_a_node_that_joins_gets_one_and_one_that_is_cordoned_keeps_it(fabric):
    fabric.apply(c.UpdateNode("a", cordoned=True))
    fabric.join("d")
    fabric.settle()
    assert fabric.places("each") == ["a", "b", "c", "d"]


def test_an_owner_who_allows_other_namespaces_only_has_none_and_none_waits_for_it(fabric):
    terms = OwnerTerms(accepting=True, namespaces=("lab",))
    fabric.join("d", info=dataclasses.replace(device(), owner=terms))
    fabric.settle()
    assert fabric.places("each") == ["a", "b", "c"]
    assert len(fabric.replicas("each")) == 3
    record = fabric.state.workloads[NAMESPACE, "each"]
    assert workload_status(fabric.state, record).desired == 3


def test_it_runs_where_it_matches_only(fabric):
    fabric.apply(c.UpdateNode("a", set_labels={"disk": "ssd"}))
    fabric.put("each", each(placement=Placement(node_selector={"disk": "ssd"})))
    fabric.settle()
    assert fabric.places("each") == ["a"]
    fabric.apply(c.UpdateNode("b", set_labels={"disk": "ssd"}))
    fabric.apply(c.UpdateNode("a", remove_labels=("disk",)))
    fabric.settle()
    assert fabric.places("each") == ["b"]


@pytest.mark.parametrize(
    "command",
    [
        c.UpdateNode("a", draining=True),
        c.UpdateNode("a", set_taints=(Taint("k", "", TaintEffect.NO_EXECUTE),)),
        c.UpdateNode("a", set_taints=(Taint("k", "", TaintEffect.NO_SCHEDULE),)),
    ],
)
def test_it_leaves_a_node_that_sends_it_away(fabric, command):
    fabric.apply(command)
    fabric.settle()
    assert fabric.places("each") == ["b", "c"]
    assert all(r.node_id for r in fabric.replicas("each"))


def test_a_node_out_of_reach_is_waited_for_and_a_lost_one_given_up(fabric):
    fabric.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    fabric.advance(10**6)
    assert fabric.places("each") == ["a", "b", "c"]
    fabric.apply(c.ReportNode("a", NodeState.LOST))
    fabric.settle()
    assert fabric.places("each") == ["b", "c"]
    fabric.apply(c.ReportNode("a", NodeState.READY))
    fabric.settle()
    assert fabric.places("each") == ["a", "b", "c"]


@pytest.mark.parametrize(("rollout", "fewest"), [(Rollout(ROLLING), 2), (Rollout(ROLLING, 0, 2), 1)])
def test_an_update_goes_node_by_node(fabric, rollout, fewest):
    ready = []
    fabric.observers.append(lambda applied: ready.append(len(fabric.ready("each"))))
    twice = []
    fabric.observers.append(lambda applied: twice.append(len({r.node_id for r in fabric.replicas("each")})))
    counts = []
    fabric.observers.append(lambda applied: counts.append(len(fabric.replicas("each"))))
    fabric.put("each", each(image="web:2", rollout=rollout))
    fabric.settle()
    assert [r.generation for r in fabric.ready("each")] == [2, 2, 2]
    assert min(ready) == fewest
    assert counts == twice  # never two on one node


def test_where_there_is_no_room_it_waits():
    fabric = Fabric()
    fabric.join("a")
    fabric.join("b", info=device(cpu_millis=10))
    fabric.put("each", each())
    fabric.settle()
    (pending,) = [r for r in fabric.replicas("each") if not r.node_id]
    assert pending.status.message == "cannot run on its node: insufficient cpu on 1 node"
    entries = len(fabric.log)
    fabric.dirty.add((NAMESPACE, "each"))
    fabric.settle()
    assert len(fabric.log) == entries
    fabric.apply(c.ReportNode("b", device=device()))
    fabric.settle()
    assert fabric.places("each") == ["a", "b"]
    fabric.apply(c.ReportNode("b", device=device(cpu_millis=10)))
    fabric.settle()
    fabric.apply(c.UpdateNode("b", cordoned=True))
    fabric.settle()
    assert fabric.places("each") == ["a"]
    assert len(fabric.replicas("each")) == 1


def test_failures_back_off_on_the_same_node(fabric):
    fabric.fails = lambda replica: replica.node_id == "a" and replica.attempt < 3
    fabric.apply(c.RestartWorkload(NAMESPACE, "each"))
    fabric.settle()
    fabric.advance(60_000)
    assert fabric.places("each") == ["a", "b", "c"]
    assert {r.node_id: r.attempt for r in fabric.ready("each")} == {"a": 3, "b": 0, "c": 0}


# -- dirty ------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed():
    """each (system), web on a, far on b, and big, which waits for room."""
    fabric = Fabric()
    for name in "ab":
        fabric.join(name)
    fabric.put("each", each())
    fabric.put("web", service(placement=Placement(node_selector={"node": "a"})))
    fabric.put("far", service(placement=Placement(node_selector={"node": "b"})))
    fabric.put("big", service(cpu_millis=10**6))
    fabric.settle()
    return fabric


def test_which_workloads_a_change_concerns(mixed):
    (web,) = mixed.replicas("web")

    def dirty(*changes):
        return {name for _, name in dirty_keys(changes, mixed.state)}

    assert dirty() == set()
    assert dirty(Change("workload", "web", NAMESPACE)) == {"web"}
    assert dirty(Change("workload", "web", "elsewhere")) == set()
    assert dirty(Change("workload", "web", NAMESPACE, metadata_only=True)) == set()
    assert dirty(Change("workload", "big", NAMESPACE, metadata_only=True)) == {"big"}  # it waits for a place
    assert dirty(Change("token", "t"), Change("user", "u")) == set()
    assert dirty(Change("replica", web.id, NAMESPACE, workload="web")) == {"web"}
    assert dirty(Change("replica", "gone", NAMESPACE, deleted=True, workload="web")) == {"web", "big"}
    assert dirty(Change("node", "a")) == {"web", "each", "big"}
    assert dirty(Change("node", "new")) == {"each", "big"}


def test_other_labels_are_no_reason_to_plan(mixed):
    spec = mixed.state.workloads[NAMESPACE, "web"].spec
    mixed.apply(c.PutWorkload(Metadata("web", NAMESPACE, labels={"team": "b"}), spec))
    assert mixed.dirty == set()
    mixed.apply(c.PutWorkload(Metadata("web", NAMESPACE, labels={"team": "b"}), dataclasses.replace(spec, priority=9)))
    assert mixed.dirty == {(NAMESPACE, "web")}


# -- views ------------------------------------------------------------------------------------------------


def status(fabric, name):
    return workload_status(fabric.state, fabric.state.workloads[NAMESPACE, name])


def test_the_status_of_a_workload(mixed):
    assert status(mixed, "web").phase is WorkloadPhase.AVAILABLE
    big = status(mixed, "big")
    assert (big.phase, big.desired, big.pending) == (WorkloadPhase.PENDING, 1, 1)
    assert big.message == "1 pending: no node fits: insufficient cpu on 2 nodes"
    every = status(mixed, "each")
    assert (every.phase, every.desired, every.ready, every.updated) == (WorkloadPhase.AVAILABLE, 2, 2, 2)
    mixed.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    web = status(mixed, "web")
    assert (web.ready, web.running, web.message) == (0, 1, "1 out of reach on a")
    assert status(mixed, "each").phase is WorkloadPhase.DEGRADED
    mixed.apply(c.DeleteWorkload(NAMESPACE, "web"))
    assert status(mixed, "web").phase is WorkloadPhase.TERMINATING


def test_a_rollout_is_progress_and_a_failure_is_named():
    fabric = Fabric()
    fabric.join("a")
    fabric.put("web", service(replicas=2))
    assert status(fabric, "web").phase is WorkloadPhase.PROGRESSING
    fabric.reconcile_dirty()
    assert status(fabric, "web").phase is WorkloadPhase.PROGRESSING
    fabric.settle()
    fabric.apply(c.RestartWorkload(NAMESPACE, "web"))
    view = workload_view(fabric.state, fabric.state.workloads[NAMESPACE, "web"])
    assert (view.status.phase, view.status.updated, view.status.ready) == (WorkloadPhase.PROGRESSING, 0, 2)
    fabric.settle()
    replicas = fabric.replicas("web")
    failed = dataclasses.replace(replicas[0].status, phase=ReplicaPhase.FAILED, reason="ImageMissing")
    fabric.apply(c.ReportReplicas("a", tuple(c.ReportedReplica(r.id, failed) for r in replicas)))
    assert status(fabric, "web").phase is WorkloadPhase.FAILED
    assert status(fabric, "web").message == "2 failed: ImageMissing"


def test_what_is_reserved_of_a_node(mixed):
    assert node_reserved(mixed.state, "a") == ResourceAmounts(200, 128 * MIB)
    assert node_reserved(mixed.state, "nobody") == ResourceAmounts()
