"""Coordinators come and go under a steady stream of writes, by the commands that a person uses, on real processes:
three become five and three again, one that lost its disk is replaced, the leader is removed. No write fails, none is
lost, none is done twice, and every coordinator ends with the same state. And who knocks at a member listener without
being a member is turned away and named in the events.

CHAOS_ROUNDS sets the rounds of each (one in the gate), CHAOS_SEED whom it strikes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import ssl
import time
from pathlib import Path

import pytest

from cloudless.api.v1 import raft_pb2
from cloudless.coordinator.main import EXIT_DAMAGED, EXIT_REMOVED
from cloudless.dev.fabric import LocalFabric
from cloudless.identity.credentials import Credentials
from cloudless.identity.spiffe import COORDINATOR, NODE
from cloudless.testing.cluster_writers import Writers
from cloudless.testing.fabric import running_fabric
from cloudless.testing.identity import Fabric

pytestmark = [pytest.mark.xdist_group("cluster-members"), pytest.mark.timeout(1200)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(2**32))))
VOTE_S = 60.0  # an idle machine needs two
NUMBERS = itertools.count(4)  # of coordinators: ids are used once


class Operator:
    """Somebody with a terminal: everything goes through `cloudlessctl cluster`."""

    def __init__(self, fabric: LocalFabric) -> None:
        self.fabric = fabric
        self.rng = random.Random(SEED)
        self.writers = Writers(fabric, count=4, follow=True)

    def ids(self) -> list[str]:
        return sorted(view["coordinator"]["id"] for view in self.status()["coordinators"])

    def status(self) -> dict:
        return json.loads(self.fabric.ctl("cluster", "status", "-o", "json").stdout)

    def roles(self) -> dict[str, str]:
        return {view["coordinator"]["id"]: view.get("role", "") for view in self.status()["coordinators"]}

    def leader(self) -> str:
        return self.fabric.wait_for(lambda: self.status().get("leaderId"), what="a leader", timeout_s=20)

    def follower(self) -> str:
        leader = self.leader()
        return self.rng.choice([name for name in self.ids() if name != leader])

    def add(self) -> str:
        """A new coordinator under an id that was never used; returns when it votes."""
        name = f"c{next(NUMBERS)}"
        began = time.monotonic()
        token = self.fabric.ctl("cluster", "add", name).stdout.strip()
        self.fabric.add_coordinator(name, token=token)
        self.fabric.wait_for(
            lambda: self.roles().get(name) in ("voter", "leader"), what=f"{name} to vote", timeout_s=VOTE_S
        )
        print(f"{name} votes {time.monotonic() - began:.1f} s after `cluster add`")
        self.writers.wait_for_more(10)
        return name

    def remove(self, name: str) -> None:
        assert f"coordinator/{name} removed" in self.fabric.ctl("cluster", "remove", name).stdout
        assert name not in self.roles()
        self.writers.wait_for_more(10)

    def expect_removed(self, name: str) -> None:
        """Its process has ended by itself, and says why; so does the next one."""
        process = self.fabric.coordinator_process(name)
        assert self.fabric.wait_ended(process) == EXIT_REMOVED
        assert last_words(self.fabric, name)["reason"] in ("MemberRemoved", "CoordinatorRemoved")

    def expect_refused_start(self, name: str) -> None:
        process = self.fabric.coordinator_process(name)
        self.fabric.spawn_coordinator(name)
        assert self.fabric.wait_ended(process) == EXIT_REMOVED
        said = last_words(self.fabric, name)
        assert said["reason"] in ("MemberRemoved", "CoordinatorRemoved")
        assert "new id" in said["remedy"]

    def doctor(self) -> list[str]:
        """What is wrong: nothing."""
        findings = json.loads(self.fabric.ctl("cluster", "doctor", "-o", "json", check=False).stdout)
        return [f"{each['check']}: {each['text']}" for each in findings if each["level"] != "ok"]


def last_words(fabric: LocalFabric, coordinator_id: str) -> dict:
    lines = fabric.log_file(fabric.coordinator_process(coordinator_id)).read_text().splitlines()
    return next(said for line in reversed(lines) if (said := json.loads(line))["event"] == "coordinator.failed")


@pytest.fixture(scope="module")
def fabric(tmp_path_factory):
    with running_fabric(
        tmp_path_factory.mktemp("members"),
        tag="clmemb",
        agents=(),
        with_containerd=False,
        coordinators=3,
        coordinator_settings={"store-snapshot-entries": "500", "store-segment": "256Ki", "log-format": "json"},
    ) as running:
        yield running


@pytest.fixture
def operator(fabric):
    print(f"CHAOS_SEED={SEED}")
    started = Operator(fabric)
    try:
        started.writers.wait_for_more(10)
        yield started
        started.writers.wait_for_more()
        started.writers.stop()
        started.writers.check_all_kept(fabric, hint=f"seed {SEED}: ")
        assert started.doctor() == []
    finally:
        started.writers.ask_to_stop()


def test_one_that_lost_its_disk_is_replaced(operator):
    fabric = operator.fabric
    for _ in range(ROUNDS):
        lost = operator.rng.choice([name for name in operator.ids() if name != "c1"])  # whom the tokens name
        process = fabric.coordinator_process(lost)
        fabric.kill_coordinator(lost)
        shutil.rmtree(fabric.coordinator_data(lost))
        operator.writers.wait_for_more()
        # Started again with its settings of the first time, a token among them: it must not begin as if nothing was.
        fabric.spawn_coordinator(lost)
        assert fabric.wait_ended(process) == EXIT_DAMAGED
        said = last_words(fabric, lost)
        assert said["reason"] == "MemberLostDisk"
        assert "cloudlessctl cluster add" in said["remedy"]
        refused = fabric.ctl("cluster", "add", lost, check=False)
        assert refused.returncode != 0
        assert "an id is used once" in refused.stderr
        assert any(finding.startswith("reachable") for finding in operator.doctor())
        operator.remove(lost)
        operator.add()
        assert len(operator.ids()) == 3


def test_three_become_five_and_three_again(operator):
    for _ in range(ROUNDS):
        for _ in range(2):
            operator.add()
        assert len(operator.ids()) == 5
        successor = operator.follower()
        assert f"coordinator/{successor} leads" in operator.fabric.ctl("cluster", "transfer-leader", successor).stdout
        assert operator.leader() == successor
        gone = operator.follower()
        operator.remove(gone)
        operator.expect_removed(gone)
        leader = operator.leader()
        operator.remove(leader)  # the leader itself
        operator.expect_removed(leader)
        operator.expect_refused_start(leader)
        assert len(operator.ids()) == 3


def test_who_is_refused_at_the_member_listener_is_seen_in_the_events(fabric, tmp_path):
    """A follower under another's id, a stranger with the right names, a node."""
    leader = fabric.leader()
    status = fabric.status(leader)
    some, other = [view.coordinator.id for view in status.coordinators if view.coordinator.id != leader][:2]
    ours = Fabric(fabric.coordinator_data(some) / "ca", trust_domain=status.trust_domain)
    strange = Fabric(tmp_path / "strange", trust_domain=status.trust_domain)
    knock(fabric.address(leader, "member"), ours.member(COORDINATOR, some), claiming=other, folder=tmp_path)
    knock(fabric.address(leader, "member"), strange.member(COORDINATOR, some), claiming=some, folder=tmp_path)
    knock(fabric.address(some, "member"), ours.member(NODE, "n1"), claiming=other, folder=tmp_path)

    wanted = {(leader, "WrongMember"), (leader, "NotTrusted"), (some, "NotACoordinator")}

    def recorded() -> bool:
        answer = fabric.ctl("events", "-A", "--type", "security.member_refused", "-o", "json")
        events = json.loads(answer.stdout)["items"]
        return wanted <= {(e["resource"].removeprefix("coordinator/"), e["metadata"]["reason"]) for e in events}

    fabric.wait_for(recorded, what="the refusals in the events", timeout_s=30)
    assert "security.member_refused" in fabric.ctl("events", "-A").stdout
    fabric.wait_voters([view.coordinator.id for view in status.coordinators])


def knock(address: str, credentials: Credentials, *, claiming: str, folder: Path) -> None:
    """Shows a certificate at a member listener, says to be somebody, and waits to be hung up on."""
    chain, key = folder / "knock.pem", folder / "knock.key"
    chain.write_bytes(credentials.chain_pem)
    key.write_bytes(credentials.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(chain, key)
    hello = raft_pb2.MemberHello(protocol=1, protocol_oldest=1, member_id=claiming).SerializeToString()
    host, _, port = address.rpartition(":")
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain) as line,
    ):
        line.sendall(len(hello).to_bytes(4, "big") + hello)
        while line.recv(4096):
            pass
