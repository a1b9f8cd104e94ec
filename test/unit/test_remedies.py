"""Each change that is offered makes the workload fit; what would not help is not offered."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.scheduler import Weights
from cloudless.coordinator.core.scheduler.remedies import Fit, would_fit_if
from cloudless.core.model import NodeState, NodeUsage, OwnerTerms, Taint, WorkloadRecord, WorkloadRevision
from cloudless.core.spec import (
    Affinity,
    AntiAffinity,
    ContainerPort,
    Metadata,
    Placement,
    Protocol,
    SpreadConstraint,
    TaintEffect,
)
from cloudless.testing.fabric_model import MIB, NAMESPACE, START_MS, Fabric, device, service


def remedies(fabric, spec, *, name="web", usage=None):
    record = fabric.state.workloads.get((NAMESPACE, name)) or WorkloadRecord(
        Metadata(name, NAMESPACE), spec, 1, history=(WorkloadRevision(1, spec),)
    )
    return would_fit_if(fabric.state, record, weights=Weights(), usage=usage or {}, now_ms=START_MS)


@pytest.fixture
def one():
    fabric = Fabric()
    fabric.join("a", zone="z1")
    return fabric


def with_port(**changes):
    spec = service(**changes)
    port = (ContainerPort("http", 80, Protocol.TCP, 8080),)
    return dataclasses.replace(spec, containers=(dataclasses.replace(spec.containers[0], ports=port),))


def test_what_fits_needs_no_change(one):
    assert remedies(one, service()) == ()


def test_without_nodes_nothing_helps():
    assert remedies(Fabric(), service()) == ()


@pytest.mark.parametrize(
    ("spec", "fit"),
    [
        (
            service(cpu_millis=5000),
            Fit("lower the cpu request from 5 to 4", "a", "spec.containers[0].resources.requests.cpu"),
        ),
        (
            service(memory_bytes=5 * 1024 * MIB),
            Fit("lower the memory request from 5Gi to 4Gi", "a", "spec.containers[0].resources.requests.memory"),
        ),
        (
            service(cpu_millis=5000, memory_bytes=5 * 1024 * MIB),
            Fit(
                "lower the cpu request from 5 to 4 and lower the memory request from 5Gi to 4Gi",
                "a",
                "spec.containers",
            ),
        ),
        (
            service(placement=Placement(node_selector={"arch": "arm64", "zone": "z1"})),
            Fit("select arch=amd64 instead of arch=arm64", "a", "spec.placement.nodeSelector.arch"),
        ),
        (
            service(placement=Placement(node_selector={"gpu": "yes"})),
            Fit("drop gpu=yes from the node selector", "a", "spec.placement.nodeSelector.gpu"),
        ),
        (
            service(placement=Placement(node_selector={"gpu": "yes", "arch": "arm64"})),
            Fit("drop the node selector", "a", "spec.placement.nodeSelector"),
        ),
        (
            service(placement=Placement(zones=("z2",), required=True)),
            Fit("prefer the regions and zones instead of requiring them", "a", "spec.placement.required"),
        ),
        (
            service(placement=Placement(affinity=(Affinity("db", topology_key="zone", required=True),))),
            Fit("prefer the affinity by zone instead of requiring it", "a", "spec.placement.affinity[0].required"),
        ),
    ],
)
def test_a_change_of_the_manifest(one, spec, fit):
    found = remedies(one, spec)
    assert fit in found, found
    assert found[0] == fit or fit.path == "spec.placement.nodeSelector"


def test_a_toleration(one):
    one.apply(c.UpdateNode("a", set_taints=(Taint("gpu", "only", TaintEffect.NO_SCHEDULE),)))
    assert remedies(one, service()) == (
        Fit("tolerate the taint gpu=only:NoSchedule", "a", "spec.placement.tolerations"),
    )


def test_another_host_port(one):
    one.put("db", with_port())
    one.settle()
    found = remedies(one, with_port())
    assert found[0] == Fit("use host port 8081 instead of 8080", "a", "spec.containers[0].ports[0].hostPort")
    assert [fit.path for fit in found[1:]] == ["spec.priority"], "what holds the port has a lower priority then"


def test_company_that_is_only_preferred(one):
    apart = service(replicas=2, placement=Placement(anti_affinity=(AntiAffinity("", "node", True),)))
    one.put("web", apart)
    one.settle()
    assert remedies(one, apart) == (
        Fit(
            "prefer the anti-affinity by node instead of requiring it",
            "a",
            "spec.placement.antiAffinity[0].required",
        ),
    )


def test_a_spread_that_is_only_preferred():
    fabric = Fabric()
    fabric.join("a", zone="z1")
    fabric.join("b", zone="z2", info=device(cpu_millis=50))
    spread = service(replicas=2, placement=Placement(spread=(SpreadConstraint("zone", 1, required=True),)))
    fabric.put("web", spread)
    fabric.settle()
    assert Fit(
        "prefer the spread over zone instead of requiring it", "a", "spec.placement.spread[0].required"
    ) in remedies(fabric, spread)


def test_what_people_do_to_a_node(one):
    one.apply(c.UpdateNode("a", cordoned=True))
    assert remedies(one, service()) == (Fit("uncordon a", "a"),)
    one.apply(c.UpdateNode("a", draining=True))
    assert remedies(one, service()) == (Fit("uncordon a, which ends its drain", "a"),)


def test_what_time_may_bring(one):
    assert remedies(one, service(), usage={"a": NodeUsage(pressure=("memory",))}) == (
        Fit("wait until a is not under pressure", "a"),
    )
    closed = dataclasses.replace(device(), owner=OwnerTerms(not_accepting_reason="OutsideHours"))
    one.apply(c.ReportNode("a", device=closed))
    assert remedies(one, service()) == (Fit("wait until the owner of a admits work", "a"),)
    one.apply(c.ReportNode("a", device=device()))
    one.apply(c.ReportNode("a", NodeState.UNREACHABLE))
    assert remedies(one, service()) == (Fit("wait until a is back", "a"),)


def test_a_higher_priority(one):
    for name, priority in (("low", 52), ("high", 70)):
        one.put(name, dataclasses.replace(service(cpu_millis=2000), priority=priority))
        one.settle()
    found = remedies(one, service(cpu_millis=1000))
    (low,) = one.replicas("low")
    assert found[0].node_id == "a"
    assert found == (
        Fit(
            f"raise the priority to 62: a replica of {low.workload} with priority 52 stops on a "
            "for web with priority 62",
            "a",
            "spec.priority",
        ),
    )


def test_the_cheapest_change_comes_first_and_several_are_offered():
    fabric = Fabric()
    for name in "abc":
        fabric.join(name)
    fabric.apply(c.UpdateNode("a", cordoned=True))
    fabric.apply(c.UpdateNode("b", set_taints=(Taint("gpu", "", TaintEffect.NO_SCHEDULE),)))
    fabric.apply(c.ReportNode("c", NodeState.UNREACHABLE))
    assert [(fit.node_id, fit.path) for fit in remedies(fabric, service())] == [
        ("a", ""),
        ("b", "spec.placement.tolerations"),
        ("c", ""),
    ]
