"""The loop converges whatever happened, and never takes a service below what it was promised on the way."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.views import workload_status
from cloudless.core.model import NodeState, ReplicaPhase, WorkloadPhase
from cloudless.core.spec import (
    AntiAffinity,
    Disruption,
    Placement,
    ReconnectRule,
    Rollout,
    RolloutStrategy,
    SpreadConstraint,
    WorkloadType,
)
from cloudless.testing.fabric_model import NAMESPACE, Fabric, device, service

NODES = ("a", "b", "c", "d")
NAMES = ("web", "db", "each")
STRATEGIES = st.sampled_from([RolloutStrategy.ROLLING_UPDATE] * 4 + [RolloutStrategy.RECREATE])
ROLLOUTS = st.builds(
    Rollout, STRATEGIES, st.integers(0, 2), st.integers(0, 2), st.integers(0, 3), st.sampled_from([0, 2000])
)
FREE = [
    Placement(),
    Placement(spread=(SpreadConstraint("zone", 1),)),
    Placement(anti_affinity=(AntiAffinity("", "node", False),)),
]
# db has at most three replicas, so that it leaves one of the four nodes to those that keep away from it.
PLACEMENTS = {
    "web": st.sampled_from([*FREE, Placement(anti_affinity=(AntiAffinity("db", "node", True),))]),
    "db": st.sampled_from(FREE),
    "each": st.sampled_from([Placement(), Placement(node_selector={"region": "eu"})]),
}


def specs(name, rollouts=ROLLOUTS):
    return st.builds(
        service,
        replicas=st.integers(0, 3),
        image=st.sampled_from(["web:1", "web:2", "web:3"]),
        placement=PLACEMENTS[name],
        rollout=rollouts,
        disruption=st.builds(Disruption, st.sampled_from([0, 1000, 30_000]), st.sampled_from(list(ReconnectRule))),
        kind=st.just(WorkloadType.SYSTEM if name == "each" else WorkloadType.SERVICE),
    )


NODE = st.sampled_from(NODES)
NAME = st.sampled_from(NAMES)
OPERATIONS = st.one_of(
    NAME.flatmap(lambda name: st.tuples(st.just("put"), st.just(name), specs(name))),
    st.tuples(st.just("scale"), NAME, st.integers(0, 3)),
    st.tuples(st.just("restart"), NAME, st.none()),
    st.tuples(st.just("delete"), NAME, st.none()),
    st.tuples(st.just("state"), NODE, st.sampled_from([NodeState.READY, NodeState.UNREACHABLE, NodeState.LOST])),
    st.tuples(st.just("drain"), NODE, st.booleans()),
    st.tuples(st.just("shrink"), NODE, st.sampled_from([100, 300, 4000])),
    st.tuples(st.just("remove"), NODE, st.none()),
    st.tuples(st.just("advance"), st.none(), st.sampled_from([1, 500, 5000, 60_000])),
    st.tuples(st.just("loop"), st.none(), st.none()),
    st.tuples(st.just("agents"), st.none(), st.sets(NODE)),
    st.tuples(st.just("failing"), st.none(), st.sampled_from([0, 1, 2, 3])),
)


def perform(fabric, operation):
    match operation:
        case ("put", name, spec):
            fabric.put(name, spec)
        case ("scale", name, replicas):
            fabric.apply(c.ScaleWorkload(NAMESPACE, name, replicas))
        case ("restart", name, _):
            fabric.apply(c.RestartWorkload(NAMESPACE, name))
        case ("delete", name, _):
            fabric.apply(c.DeleteWorkload(NAMESPACE, name))
        case ("state", node, state):
            fabric.apply(c.ReportNode(node, state, "test"))
        case ("drain", node, draining):
            fabric.apply(c.UpdateNode(node, draining=draining, cordoned=draining))
        case ("shrink", node, cpu_millis):
            fabric.apply(c.ReportNode(node, device=device(cpu_millis=cpu_millis)))
        case ("remove", node, _):
            fabric.apply(c.RemoveNode(node, force=True))
        case ("advance", _, ms):
            fabric.now_ms += ms
            fabric.dirty |= {key for key, at_ms in fabric.wake_at_ms.items() if at_ms <= fabric.now_ms}
        case ("loop", _, _):
            fabric.reconcile_dirty()
        case ("agents", _, names):
            fabric.agents_step(sorted(n for n in names if n in fabric.state.nodes))
        case ("failing", _, generation):
            fabric.fails = lambda replica: replica.generation == generation


def heal(fabric):
    """Everything within reach, in good order and with room; then time enough for every delay."""
    fabric.fails = lambda replica: False
    for name in NODES:
        if name not in fabric.state.nodes:
            fabric.join(name)
        fabric.apply(c.ReportNode(name, NodeState.READY, "healed", device()))
        fabric.apply(c.UpdateNode(name, cordoned=False))
    fabric.settle()
    fabric.advance(3_600_000)


@settings(deadline=None, max_examples=120)
@given(st.lists(OPERATIONS, max_size=25))
def test_after_the_faults_everything_is_as_it_was_asked_for(operations):
    fabric = Fabric()
    for name in NODES:
        fabric.join(name, info=device(cpu_millis=600))
    fabric.put("web", service(replicas=3))
    fabric.put("each", service(kind=WorkloadType.SYSTEM))
    fabric.settle()
    for operation in operations:
        perform(fabric, operation)
    heal(fabric)
    for key, record in fabric.state.workloads.items():
        replicas = fabric.state.replicas_of(*key)
        wanted = len(NODES) if record.spec.type is WorkloadType.SYSTEM else record.spec.replicas
        story = f"{record} {replicas}"
        assert not record.deleting, story
        assert [r.status.phase for r in replicas] == [ReplicaPhase.READY] * wanted, story
        assert {r.generation for r in replicas} <= {record.generation}, story
        assert workload_status(fabric.state, record).phase is WorkloadPhase.AVAILABLE
        if record.spec.type is WorkloadType.SYSTEM:
            assert sorted(r.node_id for r in replicas) == sorted(NODES), story
    entries = len(fabric.log)
    fabric.dirty |= set(fabric.state.workloads)
    fabric.settle()
    assert len(fabric.log) == entries, "a stable fabric is left alone"


CHANGES = st.one_of(
    st.tuples(st.just("image"), st.integers(1, 9)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("drain"), NODE),
    st.tuples(st.just("undrain"), NODE),
    st.tuples(st.just("failing"), st.integers(1, 6)),
    st.tuples(st.just("advance"), st.sampled_from([1, 1500, 9000])),
    st.tuples(st.just("loop"), st.none()),
    st.tuples(st.just("agents"), st.sets(NODE, min_size=1)),
    st.tuples(st.just("agents"), st.sets(NODE, min_size=1)),
)
ROLLING = st.builds(
    Rollout,
    st.just(RolloutStrategy.ROLLING_UPDATE),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from([0, 2000]),
)


@settings(deadline=None, max_examples=120)
@given(ROLLING, st.integers(1, 4), st.lists(CHANGES, max_size=40))
def test_neither_rollouts_nor_drains_go_below_the_floor(rollout, replicas, changes):
    """New versions that fail, drains, restarts on restarts: at every entry enough replicas are ready."""
    fabric = Fabric()
    for name in NODES:
        fabric.join(name)
    spec = service(replicas=replicas, rollout=rollout)
    fabric.put("web", spec)
    fabric.settle()
    fabric.advance(10_000)
    floor = min(replicas, max(replicas - rollout.max_unavailable, rollout.min_available))
    lowest = [replicas]
    fabric.observers.append(lambda applied: lowest.append(sum(not r.stopping for r in fabric.ready("web"))))
    good = {1}

    def fails(replica):
        return replica.generation not in good

    for change in changes:
        match change:
            case ("image", version):
                image = f"web:{version}"
                containers = (dataclasses.replace(spec.containers[0], image=image),)
                fabric.put("web", dataclasses.replace(spec, containers=containers))
                good.add(fabric.state.workloads[NAMESPACE, "web"].generation)
            case ("restart", _):
                fabric.apply(c.RestartWorkload(NAMESPACE, "web"))
                good.add(fabric.state.workloads[NAMESPACE, "web"].generation)
            case ("drain", node) if sum(n.draining for n in fabric.state.nodes.values()) < len(NODES) - 1:
                fabric.apply(c.UpdateNode(node, draining=True))
            case ("undrain", node):
                fabric.apply(c.UpdateNode(node, cordoned=False))
            case ("failing", generation) if generation > 1:
                good.discard(generation)
                fabric.fails = fails
            case ("advance", ms):
                fabric.now_ms += ms
                fabric.dirty |= {key for key, at_ms in fabric.wake_at_ms.items() if at_ms <= fabric.now_ms}
            case ("loop", _):
                fabric.reconcile_dirty()
            case ("agents", names):
                fabric.agents_step(sorted(names))
    assert min(lowest) >= floor
    fabric.fails = lambda replica: False
    for node in NODES:
        fabric.apply(c.UpdateNode(node, cordoned=False))
    fabric.settle()
    fabric.advance(3_600_000)
    assert min(lowest) >= floor
    assert len(fabric.ready("web")) == len(fabric.replicas("web")) == replicas
    current = fabric.state.workloads[NAMESPACE, "web"].generation
    assert {r.generation for r in fabric.replicas("web")} == {current}
