"""Moves come to an end: each is a clear gain, and with constant nodes and live use there is only so much to gain."""

import dataclasses
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.reconcile.rebalance import LOOK_EVERY_MS, STAYS_MS
from cloudless.coordinator.core.scheduler import Weights
from cloudless.coordinator.core.scheduler.better import MARGIN, better_place
from cloudless.core.annotation_rules import REBALANCE
from cloudless.core.model import DeviceClass, NodeUsage, PlacementDecision, Replica, ReplicaPhase, ReplicaStatus
from cloudless.core.spec import AntiAffinity, Metadata, Placement, SpreadConstraint
from cloudless.testing.fabric_model import MIB, NAMESPACE, START_MS, Fabric, device, service

NODES = ("a", "b", "c", "d", "e")
ZONES = st.sampled_from(["x", "y", "z"])
PLACEMENTS = st.builds(
    Placement,
    zones=st.sampled_from([(), ("x",), ("y", "x")]),
    spread=st.lists(
        st.builds(SpreadConstraint, st.sampled_from(["zone", "node"]), st.integers(1, 2), st.booleans()), max_size=2
    ).map(tuple),
    anti_affinity=st.lists(
        st.builds(
            AntiAffinity,
            topology_key=st.sampled_from(["zone", "node"]),
            required=st.just(False),
            weight=st.sampled_from([10, 40, 100]),
        ),
        max_size=1,
    ).map(tuple),
)
DEVICES = st.builds(
    lambda kind, cpu, memory, metered: dataclasses.replace(
        device(cpu_millis=cpu, memory_bytes=memory * MIB), device_class=kind, metered=metered
    ),
    st.sampled_from(list(DeviceClass)),
    st.sampled_from([300, 1000, 4000]),
    st.sampled_from([256, 1024, 4096]),
    st.booleans(),
)
FABRICS = st.lists(st.tuples(ZONES, DEVICES, st.sampled_from([0, 500, 20_000, 200_000])), min_size=2, max_size=5)
SPECS = st.builds(
    lambda replicas, cpu, memory, placement: service(
        replicas=replicas, cpu_millis=cpu, memory_bytes=memory * MIB, placement=placement
    ),
    st.integers(1, 4),
    st.sampled_from([10, 100, 250]),
    st.sampled_from([16, 200]),
    PLACEMENTS,
)


def build(nodes):
    fabric = Fabric()
    for name, (zone, info, _) in zip(NODES, nodes, strict=False):
        fabric.join(name, zone=zone, info=info)
    usage = {name: NodeUsage(rtt_us=rtt_us) for name, (_, _, rtt_us) in zip(NODES, nodes, strict=False) if rtt_us}
    return fabric, usage


def put_at(state, replica, record, node_id):
    """The replica on this node, whoever else is there."""
    return state.with_replica(
        dataclasses.replace(
            replica, node_id=node_id, fragment=amounts.fragment_of(record.spec), assigned_at_ms=START_MS
        )
    )


@settings(deadline=None, max_examples=150)
@given(FABRICS, st.lists(SPECS, min_size=1, max_size=3), st.data())
def test_any_sequence_of_looks_ends_after_finitely_many_moves(nodes, specs, data):
    """From wherever replicas happen to be; also of several workloads at once, as long as none wants to be near another
    that wants to be apart from it."""
    fabric, usage = build(nodes)
    for number, spec in enumerate(specs):
        fabric.put(f"web-{number}", spec)
    state = fabric.state
    for record in sorted(state.workloads.values(), key=lambda r: r.metadata.name):
        for number in range(record.spec.replicas):
            replica = Replica(
                id=f"{record.metadata.name}-{number}",
                workload=record.metadata.name,
                namespace=NAMESPACE,
                generation=1,
                status=ReplicaStatus(phase=ReplicaPhase.READY),
                placement=PlacementDecision(),
            )
            state = put_at(state, replica, record, data.draw(st.sampled_from(sorted(state.nodes))))
    ids = data.draw(st.permutations(sorted(state.replicas)))
    moves = quiet = 0
    for replica_id in itertools.cycle(ids):
        replica = state.replicas[replica_id]
        record = state.workloads[NAMESPACE, replica.workload]
        found = better_place(state, record, replica, weights=Weights(), usage=usage, now_ms=START_MS + 60_000)
        if found is None:
            quiet += 1
            if quiet == len(ids):
                break
            continue
        quiet = 0
        moves += 1
        assert found.node_id != replica.node_id
        assert moves <= 10 * len(ids), f"{moves} moves of {len(ids)} replicas: {found.summary}"
        state = put_at(state, replica, record, found.node_id)


@settings(deadline=None, max_examples=60)
@given(FABRICS, SPECS, st.integers(0, 3), st.data())
def test_a_move_is_never_taken_back(nodes, spec, after, data):
    """What a replica left is not clearly better than where it went, with nothing else changed."""
    fabric, usage = build(nodes)
    fabric.put("web", spec)
    state, record = fabric.state, fabric.state.workloads[NAMESPACE, "web"]
    status = ReplicaStatus(phase=ReplicaPhase.READY)
    for number in range(spec.replicas):
        replica = Replica(id=f"web-{number}", workload="web", namespace=NAMESPACE, generation=1, status=status)
        state = put_at(state, replica, record, data.draw(st.sampled_from(sorted(state.nodes))))
    for replica in state.replicas_of(NAMESPACE, "web"):
        ask = {"weights": Weights(), "usage": usage, "now_ms": START_MS + after * 60_000}
        found = better_place(state, record, replica, **ask)
        if found is not None:
            if not found.summary.startswith("may not stay"):
                assert found.candidates[0].total >= found.candidates[-1].total + MARGIN
            moved = put_at(state, replica, record, found.node_id)
            assert better_place(moved, record, moved.replicas[replica.id], **ask) is None


@settings(deadline=None, max_examples=12)
@given(FABRICS, SPECS)
def test_a_fabric_whose_nodes_come_one_by_one_comes_to_rest(nodes, spec):
    """Through the whole loop: never more than one move at a time, a minute apart, each replica once in an hour."""
    fabric = Fabric()
    began = []
    fabric.observers.append(
        lambda applied: began.extend(e for e in applied.events if e.type == "scheduling.rebalanced")
    )
    fabric.apply(c.PutWorkload(Metadata("web", NAMESPACE, {}, {REBALANCE: "true"}), spec))
    for name, (zone, info, _) in zip(NODES, nodes, strict=False):
        fabric.join(name, zone=zone, info=info)
        fabric.settle()
        under_way = [r for r in fabric.replicas("web") if r.replaces in fabric.state.replicas]
        assert len(under_way) <= 1
        fabric.advance(5 * LOOK_EVERY_MS)
    fabric.advance(STAYS_MS)
    times = [e.time_ms for e in began]
    assert all(later - earlier >= LOOK_EVERY_MS for earlier, later in itertools.pairwise(times))
    left = [e.metadata["replaces"] for e in began]
    assert len(left) == len(set(left))
    settled = len(fabric.log)
    fabric.advance(STAYS_MS // 2)
    ready = [r for r in fabric.replicas("web") if r.status.phase is ReplicaPhase.READY]
    assert len(fabric.log) == settled or len(ready) < spec.replicas
