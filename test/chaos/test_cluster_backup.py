"""Backups of three real coordinators under a steady stream of writes, and a new cluster that is begun from one of them
where the old one stood: the state is that of the backup's entry, bit for bit, everything that was acknowledged before
the backup began is in it, and a real agent comes back by itself with its processes.

CHAOS_ROUNDS sets how many backups are taken (three in the gate at least).
"""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest

from cloudless import backup
from cloudless.api.v1 import control_pb2
from cloudless.backup import BackupInfo
from cloudless.coordinator.core import snapshot as states
from cloudless.coordinator.engine import is_internal
from cloudless.coordinator.restoring import REVISION_GAP
from cloudless.coordinator.wal.inspect import Inspector
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.testing.cluster_writers import Writers, tokens_by_pattern, wait_for_one_state
from cloudless.testing.fabric import running_fabric

pytestmark = [pytest.mark.xdist_group("cluster-backup"), pytest.mark.timeout(1200)]

BACKUPS = max(3, int(os.environ.get("CHAOS_ROUNDS", "3")))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(2**32))))
PLAN = AgentPlan("n1", 1, runtimes=("process",))
KEPT, LATE = "864201901", "864201902"  # seconds that nobody else sleeps for

MANIFEST = """
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  containers: [{{name: main, process: ["/bin/sleep", "{seconds}"]}}]
"""


@pytest.fixture
def fabric(tmp_path):
    with running_fabric(
        tmp_path / "fabric",
        tag="clback",
        agents=[PLAN],
        subnet_prefix="10.208",
        with_containerd=False,
        coordinators=3,
    ) as running:
        yield running


def apply(fabric: LocalFabric, name: str, seconds: str, *, replicas: int) -> None:
    text = MANIFEST.format(name=name, seconds=seconds, replicas=replicas)
    fabric.ctl("apply", "-f", "-", "--wait", "--timeout", "60s", stdin=text)


