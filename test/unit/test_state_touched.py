"""What a state says of what changed since an earlier one."""

from cloudless.coordinator.core import state as states
from cloudless.coordinator.core.building import StateBuilder
from cloudless.coordinator.core.scheduler.table import nodes_of
from cloudless.coordinator.core.state import State, touched_since
from cloudless.core.model import Node, Replica, ReplicaPhase, ReplicaStatus, WorkloadRecord
from cloudless.core.replacing import replace
from cloudless.core.spec import Metadata, ResourceAmounts


def test_each_change_of_a_node_or_its_replicas_is_told():
    start = StateBuilder().finish("t")
    state = start.with_node(Node("a")).with_node(Node("b"))
    assert touched_since(state.touched_nodes, start.touched_nodes) == ["b", "a"]
    before = state
    replica = Replica("r", "w", "default", 1, "a", fragment=ResourceAmounts(1))
    state = state.with_replica(replica)
    state = state.with_replica(replace(replica, status=ReplicaStatus(ReplicaPhase.READY)))
    assert touched_since(state.touched_nodes, before.touched_nodes) == ["a"], "a phase changes nothing of the node"
    lost = replace(replica, status=ReplicaStatus(ReplicaPhase.LOST))
    assert set(touched_since(state.with_replica(lost).touched_nodes, state.touched_nodes)) == {"a"}
    moved = replace(replica, node_id="b")
    assert set(touched_since(state.with_replica(moved).touched_nodes, state.touched_nodes)) == {"a", "b"}
    assert touched_since(state.without_replica("r").touched_nodes, state.touched_nodes) == ["a"]
    assert touched_since(state.without_node("b").touched_nodes, state.touched_nodes) == ["b"]


def test_workloads_are_told_apart_from_nodes():
    start = StateBuilder().finish("t")
    state = start.with_workload(WorkloadRecord(Metadata("w", "default")))
    assert touched_since(state.touched_workloads, start.touched_workloads) == [("default", "w")]
    assert state.touched_nodes is start.touched_nodes
    gone = state.without_workload("default", "w")
    assert touched_since(gone.touched_workloads, state.touched_workloads) == [("default", "w")]


def test_what_is_not_an_earlier_state_of_it_is_unknown():
    one, other = StateBuilder().finish("t"), StateBuilder().finish("t")
    assert touched_since(one.with_node(Node("a")).touched_nodes, other.touched_nodes) is None
    assert touched_since(State.empty("t").with_node(Node("a")).touched_nodes, None) is None
    newer = one.with_node(Node("a"))
    assert touched_since(one.touched_nodes, newer.touched_nodes) is None


def test_a_chain_that_began_anew_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(states, "_LINKS_MAX", 5)
    state = StateBuilder().finish("t")
    start = state
    for number in range(23):
        state = state.with_node(Node(f"n{number:02}"))
        if number % 7 == 0:
            assert nodes_of(state).ids == sorted(state.nodes)
    assert touched_since(state.touched_nodes, start.touched_nodes) is None
    assert nodes_of(state).ids == sorted(state.nodes)
    assert nodes_of(start).ids == []
