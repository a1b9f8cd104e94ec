"""How long writes stop when the leader of three goes: from its end to the next write that is accepted.

Ours through the client of the CLI, which knows all three addresses, against real coordinators with their defaults;
etcd's through a client that goes round its three members, in turns with ours on the same machine. Killed with -9; then
ours stopped in good order (SIGTERM), and leadership transferred.

    .venv/bin/python test/bench/bench_failover.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from cloudless import contexts
from cloudless.api.v1 import control_pb2
from cloudless.clock import SystemClock
from cloudless.coordinator.etcd.api import rpc_pb2, rpc_pb2_grpc
from cloudless.ctl.client import Client
from cloudless.dev.fabric import LocalFabric
from cloudless.testing.etcd import EtcdMember, running_etcd

OUT = Path(__file__).parents[2] / "build" / "bench" / "failover.json"
MEDIAN_S, P95_S, GRACEFUL_S = 0.8, 1.5, 0.2


class Pulse:
    """Writes one after the other, and remembers when each one began and was accepted."""

    def __init__(self, write: Callable[[], None]) -> None:
        self.accepted: list[tuple[float, float]] = []
        self._write = write
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self._write()
            self.accepted.append((began, time.monotonic()))

    def next_after(self, moment: float) -> float:
        """Seconds from `moment` to the first acceptance of a write that began later: no answer was under way."""
        while True:
            later = [accepted for began, accepted in list(self.accepted) if began > moment]
            if later:
                return later[0] - moment
            time.sleep(0.002)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


def bar(text: str, met: bool) -> str:
    return f"{text}: {'met' if met else 'NOT met'}"


def summary(gaps: list[float]) -> dict[str, float]:
    ordered = sorted(gaps)
    return {
        "median_s": round(statistics.median(ordered), 3),
        "p95_s": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 3),
        "max_s": round(ordered[-1], 3),
        "rounds": len(ordered),
    }


class Ours:
    def __init__(self, directory: Path) -> None:
        self.fabric = LocalFabric(directory, tag="clfail")
        self.fabric.start_coordinators(3)
        context = contexts.load(self.fabric.context_file).get()
        self.client = Client(
            context.coordinators,
            credentials=context.credentials(),
            clock=SystemClock(),
            timeout_ms=60_000,
            new_request_id=lambda: str(uuid.uuid4()),
        )
        self.pulse = Pulse(self._write)

    def _write(self) -> None:
        request = control_pb2.CreateTokenRequest(node_pattern="n")
        self.client.call("Token", "CreateToken", request, write=True)

    def _gap(self, end: Callable[[str], float]) -> float:
        leader = self.fabric.leader()
        for name in ("c1", "c2", "c3"):
            self.fabric.wait_coordinator(name)
        time.sleep(1.0)
        return self.pulse.next_after(end(leader))

    def killed(self) -> float:
        killed: list[str] = []

        def end(leader: str) -> float:
            killed.append(leader)
            process = self.fabric.coordinator_process(leader)
            moment = time.monotonic()
            os.kill(self.fabric.pid(process), signal.SIGKILL)
            return moment

        gap = self._gap(end)
        self.fabric.kill_coordinator(killed[0])
        self.fabric.start_coordinator(killed[0])
        return gap

    def stopped(self) -> float:
        """SIGTERM: the longest time between two accepted writes until the process is gone."""
        leader = self.fabric.leader()
        for name in ("c1", "c2", "c3"):
            self.fabric.wait_coordinator(name)
        time.sleep(1.0)
        moment = time.monotonic()
        self.fabric.stop_coordinator(leader)
        self.pulse.next_after(time.monotonic())
        longest = self._longest(moment)  # before the start of a process makes pauses of its own
        self.fabric.start_coordinator(leader)
        return longest

    def transferred(self) -> float:
        for name in ("c1", "c2", "c3"):
            self.fabric.wait_coordinator(name)
        time.sleep(0.5)
        moment = time.monotonic()
        self.fabric.call("ClusterService", "TransferLeadership", control_pb2.TransferLeadershipRequest())
        time.sleep(0.5)
        self.pulse.next_after(time.monotonic())
        return self._longest(moment)

    def _longest(self, since: float) -> float:
        """The longest pause between two acceptances that ended after that moment."""
        times = [accepted for _, accepted in list(self.pulse.accepted)]
        return max(after - before for before, after in itertools.pairwise(times) if after > since)

    def close(self) -> None:
        self.pulse.stop()
        self.client.close()
        self.fabric.stop_together([self.fabric.coordinator_process(name) for name in self.fabric.coordinators()])


class Etcd:
    def __init__(self, members: list[EtcdMember]) -> None:
        self.members = members
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self.stubs = [
            rpc_pb2_grpc.KVStub(grpc.insecure_channel(member.endpoint, options=options))  # type: ignore[no-untyped-call]
            for member in members
        ]
        self.at = 0
        self.pulse = Pulse(self._write)

    def _write(self) -> None:
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k", value=b"v" * 100))
        while True:
            try:
                self.stubs[self.at].Txn(rpc_pb2.TxnRequest(success=[put]), timeout=1.0)
                return
            except grpc.RpcError:
                self.at = (self.at + 1) % len(self.stubs)
                time.sleep(0.01)

    def leader(self) -> EtcdMember:
        for member in self.members:
            argv = ["etcdctl", f"--endpoints={member.endpoint}", "endpoint", "status", "-w", "json"]
            done = subprocess.run(
                argv, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}, capture_output=True, check=False
            )
            if done.returncode == 0:
                (row,) = json.loads(done.stdout)
                if row["Status"]["header"]["member_id"] == row["Status"]["leader"]:
                    return member
        raise RuntimeError("etcd has no leader")

    def killed(self) -> float:
        leader = self.leader()
        time.sleep(1.0)
        moment = time.monotonic()
        leader.kill()
        gap = self.pulse.next_after(moment)
        leader.start()
        leader.wait_ready()
        return gap


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="failover-", dir=OUT.parent))
    kills: list[float] = []
    etcd_kills: list[float] = []
    stops: list[float] = []
    transfers: list[float] = []
    try:
        ours = Ours(directory / "ours")
        try:
            with running_etcd(directory / "etcd", members=3) as members:
                etcd = Etcd(members)
                for _ in range(options.rounds):
                    kills.append(ours.killed())
                    etcd_kills.append(etcd.killed())
                etcd.pulse.stop()
            for _ in range(max(3, options.rounds // 2)):
                stops.append(ours.stopped())
                transfers.append(ours.transferred())
        finally:
            ours.close()
    finally:
        shutil.rmtree(directory)
    result: dict[str, Any] = {
        "killed": summary(kills),
        "etcd_killed": summary(etcd_kills),
        "stopped": summary(stops),
        "transferred": summary(transfers),
    }
    killed = result["killed"]
    bars = {
        "killed": bar(
            f"median under {MEDIAN_S} s, P95 under {P95_S} s", killed["median_s"] < MEDIAN_S and killed["p95_s"] < P95_S
        ),
        **{
            name: bar(f"under {GRACEFUL_S} s", result[name]["max_s"] < GRACEFUL_S)
            for name in ("stopped", "transferred")
        },
    }
    print(f"{'leader to next write':<22}{'median s':>10}{'p95 s':>10}{'max s':>10}")
    for name, row in result.items():
        print(f"{name:<22}{row['median_s']:>10.3f}{row['p95_s']:>10.3f}{row['max_s']:>10.3f}  {bars.get(name, '')}")
    OUT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
