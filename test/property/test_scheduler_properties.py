"""Whatever the cluster: no placement where a filter objects, and an explanation that leaves out no node."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.core import amounts
from cloudless.coordinator.core.scheduler import Weights, place
from cloudless.coordinator.core.state import State
from cloudless.core.model import (
    DeviceClass,
    DeviceInfo,
    Feature,
    Node,
    NodeState,
    NodeUsage,
    PlacementDecision,
    Replica,
    ReplicaPhase,
    ReplicaStatus,
    RuntimeInfo,
    Taint,
    WorkloadRecord,
    WorkloadRevision,
)
from cloudless.core.spec import (
    AntiAffinity,
    Container,
    ContainerPort,
    Metadata,
    Placement,
    Protocol,
    ResourceAmounts,
    Resources,
    SpreadConstraint,
    TaintEffect,
    Toleration,
    WorkloadSpec,
    WorkloadType,
)

NOW_MS = 1_700_000_000_000
ZONES = st.sampled_from(["", "z1", "z2", "z3"])
AMOUNTS = st.builds(
    ResourceAmounts,
    cpu_millis=st.sampled_from([0, 100, 500, 1000]),
    memory_bytes=st.sampled_from([0, 64, 256]),
    storage_bytes=st.sampled_from([0, 10]),
    pids=st.sampled_from([0, 5]),
)
TAINTS = st.sampled_from(
    [(), (), (Taint("k", "v", TaintEffect.NO_SCHEDULE),), (Taint("p", "", TaintEffect.PREFER_NO_SCHEDULE),)]
)
KEYS = st.sampled_from(["node", "zone", "region", "rack"])


@st.composite
def nodes(draw, number):
    capacity = ResourceAmounts(
        draw(st.sampled_from([0, 500, 2000])), draw(st.sampled_from([0, 256, 1024])), draw(st.sampled_from([0, 5, 50]))
    )
    runtimes = tuple(RuntimeInfo(name, "", draw(st.booleans())) for name in ("containerd", "process"))
    return Node(
        id=f"n{number}",
        region=draw(st.sampled_from(["eu", "us"])),
        zone=draw(ZONES),
        labels=draw(st.sampled_from([{}, {"rack": "r1"}, {"rack": "r2"}])),
        taints=draw(TAINTS),
        cordoned=draw(st.integers(0, 5)) == 0,
        draining=draw(st.integers(0, 9)) == 0,
        state=draw(st.sampled_from([NodeState.READY] * 4 + list(NodeState))),
        state_since_ms=NOW_MS - draw(st.integers(-5, 10**8)),
        device=DeviceInfo(
            device_class=draw(st.none() | st.sampled_from(list(DeviceClass))),
            arch=draw(st.sampled_from(["amd64", "arm64"])),
            capacity=capacity,
            metered=draw(st.booleans()),
            power_source=draw(st.sampled_from(["mains", "battery", "unknown"])),
            runtimes=runtimes,
            features=draw(
                st.sampled_from([(), (Feature("containerd.shared-host-ports", available=True),)])
            ),
        ),
    )  # fmt: skip


@st.composite
def specs(draw):
    ports = (ContainerPort("p", 80, Protocol.TCP, 8080),) if draw(st.integers(0, 4)) == 0 else ()
    kind = draw(st.sampled_from([{"image": "x"}, {"image": "x"}, {"process": ("/bin/x",)}]))
    placement = Placement(
        regions=draw(st.sampled_from([(), ("eu",), ("us", "eu")])),
        zones=draw(st.sampled_from([(), (), ("z2", "z1")])),
        required=draw(st.booleans()),
        node_selector=draw(st.sampled_from([{}, {}, {"arch": "amd64"}, {"rack": "r1", "region": "eu"}])),
        tolerations=draw(st.sampled_from([(), (Toleration("k", "Exists"),)])),
        anti_affinity=tuple(
            draw(st.lists(st.builds(AntiAffinity, st.sampled_from(["", "web", "db"]), KEYS, st.booleans()), max_size=2))
        ),
        spread=tuple(draw(st.lists(st.builds(SpreadConstraint, KEYS, st.integers(0, 2)), max_size=2))),
    )
    return WorkloadSpec(
        type=WorkloadType.SERVICE,
        replicas=draw(st.integers(0, 5)),
        containers=(Container("main", ports=ports, resources=Resources(draw(AMOUNTS)), **kind),),
        placement=placement,
    )


@st.composite
def clusters(draw):
    """A state with a few nodes, a workload to place and one that is in the way."""
    state = State.empty("t")
    for number in range(draw(st.integers(0, 6))):
        state = state.with_node(draw(nodes(number)))
    records = []
    for name in ("web", "db"):
        spec = draw(specs())
        metadata = Metadata(name, "default")
        record = WorkloadRecord(metadata, spec, generation=1, history=(WorkloadRevision(1, spec),))
        state = state.with_workload(record)
        records.append(record)
        for index in range(draw(st.integers(0, 3)) if state.nodes else 0):
            node_id = draw(st.sampled_from(sorted(state.nodes)))
            fragment = amounts.fragment_of(spec)
            used = amounts.plus(state.reserved.get(node_id, amounts.NOTHING), fragment)
            if not amounts.exceeded(used, state.nodes[node_id].device.capacity):
                phase = draw(st.sampled_from([ReplicaPhase.READY, ReplicaPhase.FAILED]))
                state = state.with_replica(
                    Replica(
                        f"{name}-{index}", name, "default", 1, node_id,
                        stopping=draw(st.booleans()), status=ReplicaStatus(phase), fragment=fragment,
                    )
                )  # fmt: skip
    state.validate()
    usage = {
        n: NodeUsage(rtt_us=draw(st.integers(0, 10**6)), metered=draw(st.booleans())) for n in list(state.nodes)[::2]
    }
    return state, records[0], usage


def may_run(state, record, node):
    """An independent reading of the rules: whether the node may take one more replica now."""
    spec, placement = record.spec, record.spec.placement
    if node.state is not NodeState.READY or node.cordoned or node.draining:
        return False
    if any(t.effect is not TaintEffect.PREFER_NO_SCHEDULE for t in node.taints) and not placement.tolerations:
        return False
    facts = {"arch": node.device.arch, "region": node.region, **node.labels}
    if any(facts.get(k) != v for k, v in placement.node_selector.items()):
        return False
    if placement.required and (
        (placement.regions and node.region not in placement.regions)
        or (placement.zones and node.zone not in placement.zones)
    ):
        return False
    runtime = "process" if spec.containers[0].process else "containerd"
    if not any(r.name == runtime and r.available for r in node.device.runtimes):
        return False
    used = amounts.plus(state.reserved.get(node.id, amounts.NOTHING), amounts.fragment_of(spec))
    if amounts.exceeded(used, node.device.capacity):
        return False
    here = [r for r in state.replicas.values() if r.node_id == node.id]
    ports = amounts.host_ports_of(spec)
    if any(ports & amounts.host_ports_of(state.spec_of(r)) and not may_share(state, record, r, node) for r in here):
        return False
    if kept_out(state, record, node):
        return False
    return all(not conflicts(state, record, term, node) for term in placement.anti_affinity if term.required)


def kept_out(state, record, node):
    """Whether a replica of another workload that must be apart from this one is in the same place."""
    return any(
        place_of(state.nodes[r.node_id], term) == place_of(node, term)
        for r in state.replicas.values()
        if r.workload != record.metadata.name and r.node_id
        for term in state.spec_of(r).placement.anti_affinity
        if term.required and term.workload == record.metadata.name
    )


def may_share(state, record, replica, node):
    """Whether one more replica may have the host ports of this one."""
    own = (replica.namespace, replica.workload) == (record.metadata.namespace, record.metadata.name)
    images = not any(c.process for spec in (record.spec, state.spec_of(replica)) for c in spec.containers)
    able = any(f.name == "containerd.shared-host-ports" and f.available for f in node.device.features)
    return own and images and able


def place_of(node, term):
    return {
        "node": node.id,
        "zone": (node.region, node.zone),
        "region": node.region,
        "rack": node.labels.get("rack", ""),
    }[term.topology_key]


def conflicts(state, record, term, node):
    own = term.workload in ("", record.metadata.name)
    target = term.workload or record.metadata.name
    return any(
        place_of(state.nodes[r.node_id], term) == place_of(node, term)
        for r in state.replicas.values()
        if r.workload == target and r.node_id and not (own and r.stopping)
    )


@settings(deadline=None, max_examples=300)
@given(clusters(), st.integers(1, 5))
def test_placements_obey_every_rule_and_explain_every_node(cluster, count):
    state, record, usage = cluster
    decisions = place(state, record, count, weights=Weights(), usage=usage, now_ms=NOW_MS)
    assert len(decisions) == count
    for number, decision in enumerate(decisions):
        allowed = {node_id for node_id, node in state.nodes.items() if may_run(state, record, node)}
        explain(decision, state, allowed)
        if decision.node_id:
            state = commit(state, record, decision, number)
            state.validate()


def explain(decision: PlacementDecision, state: State, allowed: set[str]) -> None:
    assert decision.nodes_considered == len(state.nodes)
    rejected = {node_id for r in decision.rejections for node_id in r.node_ids}
    assert rejected == set(state.nodes) - allowed
    assert all(r.reason and r.filter and r.node_count == len(r.node_ids) for r in decision.rejections)
    assert decision.summary
    if not allowed:
        assert (decision.node_id, decision.candidates) == ("", ())
        return
    assert decision.node_id in allowed
    assert decision.candidates[0].node_id == decision.node_id
    assert len(decision.candidates) == min(5, len(allowed))
    totals = [candidate.total for candidate in decision.candidates]
    assert totals == sorted(totals, reverse=True)
    for candidate in decision.candidates:
        assert candidate.node_id in allowed
        assert all(0 <= term.value <= 1 for term in candidate.terms), candidate.terms
        signs = {"network_penalty": -1, "preference": -1}
        assert candidate.total == pytest.approx(sum(signs.get(t.name, 1) * t.value * t.weight for t in candidate.terms))


def commit(state: State, record: WorkloadRecord, decision: PlacementDecision, number: int) -> State:
    return state.with_replica(
        Replica(
            f"new-{number}",
            record.metadata.name,
            "default",
            1,
            decision.node_id,
            status=ReplicaStatus(ReplicaPhase.ASSIGNED),
            fragment=amounts.fragment_of(record.spec),
        )
    )


@settings(deadline=None, max_examples=100)
@given(clusters())
def test_placing_many_is_placing_one_after_another(cluster):
    state, record, usage = cluster
    together = place(state, record, 4, weights=Weights(), usage=usage, now_ms=NOW_MS)
    for number, expected in enumerate(together):
        (alone,) = place(state, record, 1, weights=Weights(), usage=usage, now_ms=NOW_MS)
        assert (alone.node_id, alone.summary, alone.rejections) == (
            expected.node_id,
            expected.summary,
            expected.rejections,
        )
        if alone.node_id:
            state = commit(state, record, alone, number)


@settings(deadline=None, max_examples=50)
@given(clusters(), st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_joined_does_not_matter(cluster, shuffle):
    state, record, usage = cluster
    ids = list(state.nodes)
    shuffle.shuffle(ids)
    other = dataclasses.replace(state, nodes=type(state.nodes)())
    for node_id in ids:
        other = other.with_node(state.nodes[node_id])
    one = place(state, record, 3, weights=Weights(), usage=usage, now_ms=NOW_MS)
    assert place(other, record, 3, weights=Weights(), usage=usage, now_ms=NOW_MS) == one
