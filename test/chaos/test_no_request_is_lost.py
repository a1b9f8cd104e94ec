"""A service of three behind a load generator, on devices of their own, with real containers: rolling, canary and
blue-green updates and a drain cost no request, and a version that never becomes ready goes away by itself.

The load generator does what a load balancer in front of the devices does: it follows which devices have a ready replica
that is to stay, and sends each request to one of them, at the workload's host port, once. What fails is counted.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.dev.image import build_image
from cloudless.identity.channel import open_sync_channel
from cloudless.testing.fabric import require_containerd, running_fabric
from cloudless.testing.underlay import Underlay

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-fabric"), pytest.mark.timeout(300)]

BOX = "cloudless.local/box:test"
NODES = ("n1", "n2", "n3", "n4")
PLANS = [AgentPlan(name=name, index=at, settings={"owner-share": "0.2"}) for at, name in enumerate(NODES, 1)]
PORT = 8080
MANIFEST = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {{name: web}}
spec:
  replicas: 3
  placement: {{spread: [{{topologyKey: node}}]}}
  rollout: {{{rollout}, minAvailable: 3}}
  termination: {{gracePeriod: 4s, preStop: {{sleep: 1s}}}}
  containers:
    - name: main
      image: {image}
      command: [sh, -c, 'mkdir -p /tmp/www && echo {version} >/tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www']
      ports: [{{name: http, containerPort: 8080, hostPort: 8080}}]
      readinessProbe: {{http: {{path: {path}, port: http}}, period: 200ms}}
      resources: {{requests: {{cpu: 20m, memory: 16Mi}}}}
"""
ROLLING = "strategy: RollingUpdate, maxSurge: 1, maxUnavailable: 0"


class Load:
    """Requests, one after another in each of a few threads, until it is stopped."""

    def __init__(self, fabric: LocalFabric, net: Underlay, *, threads: int = 3) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._net = net
        self._ready: dict[str, str] = {}  # node by replica
        self._known = threading.Event()
        self._stop = threading.Event()
        self._turn = itertools.count()
        credentials = contexts.load(fabric.context_file).get().credentials()
        self._channel = open_sync_channel(fabric.address(), credentials)
        self._watch = control_pb2_grpc.WorkloadServiceStub(self._channel).WatchReplicas(
            control_pb2.WatchReplicasRequest(workload="web")
        )
        self._threads = [threading.Thread(target=self._follow, daemon=True)]
        self._threads += [threading.Thread(target=self._send, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()
        assert self._known.wait(20)

    def _follow(self) -> None:
        with contextlib.suppress(Exception):  # the channel is closed under it in the end
            for message in self._watch:
                ready = dict(self._ready)
                if message.HasField("replica"):
                    replica = message.replica
                    ready.pop(replica.id, None)
                    if replica.status.phase == types_pb2.REPLICA_PHASE_READY and not replica.stopping:
                        ready[replica.id] = replica.node_id
                ready.pop(message.deleted_id, None)
                self._ready = ready
                if message.synced and ready:
                    self._known.set()

    def _send(self) -> None:
        self._known.wait()
        while not self._stop.is_set():
            nodes = sorted(set(self._ready.values()))
            node = nodes[next(self._turn) % len(nodes)] if nodes else ""
            try:
                connection = http.client.HTTPConnection(self._net.address(node), PORT, timeout=3)
                connection.request("GET", "/", headers={"Connection": "close"})
                answer = connection.getresponse()
                body = answer.read().decode().strip()
                connection.close()
                if answer.status == 200:
                    self.answers[body] += 1
                else:
                    self.failures.append(f"{node}: {answer.status}")
            except (OSError, KeyError, http.client.HTTPException) as error:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {node}: {error!r}")
            time.sleep(0.005)

    def stop(self) -> None:
        self._stop.set()
        self._watch.cancel()
        for thread in self._threads:
            thread.join(10)
        self._channel.close()


@pytest.fixture(scope="module")
def fabric_and_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalFabric, Underlay]]:
    require_containerd()
    directory = tmp_path_factory.mktemp("requests")
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Underlay(("c1", *NODES)))
        fabric = stack.enter_context(
            running_fabric(directory, tag="clreq", agents=PLANS, subnet_prefix="10.207", hosts=net, agent_hosts=net)
        )
        archive = directory / "box.tar"
        build_image(archive, BOX, cmd=["/bin/sh"])
        fabric.ctl("image", "import", str(archive))
        yield fabric, net


