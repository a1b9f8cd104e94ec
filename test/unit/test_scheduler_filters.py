"""Each filter against nodes that it takes and nodes that it rejects, and the explanation that comes out."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.scheduler import Weights, place
from cloudless.coordinator.core.scheduler.explain import NODE_IDS_STORED, compact
from cloudless.coordinator.core.scheduler.filters import tolerates
from cloudless.core.model import (
    Coordinator,
    Feature,
    FilterRejection,
    NodeState,
    PlacementDecision,
    ReplicaPhase,
    RuntimeInfo,
    Taint,
    WorkloadRecord,
)
from cloudless.core.spec import (
    AntiAffinity,
    Container,
    ContainerPort,
    Metadata,
    Placement,
    Protocol,
    Rollout,
    RolloutStrategy,
    SecurityContext,
    SecurityProfile,
    TaintEffect,
    Toleration,
)
from cloudless.testing.fabric_model import MIB, NAMESPACE, START_MS, Fabric, device, service

NO, PREFER, EXECUTE = TaintEffect.NO_SCHEDULE, TaintEffect.PREFER_NO_SCHEDULE, TaintEffect.NO_EXECUTE


def decide(fabric, spec, count=1, name="web"):
    record = fabric.state.workloads.get((NAMESPACE, name)) or WorkloadRecord(Metadata(name, NAMESPACE), spec, 1)
    return place(fabric.state, record, count, weights=Weights(), usage={}, now_ms=START_MS)


def only(fabric, spec):
    (decision,) = decide(fabric, spec)
    return decision


@pytest.fixture
def fabric():
    fabric = Fabric()
    fabric.join("a", zone="z1")
    return fabric


def with_container(spec=None, **changes):
    spec = spec or service()
    return dataclasses.replace(spec, containers=(dataclasses.replace(spec.containers[0], **changes),))


PROCESS = dataclasses.replace(service(), containers=(Container("main", process=("/bin/true",)),))
APPARMOR = SecurityContext(app_armor_profile=SecurityProfile("RuntimeDefault"))
SECCOMP = SecurityContext(seccomp_profile=SecurityProfile("RuntimeDefault"))


@pytest.mark.parametrize(
    ("spec", "rejection"),
    [
        (service(), None),
        (service(placement=Placement(node_selector={"arch": "amd64", "os": "linux", "zone": "z1"})), None),
        (service(placement=Placement(node_selector={"node": "a", "class": "server", "region": "eu"})), None),
        (service(placement=Placement(node_selector={"feature/seccomp": "true"})), None),
        (
            service(placement=Placement(node_selector={"arch": "arm64"})),
            ("selector", "node selector asks for arch=arm64"),
        ),
        (service(placement=Placement(node_selector={"gpu": "yes"})), ("selector", "node selector asks for gpu=yes")),
        (
            service(placement=Placement(node_selector={"feature/apparmor": "true"})),
            ("selector", "node selector asks for feature/apparmor=true"),
        ),
        (service(placement=Placement(regions=("us",))), None),  # preferred only
        (
            service(placement=Placement(regions=("us", "ap"), required=True)),
            ("locality", "not in the required regions us, ap"),
        ),
        (service(placement=Placement(zones=("z2",), required=True)), ("locality", "not in the required zones z2")),
        (service(placement=Placement(regions=("eu",), zones=("z1",), required=True)), None),
        (PROCESS, None),
        (with_container(security_context=SECCOMP), None),
        (
            with_container(security_context=APPARMOR),
            ("features", "apparmor is not available: not in this kernel"),
        ),
        (
            dataclasses.replace(service(), security_context=APPARMOR),
            ("features", "apparmor is not available: not in this kernel"),
        ),
        (
            with_container(security_context=SecurityContext(runtime_class_name="gvisor")),
            ("runtime", "no runtime class gvisor"),
        ),
        (with_container(security_context=SecurityContext(runtime_class_name="runc")), None),
        (service(cpu_millis=4000), None),
        (service(cpu_millis=4001), ("cpu", "insufficient cpu: asks 4001m, free 4")),
        (service(memory_bytes=5 * 1024 * MIB), ("memory", "insufficient memory: asks 5Gi, free 4Gi")),
    ],
)
def test_one_node(fabric, spec, rejection):
    decision = only(fabric, spec)
    if rejection is None:
        assert decision.node_id == "a"
        assert decision.rejections == ()
    else:
        assert decision.node_id == ""
        assert decision.rejections == (FilterRejection(*rejection, ("a",), 1),)
        assert decision.summary.startswith("no node fits: ")


@pytest.mark.parametrize(
    ("command", "rejection"),
    [
        (c.UpdateNode("a", cordoned=True), ("cordoned", "cordoned")),
        (c.UpdateNode("a", draining=True), ("cordoned", "draining")),
        (c.ReportNode("a", NodeState.UNREACHABLE), ("ready", "node is Unreachable")),
        (
            c.UpdateNode("a", set_taints=(Taint("battery", "low", NO),)),
            ("taints", "taint battery=low:NoSchedule is not tolerated"),
        ),
        (
            c.UpdateNode("a", set_taints=(Taint("down", "", EXECUTE),)),
            ("taints", "taint down:NoExecute is not tolerated"),
        ),
        (
            c.ReportNode("a", device=dataclasses.replace(device(), runtimes=(RuntimeInfo("process", "1", True),))),
            ("runtime", "no runtime for images"),
        ),
        (
            c.ReportNode(
                "a", device=dataclasses.replace(device(), runtimes=(RuntimeInfo("containerd", "", False, "no socket"),))
            ),
            ("runtime", "no runtime for images: no socket"),
        ),
    ],
)
def test_the_condition_of_a_node(fabric, command, rejection):
    fabric.apply(command)
    assert only(fabric, service()).rejections == (FilterRejection(*rejection, ("a",), 1),)


def test_a_label_wins_over_a_built_in_key(fabric):
    fabric.apply(c.UpdateNode("a", set_labels={"arch": "riscv"}))
    assert only(fabric, service(placement=Placement(node_selector={"arch": "riscv"}))).node_id == "a"


@pytest.mark.parametrize(
    ("toleration", "taint", "expected"),
    [
        (Toleration("k", "Equal", "v", NO), Taint("k", "v", NO), True),
        (Toleration("k", "Equal", "v"), Taint("k", "v", EXECUTE), True),
        (Toleration("k", "Equal", "v", NO), Taint("k", "v", EXECUTE), False),
        (Toleration("k", "Equal", "w", NO), Taint("k", "v", NO), False),
        (Toleration("k", "Exists"), Taint("k", "v", NO), True),
        (Toleration("", "Exists"), Taint("k", "v", NO), True),
        (Toleration("", "Equal"), Taint("k", "", NO), False),
        (Toleration("j", "Exists"), Taint("k", "v", NO), False),
    ],
)
def test_tolerations(toleration, taint, expected):
    assert tolerates((toleration,), taint) is expected


def test_every_obstacle_of_every_node_is_explained():
    fabric = Fabric()
    for name in ("a", "b", "c", "d"):
        fabric.join(name, info=device(memory_bytes=1024 * MIB * (ord(name) - ord("a") + 1)))
    fabric.apply(c.UpdateNode("c", cordoned=True))
    fabric.apply(c.ReportNode("d", NodeState.UNREACHABLE))
    decision = only(fabric, service(cpu_millis=5000, memory_bytes=3072 * MIB))
    assert decision.rejections == (
        FilterRejection("ready", "node is Unreachable", ("d",), 1),
        FilterRejection("cordoned", "cordoned", ("c",), 1),
        FilterRejection("cpu", "insufficient cpu: asks 5, free at most 4", ("a", "b", "c", "d"), 4),
        FilterRejection("memory", "insufficient memory: asks 3Gi, free at most 2Gi", ("a", "b"), 2),
    )
    assert decision.summary == "no node fits: insufficient cpu on 2 nodes; cordoned or draining: 1; not ready: 1"
    assert decision.nodes_considered == 4


def test_without_nodes():
    assert only(Fabric(), service()).summary == "no node fits: there are no nodes"


def sharing_device(**changes):
    return dataclasses.replace(device(**changes), features=(Feature("containerd.shared-host-ports", available=True),))


def test_host_ports_are_shared_by_the_replicas_of_a_workload_where_nodes_can():
    fabric = Fabric()
    fabric.join("a", info=sharing_device())
    fabric.join("b")
    port = (ContainerPort("http", 80, Protocol.TCP, 8080),)
    shared = with_container(dataclasses.replace(service(), replicas=3), ports=port)
    fabric.put("web", shared)
    fabric.settle()
    assert sorted(r.node_id for r in fabric.state.replicas.values()) == ["a", "a", "b"]
    assert [d.node_id for d in decide(fabric, shared, 2)] == ["a", "a"]
    (other,) = decide(fabric, shared, 1, "other")
    assert [(r.filter, r.reason) for r in other.rejections] == [("host_ports", "host port 8080/TCP is taken")]
    process = with_container(PROCESS, ports=port)
    assert [d.node_id for d in decide(fabric, process, 1, "web2")] == [""]


def test_host_ports_are_not_shared_while_a_coordinator_would_not_understand_it():
    fabric = Fabric()
    fabric.join("a", info=sharing_device())
    shared = with_container(ports=(ContainerPort("http", 80, Protocol.TCP, 8080),))
    fabric.state = fabric.state.with_coordinator(Coordinator("c1", schema=2))
    assert [d.node_id for d in decide(fabric, shared, 2)] == ["a", ""]
    fabric.state = fabric.state.with_coordinator(Coordinator("c1", schema=3))
    assert [d.node_id for d in decide(fabric, shared, 2)] == ["a", "a"]


def test_host_ports_of_processes_are_for_one_alone_even_where_nodes_can_share():
    fabric = Fabric()
    fabric.join("a", info=sharing_device())
    process = with_container(PROCESS, ports=(ContainerPort("http", 80, Protocol.TCP, 8080),))
    assert [d.node_id for d in decide(fabric, process, 2)] == ["a", ""]


def test_a_rolling_update_behind_a_host_port_on_the_only_node():
    fabric = Fabric()
    fabric.join("a", info=sharing_device())
    port = (ContainerPort("http", 80, Protocol.TCP, 8080),)
    spec = with_container(dataclasses.replace(service(), replicas=1), ports=port)
    rolling = Rollout(RolloutStrategy.ROLLING_UPDATE, max_surge=1, max_unavailable=0)
    spec = dataclasses.replace(spec, rollout=rolling)
    fabric.put("web", spec)
    fabric.settle()
    ready = []
    fabric.observers.append(lambda applied: ready.append(len(fabric.ready("web"))))
    fabric.put("web", with_container(spec, image="web:2"))
    fabric.settle()
    (replica,) = fabric.state.replicas.values()
    assert (replica.generation, replica.status.phase) == (2, ReplicaPhase.READY)
    assert min(ready) >= 1


def test_host_ports_are_taken_one_after_another():
    fabric = Fabric()
    fabric.join("a")
    fabric.join("b")
    port = (ContainerPort("http", 80, Protocol.TCP, 8080),)
    decisions = decide(fabric, with_container(ports=port), 3)
    assert [d.node_id for d in decisions] == ["a", "b", ""]
    assert [(r.filter, r.reason) for r in decisions[2].rejections] == [("host_ports", "host port 8080/TCP is taken")]
    udp = (ContainerPort("dns", 80, Protocol.UDP, 8080),)
    fabric.put("web", with_container(ports=port))
    fabric.settle()
    assert [d.node_id for d in decide(fabric, with_container(ports=udp), 1, "other")] == ["a"]
    assert [d.node_id for d in decide(fabric, with_container(ports=port), 2, "other")] == ["b", ""]


def test_required_anti_affinity_by_node_zone_and_other_workload():
    fabric = Fabric()
    for name, zone in (("a", "z1"), ("b", "z1"), ("c", "z2")):
        fabric.join(name, zone=zone)
    apart = service(placement=Placement(anti_affinity=(AntiAffinity("", "zone", True),)))
    assert [d.node_id for d in decide(fabric, apart, 3)] == ["a", "c", ""]
    by_node = service(placement=Placement(anti_affinity=(AntiAffinity("web", "node", True),)))
    assert sorted(d.node_id for d in decide(fabric, by_node, 4)) == ["", "a", "b", "c"]
    fabric.put("db", service(placement=Placement(node_selector={"node": "c"})))
    fabric.settle()
    away = service(placement=Placement(anti_affinity=(AntiAffinity("db", "zone", True),)))
    decision = only(fabric, away)
    assert decision.node_id == "a"
    assert decision.rejections == (
        FilterRejection("anti_affinity", "anti-affinity: db is in the same zone", ("c",), 1),
    )


def test_what_is_stored_names_the_first_nodes_and_counts_all():
    ids = tuple(f"n{i:03}" for i in range(200))
    stored = compact(PlacementDecision(rejections=(FilterRejection("cpu", "x", ids, 200),)))
    assert stored.rejections == (FilterRejection("cpu", "x", ids[:NODE_IDS_STORED], 200),)
