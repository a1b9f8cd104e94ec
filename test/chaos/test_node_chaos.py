"""Six devices on hosts of their own, with real containers, and three coordinators: devices lose their power, their
cable, their address and a third of their packets, reboot where nobody hears them, leave in good order and join anew.

CHAOS_ROUNDS sets how many rounds each fault gets (one in the gate, 50 in `make chaos`); from ten on the figures are
held to their bars: from the loss of a device to ready replacements P50 under 3 s and P95 under 6 s, from a join to
ready P95 under 1 s.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.dev.image import build_image
from cloudless.dev.processes import ProcessId, with_arguments
from cloudless.testing.fabric import require_containerd, running_fabric
from cloudless.testing.underlay import Underlay

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-fabric"), pytest.mark.timeout(3000)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(2**32))))
BOX = "cloudless.local/box:test"
COORDINATORS = ("c1", "c2", "c3")
NODES = ("n1", "n2", "n3", "n4", "n5", "n6")
TAG = "clnode"
PLANS = [AgentPlan(name=name, index=at, settings={"owner-share": "0.15"}) for at, name in enumerate(NODES, 1)]
REPLICAS = 4
LOSS_P50_S, LOSS_P95_S, JOIN_P95_S = 3.0, 6.0, 1.0
# `hasty` is replaced as soon as its device is known to be away; `patient` waits for it.
MANIFEST = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  disruption: {{offlineGrace: {grace}}}
  termination: {{gracePeriod: 1s}}
  placement: {{spread: [{{topologyKey: node}}]}}
  containers:
    - {{name: main, image: {image}, command: [sleep, '100000'], resources: {{requests: {{cpu: 20m, memory: 16Mi}}}}}}
"""


class Devices:
    """The fabric under test, and what is done to its devices."""

    def __init__(self, fabric: LocalFabric, net: Underlay) -> None:
        self.fabric = fabric
        self.net = net
        self.rng = random.Random(SEED)

    def replicas(self, workload: str) -> list[Any]:
        request = control_pb2.ListReplicasRequest(workload=workload)
        return list(self.fabric.call("WorkloadService", "ListReplicas", request).replicas)

    def ready(self, workload: str, *, without: str = "") -> list[Any]:
        return [
            r
            for r in self.replicas(workload)
            if r.status.phase == types_pb2.REPLICA_PHASE_READY and not r.stopping and r.node_id != without
        ]

    def node(self, name: str) -> Any:
        return self.fabric.call("NodeService", "GetNode", control_pb2.GetNodeRequest(id=name)).node.node

    def state(self, name: str) -> str:
        return types_pb2.NodeState.Name(self.node(name).state).removeprefix("NODE_STATE_").title()

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        self.fabric.wait_for(condition, what=f"{what} (seed {SEED})", timeout_s=timeout_s)
        return time.monotonic() - began

    def settled(self) -> None:
        """Every device is ready, and each workload has as many replicas as it shall, all ready, none in surplus."""
        self.until(lambda: all(self.state(name) == "Ready" for name in NODES), "all devices to be ready")
        for workload in ("hasty", "patient"):
            self.until(
                lambda workload=workload: len(self.ready(workload)) == len(self.replicas(workload)) == REPLICAS,
                f"{workload} to be as it shall",
            )

    def restarted(self, workload: str, before: dict[str, tuple[str, int, int]], name: str) -> None:
        """What the device ran was started anew, and the device has said so: until then the old word stands."""
        mine = {replica_id: row[1] for replica_id, row in before.items() if row[0] == name}

        def told() -> bool:
            now = identities(self.ready(workload))
            return all(now.get(replica_id, ("", 0, 0))[1] > started for replica_id, started in mine.items())

        self.until(told, f"{workload} on {name} to be started anew")

    def victim(self) -> str:
        """A device that runs one of `hasty`."""
        return self.rng.choice(sorted({replica.node_id for replica in self.ready("hasty")}))

    def shims(self, name: str) -> list[ProcessId]:
        """The processes that hold the device's containers."""
        return with_arguments(lambda words: "containerd-shim" in words[0] and f"{TAG}-{name}" in words)

    def kill_containers(self, name: str) -> None:
        """All of them. One that containerd is just starting gets the time to be there: killed in the middle it leaves
        containerd, which the devices share here and no power cut restarts, with half of a container for ever."""
        self._kill_once(name, starting=False)
        while self.shims(name):
            time.sleep(0.3)
            self._kill_once(name, starting=True)

    def _kill_once(self, name: str, *, starting: bool) -> None:
        shims = {process.pid for process in self.shims(name)}
        holding: set[int] = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
                if parent in shims:
                    holding.add(parent)
                    os.kill(int(entry.name), signal.SIGKILL)
        for pid in shims if starting else holding:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill(self, name: str) -> None:
        """The agent and its containers, with SIGKILL."""
        self.fabric.kill(f"agent-{name}")
        self.kill_containers(name)

    def power_off(self, name: str) -> None:
        """Nobody is told anything."""
        self.net.unplug(name)
        self.kill(name)

    def power_on(self, name: str) -> None:
        self.net.plug(name)
        self.fabric.start_agent(next(plan for plan in PLANS if plan.name == name))

    def events(self, type: str, name: str) -> list[Any]:
        """The newest events of a device, oldest first."""
        request = control_pb2.ListEventsRequest(all_namespaces=True, type_prefix=type, resource=f"node/{name}")
        return list(self.fabric.call("EventService", "ListEvents", request).events)


