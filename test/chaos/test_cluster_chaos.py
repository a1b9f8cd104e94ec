"""Three real coordinators and three agents, killed, frozen, cut off from each other and out of disk, under a stream of
writes: no acknowledged write is lost, the coordinators hold one state, no replica is restarted, agents come back.

Each coordinator runs on a host of its own (a network namespace) with a small disk of its own. CHAOS_ROUNDS sets how
many rounds each fault gets (two in the gate, 40 in `make chaos`), CHAOS_SEED the moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from cloudless import contexts
from cloudless.api.v1 import control_pb2
from cloudless.clock import SystemClock
from cloudless.ctl.client import Client
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.dev.image import build_image
from cloudless.errors import CloudlessError
from cloudless.testing.fabric import require_containerd, running_fabric
from cloudless.testing.underlay import Underlay

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-fabric"), pytest.mark.timeout(3000)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "2"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(2**32))))
BOX = "cloudless.local/box:test"
IDS = ("c1", "c2", "c3")
PLANS = [AgentPlan(name=f"n{i}", index=i, settings={"owner-share": "0.2"}) for i in (1, 2, 3)]
WRITERS = 6
PAUSE_S = 0.02
DISK_MIB = 96
FROZEN_S = 10.0


class Writers:
    """Threads with a client of the CLI's each; what was acknowledged, and when the last one was."""

    def __init__(self, fabric: LocalFabric) -> None:
        context = contexts.load(fabric.context_file).get()
        assert len(context.coordinators) == len(IDS)
        self.acknowledged: dict[str, str] = {}  # token id -> its node pattern
        self.failed: list[CloudlessError] = []
        self._stop = threading.Event()
        self._clients = [
            Client(
                random.sample(context.coordinators, len(IDS)),
                credentials=context.credentials(),
                clock=SystemClock(),
                timeout_ms=120_000,
                new_request_id=lambda: str(uuid.uuid4()),
            )
            for _ in range(WRITERS)
        ]
        self._threads = [
            threading.Thread(target=self._write, args=(number, client), daemon=True)
            for number, client in enumerate(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int, client: Client) -> None:
        run = uuid.uuid4().hex[:8]
        count = 0
        while not self._stop.is_set():
            pattern = f"w{number}-{run}-{count}"
            count += 1
            try:
                answer = client.call(
                    "Token", "CreateToken", control_pb2.CreateTokenRequest(node_pattern=pattern), write=True
                )
            except CloudlessError as error:
                self.failed.append(error)
                continue
            self.acknowledged[answer.token.id] = pattern
            time.sleep(PAUSE_S)

    def wait_for_more(self, count: int = 30, timeout_s: float = 60.0) -> None:
        """Until so many more writes are acknowledged."""
        enough = len(self.acknowledged) + count
        ends = time.monotonic() + timeout_s
        while len(self.acknowledged) < enough:
            assert time.monotonic() < ends, f"writes stopped: {self.failed[-1:]}"
            time.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(130)
            assert not thread.is_alive()
        for client in self._clients:
            client.close()


class Cluster:
    """The fabric under test, and what must be so after every fault."""

    def __init__(self, fabric: LocalFabric, net: Underlay) -> None:
        self.fabric = fabric
        self.net = net
        self.rng = random.Random(SEED)
        self.writers = Writers(fabric)
        self.replicas = self._replicas()

    def _replicas(self) -> dict[str, tuple[str, int, int]]:
        """Replicas by id: node, start time and restart count of the container."""
        found = {}
        for replica in self.fabric.get("replicas"):
            container = replica["status"]["containers"][0]
            found[replica["id"]] = (
                replica["nodeId"],
                container.get("startedAtMs", 0),
                container.get("restartCount", 0),
            )
        return found

    def pause(self, low_s: float = 0.05, high_s: float = 0.6) -> None:
        time.sleep(self.rng.uniform(low_s, high_s))

    def others(self, name: str) -> list[str]:
        return [each for each in IDS if each != name]

    def signal(self, name: str, number: int) -> None:
        os.kill(self.fabric.pid(self.fabric.coordinator_process(name)), number)

    def check(self) -> None:
        """All members are well again, hold every acknowledged write exactly once, and the same state."""
        for name in IDS:
            self.fabric.start_coordinator(name)
        self.writers.wait_for_more()
        self.writers.stop()
        assert self.writers.failed == []
        for name in IDS:
            self.fabric.wait_coordinator(name, timeout_s=60)
        self.fabric.wait_for(self._same_state, what="one state everywhere", timeout_s=60, retry=(CloudlessError,))
        stored = self._stored()
        missing = {key for key, pattern in self.writers.acknowledged.items() if key not in stored.get(pattern, ())}
        assert not missing, f"seed {SEED}: {len(missing)} acknowledged writes are gone"
        doubled = {pattern: ids for pattern, ids in stored.items() if len(ids) > 1}
        assert not doubled, f"seed {SEED}: repeated writes had a second effect: {doubled}"
        names = {plan.name for plan in PLANS}
        self.fabric.wait_for(
            lambda: names <= set(self.fabric.ready_nodes()), what="the agents to be ready", timeout_s=60
        )
        self.fabric.wait_for(lambda: self._replicas() == self.replicas, what="replicas as before", timeout_s=30)
        print(f"\nseed {SEED}: {len(self.writers.acknowledged)} acknowledged writes, all present once")

    def _same_state(self) -> bool:
        said = {(s.applied_index, s.state_hash) for s in map(self.fabric.status, IDS)}
        return len(said) == 1

    def _stored(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        request = control_pb2.ListTokensRequest(page_size=1000)
        while True:
            answer = self.fabric.call("TokenService", "ListTokens", request)
            for token in (t for t in answer.tokens if not t.coordinator_id):
                found.setdefault(token.node_pattern, []).append(token.id)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token


@contextlib.contextmanager
def small_disks(directory: Path):
    """A file system of its own under each coordinator's data folder."""
    mounted = []
    try:
        for name in IDS:
            path = directory / LocalFabric.coordinator_process(name)
            path.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(path)], check=True)
            mounted.append(path)
        yield
    finally:
        for path in mounted:
            subprocess.run(["umount", "-l", str(path)], check=False)


