"""Whatever the cluster: a preemption frees enough, spares what it need not end and never touches an equal priority;
work is packed, unless it is to be spread, which it then is."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.priority import PRIORITY_GAP
from cloudless.coordinator.core.scheduler import Weights, place
from cloudless.coordinator.core.scheduler.preemption import room_to_come, victims
from cloudless.coordinator.core.scheduler.remedies import would_fit_if
from cloudless.core.model import Node, NodeState, Replica, ReplicaPhase, ReplicaStatus, WorkloadRecord, WorkloadRevision
from cloudless.core.replacing import replace
from cloudless.core.spec import Metadata, Placement, Rollout, SpreadConstraint
from cloudless.testing.fabric_model import device, service
from cloudless.testing.random_clusters import NAMES, NOW_MS, cluster

SEEDS = st.integers(0, 2**32)
COMMON = {"weights": Weights(), "usage": {}, "now_ms": NOW_MS}


def priority(state, replica):
    return state.workloads[(replica.namespace, replica.workload)].spec.priority


def fits(state, record):
    (decision,) = place(state, record, 1, **COMMON)
    return decision.node_id


def without(state, replica_ids):
    for replica_id in replica_ids:
        state = state.without_replica(replica_id)
    return state


def crowded(rng):
    """A few nodes of 4 CPUs, full of workloads of all priorities, some of whose replicas are stopping already."""
    state = cluster(random.Random(0), nodes_max=0)
    for number in range(rng.randrange(1, 4)):
        state = state.with_node(Node(f"n{number}", state=NodeState.READY, device=device()))
    for number in range(rng.randrange(1, 20)):
        spec = service(cpu_millis=rng.choice([300, 500, 1000, 2000]), rollout=Rollout(min_available=rng.randrange(2)))
        spec = replace(spec, priority=rng.choice([0, 10, 40, 45, 60]))
        record = WorkloadRecord(Metadata(f"w{number}", "default"), spec, 1, history=(WorkloadRevision(1, spec),))
        state = state.with_workload(record)
        for index in range(rng.randrange(1, 4)):
            node_id = fits(state, record)
            if node_id:
                replica_id = f"w{number}-{index}"
                state = assigned(state, record, node_id, replica_id)
                if rng.random() < 0.1:
                    state = state.with_replica(replace(state.replicas[replica_id], stopping=True))
    return state


@settings(deadline=None, max_examples=120)
@given(SEEDS)
def test_a_preemption_is_enough_necessary_and_only_of_lower_priority(seed):
    rng = random.Random(seed)
    state = crowded(rng)
    spec = replace(service(cpu_millis=rng.choice([500, 1500, 3000, 4000])), priority=rng.choice([20, 50, 70]))
    record = WorkloadRecord(Metadata("web", "default"), spec, 1)
    found = victims(state, record, **COMMON)
    stopping = [replica.id for replica in state.replicas.values() if replica.stopping]
    if fits(without(state, stopping), record):
        assert found is None, "there is room, or will be"
        return
    lower = [r.id for r in state.replicas.values() if priority(state, r) <= spec.priority - PRIORITY_GAP]
    if not fits(without(state, {*lower, *stopping}), record):
        assert found is None, "not even all of them would be enough"
        return
    assert found is not None
    ended = [state.replicas[i] for i in found.replica_ids]
    assert {replica.node_id for replica in ended} == {found.node_id}
    assert all(not replica.stopping for replica in ended)
    assert {replica.id for replica in ended} <= set(lower)
    leaving = [r.id for r in state.replicas_on(found.node_id) if r.stopping]
    assert fits(without(state, [*leaving, *found.replica_ids]), record)
    for spared in found.replica_ids:
        others = [i for i in found.replica_ids if i != spared]
        assert not fits(without(state, [*leaving, *others]), record), "one of them need not have ended"
    second = victims(state, record, stopping=found.replica_ids, ahead=1, **COMMON)
    if second is not None:
        gone = {*stopping, *found.replica_ids, *second.replica_ids}
        assert all(d.node_id for d in place(without(state, gone), record, 2, **COMMON)), "room for both"
    assert victims(state, record, stopping=found.replica_ids, **COMMON) is None
    assert room_to_come(state, record, stopping=found.replica_ids, **COMMON)


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_what_is_offered_is_only_offered_to_what_does_not_fit(seed):
    rng = random.Random(seed)
    state = cluster(rng, nodes_max=5)
    record = state.workloads[("default", rng.choice(NAMES))]
    found = would_fit_if(state, record, **COMMON)
    if fits(state, record):
        assert found == ()
    assert all(fit.node_id in state.nodes and fit.change for fit in found)
    assert len(found) < 40


def plain_fabric(rng, zones):
    state = None
    for number in range(rng.randrange(2, 9)):
        node = Node(f"n{number}", zone=f"z{number % zones}", state=NodeState.READY, device=device())
        state = (state or cluster(random.Random(0), nodes_max=0)).with_node(node)
    return state


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_work_is_packed_by_default(seed):
    """Single replicas of many workloads use no second node before the first one is full."""
    rng = random.Random(seed)
    state = plain_fabric(rng, 3)
    (first,) = {
        decision.node_id
        for number in range(10)
        for decision in place(
            state, WorkloadRecord(Metadata(f"w{number}", "default"), service(replicas=1), 1), 1, **COMMON
        )
    }
    assert first == "n0"
    spec = service(replicas=1, cpu_millis=1000)
    used = []
    for number in range(5):
        record = WorkloadRecord(Metadata(f"w{number}", "default"), spec, 1, history=(WorkloadRevision(1, spec),))
        (decision,) = place(state, record, 1, **COMMON)
        used.append(decision.node_id)
        state = assigned(state.with_workload(record), record, decision.node_id, f"r{number}")
    assert used == ["n0"] * 4 + ["n1"]


def assigned(state, record, node_id, replica_id):
    return state.with_replica(
        Replica(
            replica_id,
            record.metadata.name,
            "default",
            1,
            node_id,
            status=ReplicaStatus(ReplicaPhase.READY),
            fragment=amounts.fragment_of(record.spec),
        )
    )


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_a_spread_is_kept_exactly_where_it_can_be(seed):
    rng = random.Random(seed)
    zones = rng.randrange(1, 4)
    state = plain_fabric(rng, zones)
    zones = len({node.zone for node in state.nodes.values()})
    skew, required = rng.randrange(1, 3), rng.random() < 0.5
    count = rng.randrange(1, 12)
    spec = service(replicas=count, placement=Placement(spread=(SpreadConstraint("zone", skew, required),)))
    decisions = place(state, WorkloadRecord(Metadata("web", "default"), spec, 1), count, **COMMON)
    per_zone = dict.fromkeys((node.zone for node in state.nodes.values()), 0)
    for decision in decisions:
        per_zone[state.nodes[decision.node_id].zone] += 1
        assert max(per_zone.values()) - min(per_zone.values()) <= skew
