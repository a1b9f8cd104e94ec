"""The owner of a device decides, on real agents: what is paused moves away, and what a node is short of goes first."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cloudless.agent import owner_cli
from cloudless.api.v1 import control_pb2 as pb
from cloudless.api.v1.convert import from_proto
from cloudless.core.model import Replica, ReplicaPhase
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.testing.fabric import running_fabric

pytestmark = pytest.mark.xdist_group("owner-consent")

MANIFEST = """
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {{name: {name}}}
spec:
  type: service
  replicas: 1
  priority: {priority}
  disruption: {{offlineGrace: 1s}}
  containers:
    - name: {name}
      process: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
"""


@pytest.fixture(scope="module")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laptop's battery, full and discharging."""
    battery = tmp_path_factory.mktemp("supplies") / "BAT0"
    battery.mkdir()
    for name, text in (("type", "Battery"), ("status", "Discharging"), ("capacity", "100")):
        (battery / name).write_text(text + "\n")
    return battery.parent


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory, supplies: Path):
    agents = [
        AgentPlan("one", 1, runtimes=("process",), settings={"power-supply-dir": str(supplies)}),
        AgentPlan("two", 2, runtimes=("process",)),
    ]
    directory = tmp_path_factory.mktemp("fabric")
    with running_fabric(directory, tag="towner", agents=agents, with_containerd=False) as fabric:
        yield fabric


