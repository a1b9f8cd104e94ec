"""Plans become fact as far as they still fit; reports move replicas along their lifecycle."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import lifecycle
from cloudless.coordinator.core.assignments import assignments_for
from cloudless.core.model import (
    ContainerStatus,
    Feature,
    NodeState,
    PlacementDecision,
    ReplicaPhase,
    ReplicaStatus,
)
from cloudless.core.spec import ContainerPort, Protocol, ResourceAmounts, Rollout
from cloudless.testing.fabric_model import MIB, NAMESPACE, Fabric, device, service

P = ReplicaPhase


@pytest.fixture
def fabric():
    """Nodes a and b with room for two replicas each, and a workload of one CPU per replica."""
    fabric = Fabric()
    for name in "ab":
        fabric.join(name, info=device(cpu_millis=2000))
    fabric.put("web", service(replicas=3, cpu_millis=1000))
    return fabric


def planned(replica_id, node_id="", *, generation=1, summary=""):
    summary = summary or (f"placed on {node_id}" if node_id else "no node fits")
    return c.PlannedReplica(replica_id, generation, PlacementDecision(node_id=node_id, summary=summary))


def plan(*replicas, stops=(), lost=(), at=0, workload="web"):
    return c.ApplyPlan(NAMESPACE, workload, at, replicas, tuple(c.PlannedStop(s, "Surplus") for s in stops), lost)


def report(fabric, node, replica, phase=None, *, gone=False, **status):
    return fabric.apply(
        c.ReportReplicas(node, (c.ReportedReplica(replica, ReplicaStatus(phase=phase, **status), gone),)),
        actor=f"node/{node}",
    )


def test_a_placement_reserves_its_fragment(fabric):
    fabric.now_ms += 5
    applied = fabric.apply(plan(planned("web-1", "a")))
    replica = fabric.state.replicas["web-1"]
    assert (replica.node_id, replica.status.phase, replica.generation) == ("a", P.ASSIGNED, 1)
    assert (replica.created_at_ms, replica.assigned_at_ms, replica.phase_since_ms) == (fabric.now_ms,) * 3
    assert replica.fragment == fabric.state.reserved["a"] == ResourceAmounts(1000, 64 * MIB)
    assert [(e.type, e.description) for e in applied.events] == [("scheduling.decision", "placed on a")]


@pytest.mark.parametrize(
    ("prepare", "filter_name"),
    [
        (c.UpdateNode("a", cordoned=True), "cordoned"),
        (c.UpdateNode("a", draining=True), "cordoned"),
        (c.ReportNode("a", NodeState.UNREACHABLE), "ready"),
        (c.RemoveNode("a"), "ready"),
        (c.ReportNode("a", device=device(cpu_millis=999)), "cpu"),
        (c.ReportNode("a", device=device(memory_bytes=63 * MIB)), "memory"),
    ],
)
def test_what_no_longer_fits_stays_pending_with_the_reason(fabric, prepare, filter_name):
    assert fabric.apply(prepare).result.accepted
    applied = fabric.apply(plan(planned("web-1", "a"), planned("web-2", "b")))
    assert applied.result.accepted
    replica = fabric.state.replicas["web-1"]
    assert (replica.node_id, replica.status.phase) == ("", P.PENDING)
    assert [(r.filter, r.node_ids) for r in replica.placement.rejections] == [(filter_name, ("a",))]
    assert "a was taken meanwhile" in replica.status.message
    assert fabric.state.replicas["web-2"].node_id == "b"
    assert [e.type for e in applied.events] == ["scheduling.placement_failed", "scheduling.decision"]


def test_two_plans_made_at_once_never_share_a_resource(fabric):
    fabric.apply(plan(planned("web-1", "a")))
    fabric.put("other", service(replicas=3, cpu_millis=1000))
    fabric.apply(plan(planned("other-1", "a"), planned("other-2", "a"), workload="other"))
    assert fabric.state.replicas["other-1"].node_id == "a"
    assert fabric.state.replicas["other-2"].node_id == ""
    assert fabric.state.replicas["other-2"].placement.rejections[0].reason == "insufficient cpu"


def test_a_host_port_is_given_once_and_until_its_holder_is_gone(fabric):
    spec = service(replicas=2)
    port = ContainerPort("http", 80, Protocol.TCP, 8080)
    fabric.put("p", dataclasses.replace(spec, containers=(dataclasses.replace(spec.containers[0], ports=(port,)),)))
    fabric.apply(plan(planned("p-1", "a"), planned("p-2", "a"), workload="p"))
    assert fabric.state.replicas["p-2"].placement.rejections[0].reason == "host port 8080/TCP is taken"
    fabric.apply(plan(planned("p-2", "a"), stops=("p-1",), workload="p"))
    assert fabric.state.replicas["p-2"].node_id == ""
    report(fabric, "a", "p-1", gone=True)
    fabric.apply(plan(planned("p-2", "a"), workload="p"))
    assert fabric.state.replicas["p-2"].node_id == "a"


def with_port(*, process=(), replicas=2):
    spec = service(replicas=replicas)
    container = dataclasses.replace(spec.containers[0], ports=(ContainerPort("http", 80, Protocol.TCP, 8080),))
    if process:
        container = dataclasses.replace(container, image="", process=process)
    return dataclasses.replace(spec, containers=(container,))


def sharing(*replicas):
    return [dataclasses.replace(replica, shares_host_ports=True) for replica in replicas]


def places(fabric, workload, **rest):
    """Which of two replicas of a plan for node a get there."""
    names = [f"{workload}-1", f"{workload}-2"]
    both = [planned(name, "a", **rest) for name in names]
    fabric.apply(plan(*sharing(*both), workload=workload))
    return [name for name in names if fabric.state.replicas[name].node_id]


ABLE = Feature("containerd.shared-host-ports", available=True)


@pytest.mark.parametrize(
    ("feature", "spec", "placed"),
    [
        (ABLE, with_port(), ["p-1", "p-2"]),
        (dataclasses.replace(ABLE, available=False), with_port(), ["p-1"]),
        (Feature("containerd.other", available=True), with_port(), ["p-1"]),
        (ABLE, with_port(process=("/bin/serve",)), ["p-1"]),
    ],
    ids=["able", "not able", "of something else", "processes"],
)
def test_replicas_of_one_workload_share_a_host_port_where_entry_and_node_say_so(feature, spec, placed):
    fabric = Fabric()
    fabric.join("a", info=dataclasses.replace(device(), features=(feature,)))
    fabric.put("p", spec)
    assert places(fabric, "p") == placed


def test_replicas_of_two_workloads_or_of_older_entries_never_share_a_host_port():
    fabric = Fabric()
    fabric.join("a", info=dataclasses.replace(device(), features=(ABLE,)))
    for name in ("p", "q"):
        fabric.put(name, with_port())
    entry = plan(planned("p-1", "a"), planned("p-2", "a"), workload="p")
    assert c.schema_of(entry) == 1
    assert c.schema_of(dataclasses.replace(entry, replicas=tuple(sharing(*entry.replicas)))) == 3
    fabric.apply(entry)
    assert [fabric.state.replicas[f"p-{n}"].node_id for n in (1, 2)] == ["a", ""]
    assert places(fabric, "q") == []
    assert fabric.state.replicas["q-1"].placement.rejections[0].reason == "host port 8080/TCP is taken"
    assert fabric.state.host_ports_on("a", sharing=(NAMESPACE, "q")) == {(8080, "TCP")}
    assert fabric.state.host_ports_on("a", sharing=(NAMESPACE, "p")) == set()


def test_a_plan_for_another_generation_places_nothing(fabric):
    applied = fabric.apply(plan(planned("web-1", "a", generation=2)))
    assert (applied.result.changed, applied.changes) == ("unchanged", ())


def test_a_plan_never_takes_over_another_replica(fabric):
    fabric.put("other", service())
    fabric.apply(plan(planned("other-1"), workload="other"))
    fabric.apply(plan(planned("web-1", "a")))
    for bad in ("other-1", "web-1", "Not A Label", ""):
        assert fabric.apply(plan(planned(bad, "b"))).result.changed == "unchanged"
    assert fabric.apply(plan(stops=("other-1", "nobody"))).result.changed == "unchanged"
    assert fabric.apply(plan(lost=("other-1", "nobody"))).result.changed == "unchanged"


def test_a_plan_for_no_workload_is_refused(fabric):
    assert fabric.apply(plan(planned("x-1", "a"), workload="x")).result.code == "not_found"


def test_a_pending_replica_changes_only_when_the_reason_does(fabric):
    fabric.apply(plan(planned("web-1", summary="no node fits: insufficient cpu on 2 nodes")))
    revision = fabric.state.replicas["web-1"].revision
    same = fabric.apply(plan(planned("web-1", summary="no node fits: insufficient cpu on 2 nodes")))
    assert (same.result.changed, same.events) == ("unchanged", ())
    assert fabric.state.replicas["web-1"].revision == revision
    other = fabric.apply(plan(planned("web-1", summary="no node fits: cordoned or draining: 2")))
    assert [e.type for e in other.events] == ["scheduling.placement_failed"]
    fabric.apply(plan(planned("web-1", "a")))
    assert fabric.state.replicas["web-1"].node_id == "a"


def test_a_stopped_replica_holds_its_fragment_until_it_is_gone(fabric):
    fabric.apply(plan(planned("web-1", "a"), planned("web-2")))
    fabric.apply(plan(stops=("web-1", "web-2")))
    assert "web-2" not in fabric.state.replicas  # it was nowhere
    assert fabric.state.replicas["web-1"].stopping
    assert fabric.state.reserved["a"].cpu_millis == 1000
    (assignment,) = assignments_for(fabric.state, "a")
    assert (assignment.replica_id, assignment.stopping, assignment.stop_reason) == ("web-1", True, "Surplus")
    report(fabric, "a", "web-1", gone=True)
    assert "a" not in fabric.state.reserved
    assert assignments_for(fabric.state, "a") == ()


def test_an_available_replica_is_not_stopped_on_an_outdated_view(fabric):
    fabric.apply(plan(planned("web-1", "a"), planned("web-2", "b")))
    for node, replica in (("a", "web-1"), ("b", "web-2")):
        report(fabric, node, replica, P.READY)
    seen = len(fabric.log)
    report(fabric, "a", "web-1", P.RUNNING)
    assert fabric.apply(plan(stops=("web-2",), at=seen)).result.changed == "unchanged"
    assert fabric.apply(plan(stops=("web-1",), at=seen)).result.changed == "updated"  # serves nobody
    assert fabric.apply(plan(stops=("web-2",), at=len(fabric.log))).result.changed == "updated"


def test_a_node_that_went_away_after_the_plan_counts_as_well(fabric):
    fabric.apply(plan(planned("web-1", "a"), planned("web-2", "b")))
    for node, replica in (("a", "web-1"), ("b", "web-2")):
        report(fabric, node, replica, P.READY)
    seen = len(fabric.log)
    fabric.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    assert fabric.apply(plan(stops=("web-2",), at=seen)).result.changed == "unchanged"


def test_what_made_room_for_others_after_the_plan_counts_as_well(fabric):
    """Two plans of the same moment: one takes a replica of the workload, the other was drawn up with it."""
    fabric.put("urgent", dataclasses.replace(service(), priority=90))
    fabric.apply(plan(planned("web-1", "a"), planned("web-2", "b")))
    for node, replica in (("a", "web-1"), ("b", "web-2")):
        report(fabric, node, replica, P.READY)
    seen = len(fabric.log)
    room = dataclasses.replace(plan(at=seen, workload="urgent"), preemptions=(c.PlannedStop("web-1", "Preempted"),))
    fabric.apply(room)
    assert fabric.state.replicas["web-1"].stop_reason == "Preempted"
    assert fabric.apply(plan(stops=("web-2",), at=seen)).result.changed == "unchanged"
    assert fabric.apply(plan(stops=("web-2",), at=len(fabric.log))).result.changed == "updated"


def test_what_a_workload_stopped_itself_counts_for_those_who_want_its_room(fabric):
    fabric.put("urgent", dataclasses.replace(service(), priority=90))
    fabric.apply(plan(planned("web-1", "a"), planned("web-2", "b")))
    for node, replica in (("a", "web-1"), ("b", "web-2")):
        report(fabric, node, replica, P.READY)
    seen = len(fabric.log)
    fabric.apply(plan(stops=("web-2",), at=seen))
    room = dataclasses.replace(plan(at=seen, workload="urgent"), preemptions=(c.PlannedStop("web-1", "Preempted"),))
    assert fabric.apply(room).result.changed == "unchanged"
    assert not fabric.state.replicas["web-1"].stopping
    fabric.apply(dataclasses.replace(room, planned_at_index=len(fabric.log)))
    assert fabric.state.replicas["web-1"].stopping


# -- giving up --------------------------------------------------------------------------------------------


def test_a_lost_replica_frees_its_fragment_and_is_stopped_if_its_node_returns(fabric):
    fabric.apply(plan(planned("web-1", "a")))
    report(fabric, "a", "web-1", P.READY)
    assert fabric.apply(plan(lost=("web-1",))).result.changed == "unchanged"  # the node is within reach
    fabric.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    fabric.apply(c.ReportNode("a", NodeState.LOST))
    applied = fabric.apply(plan(lost=("web-1",)))
    replica = fabric.state.replicas["web-1"]
    assert (replica.status.phase, replica.stopping, replica.fragment) == (P.LOST, True, ResourceAmounts())
    assert [e.type for e in applied.events] == ["replica.lost"]
    assert fabric.apply(plan(lost=("web-1",))).result.changed == "unchanged"
    fabric.apply(c.ReportNode("a", NodeState.READY))
    assert assignments_for(fabric.state, "a")[0].stopping
    ignored = report(fabric, "a", "web-1", P.READY)
    assert "cannot go from Lost to Ready" in ignored.result.message
    report(fabric, "a", "web-1", gone=True)
    assert "web-1" not in fabric.state.replicas


def test_deletion_does_not_wait_for_lost_nodes(fabric):
    fabric.apply(plan(planned("web-1", "a"), planned("web-2", "b")))
    fabric.apply(c.ReportNode("a", NodeState.LOST))
    fabric.apply(plan(lost=("web-1",)))
    fabric.apply(c.ReportNode("b", NodeState.LOST))
    fabric.apply(c.DeleteWorkload(NAMESPACE, "web"))
    assert [r.id for r in fabric.replicas("web")] == ["web-2"]
    applied = fabric.apply(plan(lost=("web-2",)))
    assert "workload.deleted" in [e.type for e in applied.events]
    assert (NAMESPACE, "web") not in fabric.state.workloads


# -- reports ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [p for p in P if p not in (P.PENDING, P.LOST)])
@pytest.mark.parametrize("after", list(P))
def test_reports_follow_the_lifecycle(fabric, before, after):
    fabric.apply(plan(planned("web-1", "a")))
    if before is not P.ASSIGNED:
        report(fabric, "a", "web-1", before)
    fabric.now_ms += 7
    applied = report(fabric, "a", "web-1", after, message="new")
    replica = fabric.state.replicas["web-1"]
    assert applied.result.accepted
    if lifecycle.replica_may(before, after):
        assert (replica.status.phase, replica.status.message) == (after, "new")
        assert (replica.phase_since_ms == fabric.now_ms) is (before is not after)
    else:
        assert replica.status.phase is before
        assert f"cannot go from {before} to {after}" in applied.result.message
        assert applied.changes == ()


def test_reports_of_others_and_of_nothing_are_ignored(fabric):
    fabric.apply(plan(planned("web-1", "a"), planned("web-2")))
    for node, replica, why in (
        ("b", "web-1", "belongs to node a"),
        ("a", "web-2", "belongs to node (none)"),
        ("a", "web-9", "not known"),
        ("a", "web-1", "without a phase"),
    ):
        applied = report(fabric, node, replica)
        assert why in applied.result.message
        assert (applied.result.changed, applied.changes) == ("unchanged", ())
    assert "still assigned" in report(fabric, "a", "web-1", gone=True).result.message
    assert report(fabric, "x", "web-1").result.code == "not_found"


def test_a_repeated_report_changes_nothing(fabric):
    fabric.apply(plan(planned("web-1", "a")))
    report(fabric, "a", "web-1", P.READY)
    assert report(fabric, "a", "web-1", P.READY).changes == ()


def test_restarts_and_readiness_are_told(fabric):
    fabric.apply(plan(planned("web-1", "a")))
    told = []
    for phase, restarts in ((P.STARTING, 0), (P.READY, 0), (P.RUNNING, 0), (P.STARTING, 1), (P.FAILED, 1)):
        container = ContainerStatus("main", last_reason="OOMKilled", restart_count=restarts)
        applied = report(fabric, "a", "web-1", phase, restart_count=restarts, containers=(container,), reason="Error")
        told += [e.type for e in applied.events]
    assert told == ["replica.ready", "replica.unready", "replica.restarted", "replica.failed"]


def test_the_end_of_a_drain_is_told(fabric):
    fabric.apply(plan(planned("web-1", "a")))
    fabric.apply(c.UpdateNode("a", draining=True))
    fabric.apply(plan(stops=("web-1",)))
    applied = report(fabric, "a", "web-1", gone=True)
    assert [e.type for e in applied.events] == ["replica.stopped", "node.drained"]


# -- assignments ------------------------------------------------------------------------------------------


def test_assignments_carry_the_spec_of_the_replicas_generation(fabric):
    fabric.apply(plan(planned("web-2", "a"), planned("web-1", "a")))
    fabric.put("web", service(replicas=3, cpu_millis=1000, image="web:2"))
    fabric.put("web", service(replicas=1, cpu_millis=1000, image="web:2"))
    first, second = assignments_for(fabric.state, "a")
    assert (first.replica_id, second.replica_id, first.generation) == ("web-1", "web-2", 1)
    assert first.spec.containers[0].image == "web:1"
    assert (first.spec.replicas, first.spec.rollout) == (0, Rollout())


def test_scaling_changes_no_assignment(fabric):
    fabric.apply(plan(planned("web-1", "a")))
    before = assignments_for(fabric.state, "a")
    fabric.apply(c.ScaleWorkload(NAMESPACE, "web", 7))
    assert assignments_for(fabric.state, "a") == before
