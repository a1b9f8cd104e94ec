"""Which replicas of lower priority make room, and when none do."""

import dataclasses

import pytest

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.scheduler import Weights, place
from cloudless.coordinator.core.scheduler.preemption import Preemption, room_to_come, victims
from cloudless.core.model import Feature, WorkloadRecord, WorkloadRevision
from cloudless.core.spec import ContainerPort, Metadata, Placement, Protocol, Rollout
from cloudless.testing.fabric_model import NAMESPACE, START_MS, Fabric, device, service


def prioritised(priority, *, node="", cpu_millis=1000, replicas=1, min_available=0):
    placement = Placement(node_selector={"node": node}) if node else Placement()
    spec = service(cpu_millis=cpu_millis, replicas=replicas, placement=placement)
    return dataclasses.replace(spec, priority=priority, rollout=Rollout(min_available=min_available))


def search(fabric, spec, function=victims, **more):
    record = WorkloadRecord(Metadata("web", NAMESPACE), spec, 1, history=(WorkloadRevision(1, spec),))
    return function(fabric.state, record, weights=Weights(), usage={}, now_ms=START_MS, **more)


@pytest.fixture
def full():
    """Two nodes of 2 CPUs, full: b with what is worth less."""
    fabric = Fabric()
    for name in "ab":
        fabric.join(name, info=device(cpu_millis=2000))
    for name, spec in {
        "dear": prioritised(60, node="a", replicas=2),
        "plain": prioritised(40, node="b"),
        "cheap": prioritised(10, node="b"),
    }.items():
        fabric.put(name, spec)
        fabric.settle()
    return fabric


def named(fabric, found):
    return found.node_id, [fabric.state.replicas[i].workload for i in found.replica_ids]


def test_the_lowest_priority_goes(full):
    found = search(full, prioritised(50))
    assert named(full, found) == ("b", ["cheap"])
    assert found.summary == "a replica of cheap with priority 10 stops on b for web with priority 50"
    assert found.breaks_min_available == ()


def test_as_few_as_possible_go():
    fabric = Fabric()
    fabric.join("b", info=device(cpu_millis=2000))
    fabric.put("plain", prioritised(40))
    fabric.put("cheap", prioritised(10, cpu_millis=500, replicas=2))
    fabric.settle()
    assert named(fabric, search(fabric, prioritised(50))) == ("b", ["plain"]), "one of 40 and not two of 10"


def test_two_go_where_one_is_not_enough(full):
    found = search(full, prioritised(50, cpu_millis=2000))
    assert sorted(named(full, found)[1]) == ["cheap", "plain"]


@pytest.mark.parametrize(("priority", "possible"), [(19, False), (20, True), (10, False), (0, False)])
def test_the_gap_is_kept(full, priority, possible):
    assert (search(full, prioritised(priority)) is not None) is possible


def test_nothing_goes_where_even_all_would_not_be_enough(full):
    assert search(full, prioritised(50, cpu_millis=2001)) is None
    assert search(full, prioritised(50, node="a")) is None
    full.apply(c.UpdateNode("b", cordoned=True))
    assert search(full, prioritised(50)) is None


def test_nothing_goes_while_there_is_room(full):
    full.join("c")
    assert search(full, prioritised(50)) is None


def test_a_node_where_no_minimum_is_broken_is_preferred(full):
    full.put("cheap", prioritised(10, node="b", min_available=1))
    full.settle()
    assert named(full, search(full, prioritised(50))) == ("b", ["plain"])
    found = search(full, prioritised(50, cpu_millis=2000))
    assert found.breaks_min_available == ((NAMESPACE, "cheap"),), "nothing else would do"


def test_the_youngest_of_equals_goes():
    fabric = Fabric()
    fabric.join("a", info=device(cpu_millis=2000))
    for name in ("old", "young"):
        fabric.put(name, prioritised(10))
        fabric.settle()
        fabric.now_ms += 60_000
    assert named(fabric, search(fabric, prioritised(50))) == ("a", ["young"])


def test_no_second_preemption_while_room_is_to_come(full):
    spec = prioritised(50)
    first = search(full, spec)
    assert search(full, spec, room_to_come) == ""
    assert search(full, spec, stopping=first.replica_ids) is None
    words = search(full, spec, room_to_come, stopping=first.replica_ids)
    assert words == "waits for replicas that are stopping on b"
    second = search(full, spec, stopping=first.replica_ids, ahead=1)
    assert named(full, second) == ("b", ["plain"]), "the room to come is for another one"
    (victim,) = first.replica_ids
    replica = full.state.replicas[victim]
    full.state = full.state.with_replica(dataclasses.replace(replica, stopping=True))
    assert search(full, spec) is None
    assert search(full, spec, room_to_come) == words


def test_a_host_port_is_made_free():
    fabric = Fabric()
    fabric.join("a")

    def with_port(priority):
        spec = prioritised(priority)
        port = (ContainerPort("http", 80, Protocol.TCP, 8080),)
        return dataclasses.replace(spec, containers=(dataclasses.replace(spec.containers[0], ports=port),))

    fabric.put("idle", prioritised(0))
    fabric.put("proxy", with_port(10))
    fabric.settle()
    assert named(fabric, search(fabric, with_port(50))) == ("a", ["proxy"])


def test_host_ports_of_the_own_workload_are_nobodys_loss_where_they_can_be_shared():
    fabric = Fabric()
    able = Feature("containerd.shared-host-ports", available=True)
    fabric.join("a", info=dataclasses.replace(device(cpu_millis=1000), features=(able,)))
    port = (ContainerPort("http", 80, Protocol.TCP, 8080),)
    spec = prioritised(50, cpu_millis=300, replicas=2)
    spec = dataclasses.replace(spec, containers=(dataclasses.replace(spec.containers[0], ports=port),))
    fabric.put("web", dataclasses.replace(spec, replicas=1))
    fabric.put("idle", prioritised(0, cpu_millis=600))
    fabric.settle()
    assert named(fabric, search(fabric, spec)) == ("a", ["idle"])


def test_what_is_stopped_is_enough(full):
    spec = prioritised(70, cpu_millis=1500)
    found = search(full, spec)
    assert isinstance(found, Preemption)
    state = full.state
    for replica_id in found.replica_ids:
        state = state.without_replica(replica_id)
    record = WorkloadRecord(Metadata("web", NAMESPACE), spec, 1)
    (decision,) = place(state, record, 1, weights=Weights(), usage={}, now_ms=START_MS)
    assert decision.node_id == found.node_id
    assert amounts.fragment_of(spec).cpu_millis == 1500