def owner(fabric: LocalFabric, *arguments: str, node: str = "one") -> str:
    """`cloudless-agent owner` on that device."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = owner_cli.main([f"--data-dir={fabric.directory / 'agents' / node}", *arguments])
    assert code == 0
    return out.getvalue()


def told(fabric: LocalFabric, node: str = "one") -> Any:
    """What the coordinator knows of the device (DeviceInfo)."""
    return fabric.call("NodeService", "GetNode", pb.GetNodeRequest(id=node)).node.node.device


def pressure(fabric: LocalFabric, node: str) -> list[str]:
    return list(fabric.call("NodeService", "GetNode", pb.GetNodeRequest(id=node)).node.usage.pressure)


def runs_on(fabric: LocalFabric, workload: str, node: str) -> bool:
    """Whether the one replica that is not ending is ready there."""
    found = fabric.call("WorkloadService", "ListReplicas", pb.ListReplicasRequest(workload=workload)).replicas
    present = [replica for replica in found if not replica.stopping]
    ready = from_proto(present[0], Replica).status.phase is ReplicaPhase.READY if len(present) == 1 else False
    return ready and present[0].node_id == node


def pause(fabric: LocalFabric, node: str) -> None:
    owner(fabric, "pause", node=node)
    fabric.wait_for(lambda: told(fabric, node).owner.evicting, what="the pause to be told", timeout_s=10)


def resume(fabric: LocalFabric, node: str) -> None:
    assert "notice" in owner(fabric, "resume", node=node)
    fabric.wait_for(lambda: told(fabric, node).owner.accepting, what="the resume to be told", timeout_s=10)


def apply(fabric: LocalFabric, name: str, priority: int = 50) -> None:
    fabric.ctl("apply", "-f", "-", "--wait", "--timeout", "30s", stdin=MANIFEST.format(name=name, priority=priority))


def test_terms_are_told_and_lower_the_capacity_at_once(fabric: LocalFabric) -> None:
    before = told(fabric).capacity.cpu_millis
    assert "50%" in owner(fabric, "set", "--share", "0.5", "--battery-floor-percent", "20")
    fabric.wait_for(lambda: told(fabric).capacity.cpu_millis == before // 2, what="half the capacity", timeout_s=10)
    known = told(fabric).owner
    assert (known.share_percent, known.battery_floor_percent, known.accepting) == (50, 20, True)
    owner(fabric, "set", "--unset", "share")
    fabric.wait_for(lambda: told(fabric).capacity.cpu_millis == before, what="the old capacity", timeout_s=10)


def test_a_bad_file_keeps_the_terms_and_says_why(fabric: LocalFabric) -> None:
    path = fabric.directory / "agents" / "one" / "owner.yaml"
    good = path.read_text()
    path.write_text("share: most of it\n")
    os.kill(fabric.pid("agent-one"), signal.SIGHUP)
    state = fabric.directory / "agents" / "one" / "owner.state.json"
    fabric.wait_for(lambda: "share" in json.loads(state.read_text())["problem"], what="the problem", timeout_s=10)
    assert told(fabric).owner.battery_floor_percent == 20
    assert '"owner.terms_bad"' in fabric.log_file("agent-one").read_text()
    path.write_text(good)
    fabric.wait_for(lambda: not json.loads(state.read_text())["problem"], what="good terms", timeout_s=10)


def test_what_the_owner_does_not_want_runs_elsewhere(fabric: LocalFabric, supplies: Path) -> None:
    pause(fabric, "two")
    apply(fabric, "web")
    assert runs_on(fabric, "web", "one")
    resume(fabric, "two")
    # on a battery below the floor, which is 20 since the first test
    (supplies / "BAT0" / "capacity").write_text("19\n")
    fabric.wait_for(lambda: runs_on(fabric, "web", "two"), what="the replica on mains", timeout_s=20)
    assert told(fabric).owner.not_accepting_reason == "BatteryLow"
    (supplies / "BAT0" / "status").write_text("Charging\n")
    fabric.wait_for(lambda: told(fabric).owner.accepting, what="mains to be told", timeout_s=20)
    # of a namespace that the owner does not allow (any more)
    owner(fabric, "set", "--namespaces", "mine", node="two")
    fabric.wait_for(lambda: runs_on(fabric, "web", "one"), what="the replica where it may run", timeout_s=20)
    owner(fabric, "set", "--unset", "namespaces", node="two")
    fabric.wait_for(lambda: not told(fabric, "two").owner.namespaces, what="all namespaces", timeout_s=10)
    # beyond the share
    owner(fabric, "set", "--cpu", "10m")
    fabric.wait_for(lambda: runs_on(fabric, "web", "two"), what="the replica where it fits", timeout_s=20)
    owner(fabric, "set", "--unset", "cpu")
    fabric.wait_for(lambda: told(fabric).capacity.cpu_millis > 10, what="the old capacity", timeout_s=10)
    for node in ("one", "two"):
        assert '"OwnerTerms"' in fabric.log_file(f"agent-{node}").read_text()
    # paused
    assert "until" in owner(fabric, "pause", "--for", "1h", node="two")
    fabric.wait_for(lambda: runs_on(fabric, "web", "one"), what="the replica on the other node", timeout_s=20)
    assert told(fabric, "two").owner.not_accepting_reason == "Paused"
    resume(fabric, "two")
    fabric.ctl("delete", "workload", "web", "--wait")


def test_a_node_that_is_short_of_memory_lets_the_lowest_priority_go(fabric: LocalFabric) -> None:
    pause(fabric, "one")
    apply(fabric, "low", priority=10)
    apply(fabric, "high", priority=90)
    resume(fabric, "one")
    assert runs_on(fabric, "low", "two")
    assert runs_on(fabric, "high", "two")
    fabric.stop("agent-two")
    fabric.start_agent(AgentPlan("two", 2, runtimes=("process",), settings={"pressure-memory": "1000Gi"}))
    log = fabric.log_file("agent-two")
    fabric.wait_for(lambda: '"replica.evicted"' in log.read_text(), what="an eviction", timeout_s=20)
    fabric.wait_for(lambda: pressure(fabric, "two") == ["memory"], what="a heartbeat that says so", timeout_s=10)
    evicted = next(json.loads(line) for line in log.read_text().splitlines() if '"replica.evicted"' in line)
    assert evicted["replica"].startswith("low-")
    assert "priority 10" in evicted["message"]
    fabric.wait_for(lambda: runs_on(fabric, "low", "one"), what="the low one elsewhere", timeout_s=20)
    fabric.stop("agent-two")
    fabric.start_agent(AgentPlan("two", 2, runtimes=("process",)))
    fabric.ctl("delete", "workload", "low", "high", "--wait")