def sleepers(seconds: str) -> set[int]:
    """The processes of a workload."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if words == f"/bin/sleep\0{seconds}\0".encode():
            found.add(int(entry.name))
    return found


def take(fabric: LocalFabric, writers: Writers, path: Path) -> set[str]:
    """A backup while writes go on; returns the patterns of the writes that were acknowledged before it began."""
    writers.wait_for_more(10)
    before, count = set(writers.acknowledged.values()), len(writers.acknowledged)
    said = fabric.ctl("cluster", "backup", str(path)).stdout
    info = backup.verify(path)
    assert f"entry {info.index} " in said
    assert info.state_hash in said
    assert path.stat().st_mode & 0o777 == 0o600
    writers.wait_for_more(1)
    meanwhile = len(writers.acknowledged) - count
    print(f"{path.name}: entry {info.index}, {count} writes before it, {meanwhile} meanwhile")
    return before


def check_content(path: Path, before: set[str], folder: Path) -> BackupInfo:
    """Its state has the hash that its header says, and all that was acknowledged before."""
    info = backup.extract(path, folder)
    state, _, _ = states.decode((folder / backup.STATE).read_bytes())
    assert states.state_hash(state) == info.state_hash
    missing = before - {token.node_pattern for token in state.tokens.values()}
    assert not missing, f"{len(missing)} writes that were acknowledged before the backup are not in it"
    return info


def hashes_at(log: Path, trust_domain: str, indexes: set[int]) -> dict[int, str]:
    """The state's hash behind each of these entries, as a replay of a coordinator's whole log gives it."""
    machine = FabricMachine(trust_domain)
    state, found = machine.empty(), {}
    for entry in Inspector(log, machine).entries():
        if not is_internal(entry.data):
            state = machine.apply(state, entry.data, index=entry.index, term=entry.term).state
        if entry.index in indexes:
            found[entry.index] = machine.state_hash(state)
    return found


def check_damaged_ones_are_refused(fabric: LocalFabric, good: Path, folder: Path) -> None:
    """Cut, altered, lengthened: nothing is made of it, by `--check` or into a folder."""
    rng, data = random.Random(SEED), good.read_bytes()
    place = rng.randrange(len(data))
    altered = bytearray(data)
    altered[place] ^= 1 << rng.randrange(8)
    bad, target = folder / "bad.backup", folder / "nothing"
    for what, content in (
        (f"bit of byte {place}", bytes(altered)),
        ("cut", data[: rng.randrange(len(data))]),
        ("last byte", data[:-1]),
        ("one more", data + b"\0"),
    ):
        bad.write_bytes(content)
        for arguments in (("--check",), ("--data-dir", str(target))):
            done = fabric.ctl("cluster", "restore", str(bad), *arguments, check=False)
            assert done.returncode != 0, f"seed {SEED}: {what}"
            assert "cannot be used" in done.stderr
        assert not target.exists() or not list(target.iterdir()), f"seed {SEED}: {what}"


def test_backups_under_load_and_a_new_cluster_from_one(fabric, tmp_path):
    print(f"CHAOS_SEED={SEED}")
    apply(fabric, "kept", KEPT, replicas=2)
    pids = sleepers(KEPT)
    assert len(pids) == 2
    writers = Writers(fabric, count=4)
    try:
        paths = [tmp_path / f"{number}.backup" for number in range(BACKUPS)]
        before = [take(fabric, writers, path) for path in paths]
        apply(fabric, "late", LATE, replicas=1)
        assert sleepers(LATE)
    finally:
        writers.stop()
    assert writers.failed == []
    refused = fabric.ctl("cluster", "backup", str(paths[-1]), check=False)
    assert refused.returncode != 0
    assert "--force" in refused.stderr, "an existing file is not replaced by the way"
    check_damaged_ones_are_refused(fabric, paths[-1], tmp_path)

    infos = [
        check_content(path, acknowledged, tmp_path / f"{path.stem}.parts")
        for path, acknowledged in zip(paths, before, strict=True)
    ]
    assert [info.index for info in infos] == sorted({info.index for info in infos})
    wait_for_one_state(fabric)
    old_address, last_index = fabric.address("c1"), fabric.status("c1").applied_index
    for name in ("c1", "c2", "c3"):  # for good
        fabric.kill_coordinator(name)
    wanted = {info.index: info.state_hash for info in infos}
    assert hashes_at(fabric.coordinator_data("c2") / "log", infos[0].trust_domain, set(wanted)) == wanted

    info, path = infos[-1], paths[-1]
    target = fabric.coordinator_data("c4")
    said = fabric.ctl("cluster", "restore", str(path), "--data-dir", str(target)).stdout
    assert info.state_hash in said
    assert "cloudless-coordinator" in said
    began = time.monotonic()
    fabric.start_coordinator("c4", settings={"listen-api": old_address})
    # The agent dials the address that it knows, and finds the restored fabric there.
    fabric.wait_for(lambda: fabric.ready_nodes() == ["n1"], what="the agent to come back", timeout_s=60)
    print(f"the agent is back {time.monotonic() - began:.1f} s after the start of the restored coordinator")
    status = fabric.status("c4")
    assert status.applied_index >= info.index + REVISION_GAP > last_index
    stored = tokens_by_pattern(fabric, "c4")
    assert before[-1] <= set(stored)
    assert all(len(ids) == 1 for ids in stored.values())
    events = fabric.ctl("events", "-A", "--type", "cluster.restored", "-o", "yaml").stdout
    assert info.state_hash in events
    assert str(info.index) in re.findall(r"\d+", events)

    # It keeps what runs, gets rid of what the backup does not know, and takes new assignments.
    fabric.wait_for(lambda: not sleepers(LATE), what="what is not in the backup to be stopped", timeout_s=60)
    assert sleepers(KEPT) == pids
    fabric.ctl("scale", "workload", "kept", "--replicas", "3", "--wait", "--timeout", "60s")
    assert pids < sleepers(KEPT)
    assert len(sleepers(KEPT)) == 3

    # Then it is made a cluster of two again.
    token = fabric.ctl("cluster", "add", "c5").stdout.strip()
    fabric.add_coordinator("c5", token=token)
    fabric.wait_voters(["c4", "c5"], timeout_s=60)
    wait_for_one_state(fabric)
    assert before[-1] <= set(tokens_by_pattern(fabric, "c5"))
    fabric.call(
        "TokenService", "CreateToken", control_pb2.CreateTokenRequest(node_pattern="after"), coordinator_id="c5"
    )
    fabric.ctl("delete", "workload", "kept", "--wait", "--timeout", "60s")
    assert not sleepers(KEPT)