def _scope(fixture_name, config):
    # Few rounds share one fabric; many rounds fill it, and get one each.
    return "module" if ROUNDS < 10 else "function"


@pytest.fixture(scope=_scope)
def fabric_and_net(tmp_path_factory):
    require_containerd()
    directory = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Underlay(IDS))
        stack.enter_context(small_disks(directory))
        fabric = stack.enter_context(
            running_fabric(
                directory,
                tag="clclus",
                agents=PLANS,
                subnet_prefix="10.204",
                coordinators=3,
                hosts=net,
                coordinator_settings={"store-snapshot-entries": "3000", "store-segment": "1Mi"},
            )
        )
        archive = directory / "box.tar"
        build_image(archive, BOX, cmd=["/bin/sh"])
        fabric.ctl("image", "import", str(archive))
        manifest = directory / "steady.yaml"
        manifest.write_text(
            "apiVersion: cloudless.dev/v1\nkind: Workload\nmetadata: {name: steady}\nspec:\n  replicas: 3\n"
            f"  containers: [{{name: main, image: {BOX}, command: [sleep, '100000']}}]\n"
        )
        fabric.ctl("apply", "-f", str(manifest), "--wait", "--timeout", "60s")
        yield fabric, net


@pytest.fixture
def cluster(fabric_and_net):
    fabric, net = fabric_and_net
    print(f"CHAOS_SEED={SEED}")
    started = Cluster(fabric, net)
    try:
        started.writers.wait_for_more(10)
        yield started
        started.check()
    finally:
        started.writers._stop.set()
        net.heal()
        for name in IDS:
            with contextlib.suppress(OSError, KeyError):
                started.signal(name, signal.SIGCONT)