@pytest.fixture(scope="module")
def fabric_and_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalFabric, Underlay]]:
    require_containerd()
    directory = tmp_path_factory.mktemp("nodes")
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Underlay((*COORDINATORS, *NODES)))
        fabric = stack.enter_context(
            running_fabric(
                directory,
                tag=TAG,
                agents=PLANS,
                subnet_prefix="10.206",
                coordinators=3,
                hosts=net,
                agent_hosts=net,
            )
        )
        archive = directory / "box.tar"
        build_image(archive, BOX, cmd=["/bin/sh"])
        fabric.ctl("image", "import", str(archive))
        for name, grace in (("hasty", "100ms"), ("patient", "10m")):
            manifest = directory / f"{name}.yaml"
            manifest.write_text(MANIFEST.format(name=name, replicas=REPLICAS, grace=grace, image=BOX))
            fabric.ctl("apply", "-f", str(manifest), "--wait", "--timeout", "90s")
        yield fabric, net


@pytest.fixture
def devices(fabric_and_net: tuple[LocalFabric, Underlay]) -> Iterator[Devices]:
    fabric, net = fabric_and_net
    print(f"CHAOS_SEED={SEED}")
    found = Devices(fabric, net)
    found.settled()
    try:
        yield found
    finally:
        net.heal()
        for plan in PLANS:
            fabric.start_agent(plan)


def identities(replicas: list[Any]) -> dict[str, tuple[str, int, int]]:
    """Replicas by id: node, start and restarts of the container."""
    return {
        r.id: (r.node_id, r.status.containers[0].started_at_ms, r.status.containers[0].restart_count) for r in replicas
    }


def told(what: str, seconds: list[float], *, p50_s: float = 0.0, p95_s: float) -> None:
    """Prints the figures, and holds them to their bars where there are enough of them."""
    ordered = sorted(seconds)
    p50, p95 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    print(f"\n{what}: {len(ordered)} times, P50 {p50:.2f} s, P95 {p95:.2f} s, longest {ordered[-1]:.2f} s")
    if len(ordered) >= 10:
        assert p95 < p95_s, what
        assert not p50_s or p50 < p50_s, what


@pytest.mark.parametrize("how", ["killed", "powered off"])
def test_what_a_lost_device_ran_runs_elsewhere_within_seconds(devices: Devices, how: str) -> None:
    took = []
    for _ in range(ROUNDS):
        victim = devices.victim()
        before = identities(devices.ready("patient"))
        began = time.monotonic()
        (devices.kill if how == "killed" else devices.power_off)(victim)
        devices.until(lambda victim=victim: len(devices.ready("hasty", without=victim)) == REPLICAS, "replacements")
        took.append(time.monotonic() - began)
        devices.power_on(victim)
        devices.restarted("patient", before, victim)
        devices.settled()
        after = identities(devices.ready("patient"))
        others = {i: row for i, row in before.items() if row[0] != victim}
        assert {i: row for i, row in after.items() if i in others} == others, "others were restarted"
        assert set(after) == set(before), "a device that came back runs what it ran"
    told(f"device {how} to replacements ready", took, p50_s=LOSS_P50_S, p95_s=LOSS_P95_S)


def test_a_device_without_its_cable_goes_on_and_one_copy_stays_when_it_is_back(devices: Devices) -> None:
    for _ in range(ROUNDS):
        victim = devices.victim()
        patient = identities(devices.ready("patient"))
        running = {process.pid for process in devices.shims(victim)}
        devices.net.unplug(victim)
        devices.until(lambda victim=victim: len(devices.ready("hasty", without=victim)) == REPLICAS, "replacements")
        assert {process.pid for process in devices.shims(victim)} >= running, "what runs there goes on"
        devices.net.plug(victim)
        devices.settled()
        assert identities(devices.ready("patient")) == patient


