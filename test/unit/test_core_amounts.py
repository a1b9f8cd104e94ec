import pytest

from cloudless.coordinator.core import amounts
from cloudless.core.spec import (
    Container,
    ContainerPort,
    Protocol,
    ResourceAmounts,
    Resources,
    Rollout,
    WorkloadSpec,
)
from cloudless.testing.fabric_model import service


@pytest.mark.parametrize(
    ("wanted", "capacity", "over"),
    [
        (ResourceAmounts(100, 100), ResourceAmounts(100, 100), ()),
        (ResourceAmounts(101, 100), ResourceAmounts(100, 100), ("cpu_millis",)),
        (ResourceAmounts(1, 1), ResourceAmounts(), ("cpu_millis", "memory_bytes")),
        (ResourceAmounts(), ResourceAmounts(), ()),
        (ResourceAmounts(storage_bytes=9, egress_bps=9, pids=9), ResourceAmounts(), ()),  # not stated: not limited
        (ResourceAmounts(storage_bytes=9, pids=9), ResourceAmounts(storage_bytes=8, pids=9), ("storage_bytes",)),
    ],
)
def test_exceeded(wanted, capacity, over):
    assert amounts.exceeded(wanted, capacity) == over


def test_a_fragment_is_the_sum_of_requests_and_of_limits_where_nothing_is_requested():
    spec = WorkloadSpec(
        containers=(
            Container("a", resources=Resources(ResourceAmounts(100, 10, pids=5), ResourceAmounts(900, 90, pids=50))),
            Container("b", resources=Resources(limits=ResourceAmounts(200, 20, 7, 3, pids=50))),
        )
    )
    assert amounts.fragment_of(spec) == ResourceAmounts(300, 30, 7, 3, pids=5)


def test_sums_stop_where_the_log_can_no_longer_hold_them():
    huge = ResourceAmounts(2**63 - 1, 1)
    assert amounts.plus(huge, huge) == ResourceAmounts(2**63 - 1, 2)
    assert amounts.minus(amounts.plus(huge, huge), huge) is None


def test_only_what_replicas_run_is_part_of_the_template():
    spec = service(replicas=3)
    assert amounts.template_of(spec) == amounts.template_of(service(replicas=5, rollout=Rollout(max_surge=4)))
    assert amounts.template_of(spec) != amounts.template_of(service(replicas=3, image="web:2"))
    assert amounts.template_of(spec) != amounts.template_of(service(replicas=3, cpu_millis=101))


def test_host_ports():
    ports = (
        ContainerPort("a", 80, Protocol.TCP, 8080),
        ContainerPort("b", 53, Protocol.UDP),
        ContainerPort("c", 1, None, 9),
    )
    spec = WorkloadSpec(containers=(Container("a", ports=ports),))
    assert amounts.host_ports_of(spec) == {(8080, "TCP"), (9, "TCP")}
