"""kill -9 of a real coordinator at random moments under a stream of writes: no acknowledged write is ever lost.

CHAOS_ROUNDS sets how many rounds (a few in the gate, 50 in `make chaos`), CHAOS_SEED the moments.
"""

import os
import random
import threading
import time
import uuid

import grpc
import pytest

from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator.wal.inspect import fabric_inspector
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.dev.image import build_image
from cloudless.identity.channel import open_sync_channel
from cloudless.testing.fabric import require_containerd, running_fabric

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("containerd-fabric"), pytest.mark.timeout(1200)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "4"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(2**32))))
BOX = "cloudless.local/box:test"
PLAN = AgentPlan(name="n1", index=1, settings={"owner-share": "0.3"})
WRITERS = 8


class Writers:
    """Threads that create join tokens, each under a request id of its own, repeating it until it is answered."""

    def __init__(self, fabric: LocalFabric) -> None:
        context = contexts.load(fabric.context_file).get()
        self._channel = open_sync_channel(context.coordinators[0], context.credentials())
        self.tokens = control_pb2_grpc.TokenServiceStub(self._channel)
        self.acknowledged: dict[str, str] = {}  # token id -> its node pattern
        self.unexpected: list[grpc.RpcError] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            pattern = f"w{number}-{count}"
            request_id = str(uuid.uuid4())
            while not self._stop.is_set():
                try:
                    answer = self.tokens.CreateToken(
                        control_pb2.CreateTokenRequest(node_pattern=pattern),
                        timeout=5,
                        wait_for_ready=True,
                        metadata=(("cloudless-request-id", request_id),),
                    )
                except grpc.RpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        self.unexpected.append(error)
                    time.sleep(0.02)
                    continue
                self.acknowledged[answer.token.id] = pattern
                break
            count += 1

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def status(self) -> control_pb2.GetStatusResponse:
        stub = control_pb2_grpc.ClusterServiceStub(self._channel)
        return stub.GetStatus(control_pb2.GetStatusRequest(), timeout=30, wait_for_ready=True)

    def stored(self) -> dict[str, list[str]]:
        """Patterns of all stored tokens, each with the ids that have it."""
        found: dict[str, list[str]] = {}
        page = ""
        while True:
            request = control_pb2.ListTokensRequest(page_size=1000, page_token=page)
            answer = self.tokens.ListTokens(request, timeout=30, wait_for_ready=True)
            for token in answer.tokens:
                found.setdefault(token.node_pattern, []).append(token.id)
            page = answer.next_page_token
            if not page:
                return found


def test_no_acknowledged_write_is_lost(tmp_path):
    require_containerd()
    print(f"CHAOS_SEED={SEED}")
    rng = random.Random(SEED)
    settings = {"store-snapshot-entries": "1000000", "store-segment": "64Ki"}
    with running_fabric(tmp_path, tag="clkill", agents=[PLAN], coordinator_settings=settings) as fabric:
        archive = tmp_path / "box.tar"
        build_image(archive, BOX, cmd=["/bin/sh"])
        fabric.ctl("image", "import", str(archive))
        manifest = tmp_path / "steady.yaml"
        manifest.write_text(
            "apiVersion: cloudless.dev/v1\nkind: Workload\nmetadata: {name: steady}\n"
            f"spec: {{containers: [{{name: main, image: {BOX}, command: [sleep, '100000']}}]}}\n"
        )
        fabric.ctl("apply", "-f", str(manifest), "--wait", "--timeout", "60s")
        (replica,) = fabric.get("replicas")
        writers = Writers(fabric)
        try:
            for _ in range(ROUNDS):
                time.sleep(rng.uniform(0.05, 1.0))
                fabric.kill("coordinator")
                fabric.start_coordinator()
                acknowledged = dict(writers.acknowledged)  # before the listing: the writers go on meanwhile
                stored = writers.stored()
                missing = {i for i, pattern in acknowledged.items() if i not in stored.get(pattern, ())}
                assert not missing, f"seed {SEED}: {len(missing)} acknowledged writes are gone"
        finally:
            writers.stop()
        assert writers.unexpected == []
        stored = writers.stored()
        assert all(len(ids) == 1 for ids in stored.values()), "a repeated write had a second effect"
        assert len(writers.acknowledged) > ROUNDS * 20

        # the container never stopped, and its agent came back by itself
        fabric.wait_for(lambda: "n1" in fabric.ready_nodes(), what="the agent to return", timeout_s=30)
        fabric.wait_for(
            lambda: [r["status"]["phase"] for r in fabric.get("replicas")] == ["Ready"],
            what="the replica to be reported",
            timeout_s=30,
        )
        (after,) = fabric.get("replicas")
        assert after["id"] == replica["id"]
        assert after["status"]["containers"][0]["startedAtMs"] == replica["status"]["containers"][0]["startedAtMs"]

        # what the coordinator holds is what a replay of its whole log from the files gives
        live = writers.status()
        fabric.stop("coordinator")
        inspector = fabric_inspector(fabric.directory / "coordinator" / "log", trust_domain=live.trust_domain)
        report = inspector.report()
        assert not report.damage
        assert report.first_index == 1, "the beginning of the log is compacted: nothing to replay"
        assert report.replay_hash == report.state_hash
        assert report.last_index >= live.applied_index
        machine = FabricMachine(live.trust_domain)
        state = machine.empty()
        for entry in inspector.entries()[: live.applied_index]:
            state = machine.apply(state, entry.data, index=entry.index, term=entry.term).state
        assert machine.state_hash(state) == live.state_hash
        print(f"{ROUNDS} kills, {len(writers.acknowledged)} acknowledged writes, all present; state {live.state_hash}")