def test_the_leader_is_killed(cluster):
    for _ in range(ROUNDS):
        cluster.pause()
        leader = cluster.fabric.leader()
        cluster.fabric.kill_coordinator(leader)
        cluster.writers.wait_for_more()
        cluster.fabric.start_coordinator(leader)
        cluster.fabric.wait_coordinator(leader)


def test_random_members_are_killed(cluster):
    for _ in range(ROUNDS):
        cluster.pause()
        victims = cluster.rng.sample(IDS, cluster.rng.choice((1, 1, 2)))
        for name in victims:
            cluster.fabric.kill_coordinator(name)
        cluster.pause(0.0, 0.3)
        for name in victims:
            cluster.fabric.start_coordinator(name)
        cluster.writers.wait_for_more()


def test_all_are_killed_at_once(cluster):
    for _ in range(ROUNDS):
        cluster.pause()
        for name in IDS:
            cluster.signal(name, signal.SIGKILL)
        for name in IDS:
            cluster.fabric.kill_coordinator(name)
        for name in cluster.rng.sample(IDS, len(IDS)):
            cluster.fabric.start_coordinator(name)
        cluster.writers.wait_for_more()


def test_the_leader_is_frozen(cluster):
    for _ in range(max(1, ROUNDS // 2) if ROUNDS < 10 else ROUNDS):
        cluster.pause()
        leader = cluster.fabric.leader()
        cluster.signal(leader, signal.SIGSTOP)
        began = time.monotonic()
        cluster.writers.wait_for_more()
        time.sleep(max(0.0, FROZEN_S - (time.monotonic() - began)))
        cluster.signal(leader, signal.SIGCONT)
        cluster.fabric.wait_coordinator(leader)
        cluster.writers.wait_for_more(10)


def test_the_coordinators_are_cut_apart(cluster):
    for _ in range(ROUNDS):
        cluster.pause()
        alone = cluster.rng.choice((cluster.fabric.leader(), *IDS))
        groups = [[alone], cluster.others(alone)]
        cluster.net.split(*groups)
        if cluster.rng.random() < 0.5:  # and from everybody else
            cluster.net.cut(alone, "gateway")
            cluster.net.cut("gateway", alone)
        cluster.writers.wait_for_more()
        cluster.net.heal()
        cluster.writers.wait_for_more(10)


def test_one_way_is_cut(cluster):
    for _ in range(ROUNDS):
        cluster.pause()
        leader = cluster.fabric.leader()
        kind = cluster.rng.choice(("deaf", "mute", "one link"))
        others = cluster.others(leader)
        for other in others if kind != "one link" else [cluster.rng.choice(others)]:
            cluster.net.cut(*((other, leader) if kind == "deaf" else (leader, other)))
        cluster.writers.wait_for_more()
        cluster.net.heal()
        cluster.writers.wait_for_more(10)


def test_the_network_flaps(cluster):
    for _ in range(ROUNDS):
        for _ in range(8):
            source, target = cluster.rng.sample(IDS, 2)
            cluster.net.cut(source, target)
            if cluster.rng.random() < 0.5:
                cluster.net.cut(target, source)
            cluster.pause(0.1, 0.7)
            cluster.net.heal()
            cluster.pause(0.0, 0.3)
        cluster.writers.wait_for_more(10)


def test_disks_are_full(cluster):
    for _ in range(ROUNDS):
        cluster.pause()
        name = cluster.rng.choice((cluster.fabric.leader(), *IDS))
        ballast = cluster.fabric.coordinator_data(name) / "ballast"
        _fill(ballast)
        cluster.pause(1.0, 2.0)
        cluster.writers.wait_for_more()
        ballast.unlink()
        cluster.writers.wait_for_more(10)


def _fill(path: Path) -> None:
    """Takes what the disk has left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        block = bytes(2**16)
        while True:
            file.write(block)
