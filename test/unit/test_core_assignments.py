"""Which nodes a change concerns."""

import dataclasses

import pytest

from cloudless.coordinator.core.assignments import nodes_to_tell
from cloudless.coordinator.core.outcome import Change
from cloudless.core.model import ReplicaPhase
from cloudless.testing.fabric_model import NAMESPACE, Fabric, service


@pytest.fixture
def state():
    fabric = Fabric()
    for name in ("n1", "n2"):
        fabric.join(name)
    fabric.put("web", service(replicas=2))
    fabric.settle()
    return fabric.state


def changed(state, **changes):
    """The state with one replica altered, the change, and the replica as it was."""
    before = next(replica for _, replica in sorted(state.replicas.items()))
    after = dataclasses.replace(before, **changes)
    return state.with_replica(after), (Change("replica", before.id, NAMESPACE, workload="web"),), before


def test_a_report_concerns_no_node(state):
    status = next(iter(state.replicas.values())).status
    after, changes, _ = changed(state, status=dataclasses.replace(status, phase=ReplicaPhase.FAILED), revision=99)
    assert nodes_to_tell(state, after, changes) == ()


@pytest.mark.parametrize("what", [{"stopping": True}, {"stop_reason": "x"}, {"generation": 2}])
def test_what_the_node_is_told_concerns_it(state, what):
    after, changes, before = changed(state, **what)
    assert nodes_to_tell(state, after, changes) == (before.node_id,)


def test_a_replica_that_comes_or_goes_concerns_its_node(state):
    gone = next(replica for _, replica in sorted(state.replicas.items()))
    after = state.without_replica(gone.id)
    change = (Change("replica", gone.id, NAMESPACE, deleted=True, workload="web"),)
    assert nodes_to_tell(state, after, change) == (gone.node_id,)
    assert nodes_to_tell(after, state, change) == (gone.node_id,)


def test_a_pending_replica_concerns_nobody(state):
    fabric = Fabric()
    fabric.put("web", service(replicas=1))
    before = fabric.state
    fabric.settle()
    changes = tuple(Change("replica", r, NAMESPACE, workload="web") for r in fabric.state.replicas)
    assert changes
    assert nodes_to_tell(before, fabric.state, changes) == ()


def test_a_workload_concerns_the_nodes_of_its_replicas(state):
    nodes = tuple(sorted({replica.node_id for replica in state.replicas.values()}))
    assert nodes_to_tell(state, state, (Change("workload", "web", NAMESPACE),)) == nodes
    assert nodes_to_tell(state, state, (Change("node", "n1"), Change("user", "web"))) == ()