def test_a_flapping_link_loses_nobody(devices: Devices) -> None:
    for _ in range(ROUNDS):
        victim = devices.victim()
        everything = identities([*devices.ready("hasty"), *devices.ready("patient")])
        for _ in range(5):
            devices.net.unplug(victim)
            time.sleep(devices.rng.uniform(0.1, 0.4))
            devices.net.plug(victim)
            time.sleep(devices.rng.uniform(0.3, 0.8))
        assert devices.state(victim) == "Ready"
        assert identities([*devices.ready("hasty"), *devices.ready("patient")]) == everything


def test_a_device_that_reboots_where_nobody_hears_it_starts_what_it_may(devices: Devices) -> None:
    for _ in range(ROUNDS):
        victim = devices.rng.choice(sorted({replica.node_id for replica in devices.ready("patient")}))
        patient = identities(devices.ready("patient"))
        devices.power_off(victim)
        assert not devices.shims(victim)
        devices.fabric.start_agent(next(plan for plan in PLANS if plan.name == victim))
        took = devices.until(lambda victim=victim: devices.shims(victim), "containers without a coordinator")
        print(f"\ncontainers of a rebooted device without a coordinator: after {took:.1f} s")
        devices.net.plug(victim)
        devices.restarted("patient", patient, victim)
        devices.settled()
        assert {replica.id for replica in devices.ready("patient")} == set(patient)


def test_another_address_is_the_same_device(devices: Devices) -> None:
    for _ in range(ROUNDS):
        victim = devices.victim()
        everything = identities([*devices.ready("hasty"), *devices.ready("patient")])
        key = devices.node(victim).public_key_sha256
        devices.net.readdress(victim)
        time.sleep(4.0)  # longer than it takes to miss a device
        took = devices.until(lambda victim=victim: devices.state(victim) == "Ready", "the device to be ready")
        devices.settled()
        assert devices.node(victim).public_key_sha256 == key
        patient = {i: row for i, row in everything.items() if i.startswith("patient")}
        assert identities(devices.ready("patient")) == patient
        print(f"\nnew address: ready again {took:.1f} s after 4 s")


def test_a_third_of_the_packets_lost_loses_nobody(devices: Devices) -> None:
    victim = devices.victim()
    everything = identities([*devices.ready("hasty"), *devices.ready("patient")])
    since = len(devices.events("node.unreachable", victim))
    devices.net.lose(victim, 30)
    lasts_s = 180.0 if ROUNDS >= 10 else 6.0
    end = time.monotonic() + lasts_s
    while time.monotonic() < end:
        assert devices.state(victim) == "Ready"
        time.sleep(0.5)
    devices.net.heal()
    assert len(devices.events("node.unreachable", victim)) == since
    assert identities([*devices.ready("hasty"), *devices.ready("patient")]) == everything


def test_a_device_that_leaves_in_good_order_is_known_to_be_away_at_once(devices: Devices) -> None:
    took = []
    for _ in range(ROUNDS):
        victim = devices.victim()
        os.kill(devices.fabric.pid(f"agent-{victim}"), signal.SIGTERM)
        took.append(devices.until(lambda victim=victim: devices.state(victim) != "Ready", "the device to be away"))
        devices.fabric.stop(f"agent-{victim}")
        devices.power_on(victim)
        devices.settled()
    told("asked to stop to known as away", took, p95_s=1.0)


def test_a_device_that_joins_is_ready_at_once(devices: Devices) -> None:
    took = []
    plan = PLANS[-1]
    for _ in range(ROUNDS):
        devices.fabric.stop(f"agent-{plan.name}")
        devices.fabric.purge_agent(plan)
        shutil.rmtree(devices.fabric.directory / "agents" / plan.name)
        devices.fabric.ctl("node", "remove", plan.name, "--force")
        devices.fabric.start_agent(plan)
        devices.fabric.wait_for(
            lambda: plan.name in devices.fabric.ready_nodes(), what="the device to be ready", timeout_s=30
        )
        enrolled, ready = (devices.events(f"node.{word}", plan.name)[-1].time_ms for word in ("enrolled", "ready"))
        took.append((ready - enrolled) / 1000)
        devices.fabric.ctl("image", "import", str(devices.fabric.directory / "box.tar"))
        devices.settled()
    told("join to ready", took, p95_s=JOIN_P95_S)