@pytest.fixture
def fabric(fabric_and_net: tuple[LocalFabric, Underlay]) -> LocalFabric:
    apply(fabric_and_net[0], "v1", wait=True)
    return fabric_and_net[0]


@pytest.fixture
def load(fabric: LocalFabric, fabric_and_net: tuple[LocalFabric, Underlay]) -> Iterator[Load]:
    running = Load(fabric, fabric_and_net[1])
    try:
        yield running
    finally:
        running.stop()


def apply(fabric: LocalFabric, version: str, rollout: str = ROLLING, *, path: str = "/", wait: bool = False) -> None:
    manifest = fabric.directory / f"{version}.yaml"
    manifest.write_text(MANIFEST.format(rollout=rollout, version=version, image=BOX, path=path))
    fabric.ctl("apply", "-f", str(manifest), *(("--wait", "--timeout", "60s") if wait else ()))


def workload(fabric: LocalFabric) -> Any:
    return fabric.call("WorkloadService", "GetWorkload", control_pb2.GetWorkloadRequest(name="web")).workload


def phase(fabric: LocalFabric) -> str:
    return types_pb2.RolloutPhase.Name(workload(fabric).rollout.phase).removeprefix("ROLLOUT_PHASE_")


def until(fabric: LocalFabric, wanted: str) -> None:
    fabric.wait_for(lambda: phase(fabric) == wanted, what=f"the rollout to be {wanted}", timeout_s=60)


def served(load: Load, version: str) -> None:
    """Nothing but this version is served, and nothing failed on the way there."""
    time.sleep(0.3)
    load.answers.clear()
    time.sleep(0.5)
    assert set(load.answers) == {version}
    assert load.failures == []


def test_a_rolling_update_costs_no_request(fabric: LocalFabric, load: Load) -> None:
    apply(fabric, "v2", wait=True)
    until(fabric, "COMPLETE")
    served(load, "v2")


def test_a_canary_serves_beside_the_old_version_and_then_alone(fabric: LocalFabric, load: Load) -> None:
    apply(fabric, "v3", "strategy: Canary, canary: {steps: [{weight: 34, pause: manual}]}")
    until(fabric, "AWAITING_PROMOTION")
    load.answers.clear()
    time.sleep(1.0)
    assert load.answers["v3"]
    assert load.answers["v1"]
    fabric.ctl("rollout", "promote", "web")
    until(fabric, "COMPLETE")
    served(load, "v3")


def test_the_new_colour_takes_over_when_it_is_promoted(fabric: LocalFabric, load: Load) -> None:
    apply(fabric, "v4", "strategy: BlueGreen")
    until(fabric, "AWAITING_PROMOTION")
    ready = [r for r in workload_replicas(fabric) if r.status.phase == types_pb2.REPLICA_PHASE_READY]
    assert len(ready) == 6
    fabric.ctl("rollout", "promote", "web")
    until(fabric, "COMPLETE")
    served(load, "v4")


def workload_replicas(fabric: LocalFabric) -> list[Any]:
    request = control_pb2.ListReplicasRequest(workload="web")
    return list(fabric.call("WorkloadService", "ListReplicas", request).replicas)


def test_a_drained_device_costs_no_request(fabric: LocalFabric, load: Load) -> None:
    victim = workload_replicas(fabric)[0].node_id
    fabric.ctl("drain", victim, "--timeout", "60s")
    assert all(replica.node_id != victim for replica in workload_replicas(fabric))
    served(load, "v1")
    fabric.ctl("uncordon", victim)


def test_a_version_that_never_becomes_ready_goes_away_by_itself(fabric: LocalFabric, load: Load) -> None:
    apply(fabric, "v5", f"{ROLLING}, progressDeadline: 4s, autoRollback: true", path="/missing")
    until(fabric, "ROLLED_BACK")
    assert load.answers["v5"] == 0
    assert fabric.ctl("rollout", "status", "web", "--timeout", "60s", check=False).returncode, "that is no success"
    fabric.ctl("wait", "workload/web", "--for", "available", "--timeout", "60s")
    served(load, "v1")
    history = fabric.ctl("rollout", "history", "web").stdout
    assert "rolled back" in history
