"""The owner of a device decides, on real agents: what is paused moves away, and what a node is short of goes first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    program = Path(sys.executable).parent / "cloudless-agent"
    place = f"--data-dir={fabric.directory / 'agents' / node}"
    return subprocess.run([program, "owner", place, *arguments], capture_output=True, text=True, check=True).stdout


def told(fabric: LocalFabric, node: str = "one") -> dict:
    """What the coordinator knows of the owner's terms."""
    return next(n["node"]["device"] for n in fabric.get("nodes") if n["node"]["id"] == node)


def replica(fabric: LocalFabric, workload: str) -> dict:
    """The one that is not ending."""
    found = [r for r in fabric.get("replicas") if r["workload"] == workload and not r.get("stopping")]
    return found[0] if len(found) == 1 else {}


def runs_on(fabric: LocalFabric, workload: str, node: str) -> bool:
    found = replica(fabric, workload)
    return found.get("nodeId") == node and found.get("status", {}).get("phase") == "Ready"


def apply(fabric: LocalFabric, name: str, priority: int = 50) -> None:
    fabric.ctl("apply", "-f", "-", "--wait", "--timeout", "30s", stdin=MANIFEST.format(name=name, priority=priority))


def test_terms_are_told_and_lower_the_capacity_at_once(fabric: LocalFabric) -> None:
    before = told(fabric)["capacity"]["cpuMillis"]
    out = owner(fabric, "set", "--share", "0.5", "--battery-floor-percent", "20")
    assert "50%" in out
    fabric.wait_for(lambda: told(fabric)["capacity"]["cpuMillis"] != before, what="the new capacity", timeout_s=10)
    assert told(fabric)["owner"]["sharePercent"] == 50
    assert told(fabric)["owner"]["batteryFloorPercent"] == 20
    assert told(fabric)["owner"]["accepting"]
    owner(fabric, "set", "--unset", "share")
    fabric.wait_for(lambda: told(fabric)["capacity"]["cpuMillis"] == before, what="the old capacity", timeout_s=10)


def test_a_bad_file_keeps_the_terms_and_says_why(fabric: LocalFabric) -> None:
    path = fabric.directory / "agents" / "one" / "owner.yaml"
    good = path.read_text()
    path.write_text("share: most of it\n")
    state = fabric.directory / "agents" / "one" / "owner.state.json"
    fabric.wait_for(lambda: "share" in json.loads(state.read_text())["problem"], what="the problem", timeout_s=10)
    assert told(fabric)["owner"]["batteryFloorPercent"] == 20
    assert '"owner.terms_bad"' in fabric.log_file("agent-one").read_text()
    path.write_text(good)
    fabric.wait_for(lambda: not json.loads(state.read_text())["problem"], what="good terms", timeout_s=10)


def test_what_is_paused_moves_and_what_is_resumed_takes_work_again(fabric: LocalFabric) -> None:
    owner(fabric, "pause", node="two")
    fabric.wait_for(lambda: told(fabric, "two")["owner"].get("evicting"), what="the pause to be told", timeout_s=10)
    apply(fabric, "moved")
    assert runs_on(fabric, "moved", "one")
    assert "notice" in owner(fabric, "resume", node="two")
    fabric.wait_for(lambda: told(fabric, "two")["owner"]["accepting"], what="the resume to be told", timeout_s=10)
    assert "Paused" in owner(fabric, "pause", "--for", "1h") + owner(fabric, "show")
    fabric.wait_for(lambda: runs_on(fabric, "moved", "two"), what="the replica on the other node", timeout_s=20)
    owner(fabric, "resume")
    fabric.wait_for(lambda: told(fabric)["owner"]["accepting"], what="the resume to be told", timeout_s=10)
    fabric.ctl("delete", "workload", "moved", "--wait")


def test_a_low_battery_moves_what_runs(fabric: LocalFabric, supplies: Path) -> None:
    owner(fabric, "pause", node="two")
    fabric.wait_for(lambda: told(fabric, "two")["owner"].get("evicting"), what="the pause to be told", timeout_s=10)
    apply(fabric, "battery")
    assert runs_on(fabric, "battery", "one")
    owner(fabric, "resume", node="two")
    fabric.wait_for(lambda: told(fabric, "two")["owner"]["accepting"], what="the resume to be told", timeout_s=10)
    (supplies / "BAT0" / "capacity").write_text("19\n")  # the floor is 20 since the first test
    fabric.wait_for(lambda: runs_on(fabric, "battery", "two"), what="the replica on mains", timeout_s=30)
    assert told(fabric)["owner"]["notAcceptingReason"] == "BatteryLow"
    (supplies / "BAT0" / "status").write_text("Charging\n")
    fabric.wait_for(lambda: told(fabric)["owner"]["accepting"], what="mains to be told", timeout_s=20)
    fabric.ctl("delete", "workload", "battery", "--wait")


def test_another_namespace_is_refused_on_the_node_too(fabric: LocalFabric) -> None:
    owner(fabric, "pause", node="two")
    apply(fabric, "foreign")
    assert runs_on(fabric, "foreign", "one")
    owner(fabric, "resume", node="two")
    fabric.wait_for(lambda: told(fabric, "two")["owner"]["accepting"], what="the resume to be told", timeout_s=10)
    owner(fabric, "set", "--namespaces", "mine")
    fabric.wait_for(lambda: runs_on(fabric, "foreign", "two"), what="the replica elsewhere", timeout_s=30)
    assert '"NamespaceNotAllowed"' in fabric.log_file("agent-one").read_text()
    owner(fabric, "set", "--unset", "namespaces")
    fabric.ctl("delete", "workload", "foreign", "--wait")


def test_a_node_that_is_short_of_memory_lets_the_lowest_priority_go(fabric: LocalFabric) -> None:
    owner(fabric, "pause")
    fabric.wait_for(lambda: told(fabric)["owner"].get("evicting"), what="the pause to be told", timeout_s=10)
    apply(fabric, "low", priority=10)
    apply(fabric, "high", priority=90)
    owner(fabric, "resume")
    fabric.wait_for(lambda: told(fabric)["owner"]["accepting"], what="the resume to be told", timeout_s=10)
    assert runs_on(fabric, "low", "two")
    assert runs_on(fabric, "high", "two")
    fabric.stop("agent-two")
    fabric.start_agent(AgentPlan("two", 2, runtimes=("process",), settings={"pressure-memory": "1000Gi"}))
    log = fabric.log_file("agent-two")
    fabric.wait_for(lambda: '"replica.evicted"' in log.read_text(), what="an eviction", timeout_s=20)
    evicted = next(json.loads(line) for line in log.read_text().splitlines() if '"replica.evicted"' in line)
    assert evicted["replica"].startswith("low-")
    assert "priority 10" in evicted["message"]
    fabric.wait_for(lambda: runs_on(fabric, "low", "one"), what="the low one elsewhere", timeout_s=20)
    fabric.stop("agent-two")
    fabric.start_agent(AgentPlan("two", 2, runtimes=("process",)))
    fabric.ctl("delete", "workload", "low", "high", "--wait")
