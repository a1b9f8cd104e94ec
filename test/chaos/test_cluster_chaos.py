"""Three real coordinators and three agents, killed, frozen, cut off from each other and out of disk, under a stream of
writes: no acknowledged write is lost, the coordinators hold one state, no replica is restarted, agents come back.

Each coordinator runs on a host of its own (a network namespace) with a small disk of its own. CHAOS_ROUNDS sets how
many rounds each fault gets (two in the gate, 50 in `make chaos`), CHAOS_SEED the moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.dev.image import build_image
from cloudless.testing.cluster_writers import Writers
from cloudless.testing.fabric import require_containerd, running_fabric
from cloudless.testing.underlay import Underlay

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-fabric"), pytest.mark.timeout(3000)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "2"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(2**32))))
BOX = "cloudless.local/box:test"
IDS = ("c1", "c2", "c3")
PLANS = [AgentPlan(name=f"n{i}", index=i, settings={"owner-share": "0.2"}) for i in (1, 2, 3)]
DISK_MIB = 96
FROZEN_S = 10.0


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
        for name in IDS:
            self.fabric.wait_coordinator(name, timeout_s=60)
        self.writers.check_all_kept(self.fabric, hint=f"seed {SEED}: ")
        names = {plan.name for plan in PLANS}
        self.fabric.wait_for(
            lambda: names <= set(self.fabric.ready_nodes()), what="the agents to be ready", timeout_s=60
        )
        self.fabric.wait_for(lambda: self._replicas() == self.replicas, what="replicas as before", timeout_s=30)
        print(f"\nseed {SEED}: {len(self.writers.acknowledged)} acknowledged writes, all present once")


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
        started.writers.ask_to_stop()
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
    cluster.writers.outage = True
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
