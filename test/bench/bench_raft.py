"""The replicated log of three coordinators beside etcd's, in one run on one disk.

Three processes each, on loopback, fdatasync on; ours with mutual TLS between members. Ours is driven by callers inside
the leader's process (which is where the coordinator's own services run), etcd by h2load over HTTP/2 on its leader,
which costs etcd less than any client in Python would. Then: a restart with a long history, a new member that has to
be sent a snapshot of 150 MB while the others go on, and the memory of replicated objects.

    .venv/bin/python test/bench/bench_raft.py [--seconds 3] [--directory DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cloudless.clock import SystemClock
from cloudless.coordinator.etcd.api import rpc_pb2
from cloudless.identity.ca import CertificateAuthority
from cloudless.testing.etcd import free_ports, running_etcd

IN_FLIGHT = (1, 64, 512)
SNAPSHOT_OBJECTS = 150
SNAPSHOT_OBJECT_BYTES = 2**20
OBJECTS = 100_000
HISTORY = 1_000_000
OUT = Path(__file__).parents[2] / "build" / "bench" / "raft.json"
PROGRAM = Path(__file__).with_name("raft_member.py")
TIMES_ETCD_AT_64 = 2.0
RESTART_S = 5.0
INSTALL_S = 5.0
INSTALL_P99_MS = 50.0


class Member:
    """A process of `raft_member.py`."""

    def __init__(self, name: str, port: int, directory: Path, authority: Path, *flags: str) -> None:
        self.name = name
        self.address = f"127.0.0.1:{port}"
        argv = [sys.executable, str(PROGRAM), "--id", name, "--address", self.address]
        argv += ["--directory", str(directory / name), "--authority", str(authority), *flags]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._answer()

    def start(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        return self._answer()

    def do(self, *words: object) -> dict[str, Any]:
        self.start(*words)
        return self._answer()

    def stop(self) -> None:
        self.do("stop")
        self._process.wait(30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        return dict(json.loads(line))


class Cluster:
    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.authority = directory / "ca"
        if not self.authority.exists():
            CertificateAuthority.create(self.authority, "bench.test", SystemClock())
        self.ports = dict(zip(("m1", "m2", "m3", "m4"), free_ports(4), strict=True))
        self.flags = flags
        self.members: dict[str, Member] = {}
        self.start("m1", "--bootstrap")
        for name in ("m2", "m3"):
            self.join(name)
        self.wait(lambda: self.leader().do("status")["voters"] == 3)

    def start(self, name: str, *flags: str) -> Member:
        member = Member(name, self.ports[name], self.directory, self.authority, *self.flags, *flags)
        self.members[name] = member
        return member

    def join(self, name: str) -> None:
        member = self.start(name)
        self.leader().do("add", name, member.address)

    def leader(self) -> Member:
        found: list[Member] = []

        def led() -> bool:
            found[:] = [m for m in self.members.values() if m.do("status")["role"] == "leader"]
            return bool(found)

        self.wait(led)
        return found[0]

    @staticmethod
    def wait(condition: Any, seconds: float = 30.0) -> None:
        ends = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > ends:
                raise TimeoutError
            time.sleep(0.02)

    def stop(self) -> None:
        for member in self.members.values():
            member.kill()


def etcd_commits(directory: Path, in_flight: int, seconds: float, leader: str) -> dict[str, float]:
    """Puts of 200 bytes through gRPC."""
    message = rpc_pb2.PutRequest(key=b"k" * 16, value=b"v" * 184).SerializeToString()
    body, log = directory / "put.bin", directory / f"h2load-{in_flight}.log"
    body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    clients = max(1, in_flight // 64)
    argv = ["h2load", "-D", str(int(seconds)), "-c", str(clients), "-m", str(in_flight // clients), "-t", "1"]
    argv += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file", str(log)]
    subprocess.run([*argv, f"http://{leader}/etcdserverpb.KV/Put"], check=True, capture_output=True)
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    latencies = sorted(int(took) / 1000 for _, status, took in rows if status == "200")
    return {
        "per_s": round(len(latencies) / int(seconds)),
        "p50_ms": round(latencies[len(latencies) // 2], 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)], 3),
        "max_ms": round(latencies[-1], 3),
    }


def verdict(met: bool) -> str:
    return "met" if met else "NOT met"


def etcd_leader(endpoints: list[str]) -> str:
    argv = ["etcdctl", f"--endpoints={','.join(endpoints)}", "endpoint", "status", "-w", "json"]
    rows = json.loads(subprocess.check_output(argv, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}))
    return str(next(r["Endpoint"] for r in rows if r["Status"]["header"]["member_id"] == r["Status"]["leader"]))


def commits(directory: Path, seconds: float) -> list[dict[str, Any]]:
    """Ours and etcd's in turns, since a shared machine is not equally fast all the time."""
    rows: list[dict[str, Any]] = []
    print(f"{'commits, 3 members':<22}{'ours/s':>9}{'p50':>8}{'p99':>8}{'etcd/s':>9}{'p50':>8}{'p99':>8}{'ratio':>7}")
    (directory / "ours").mkdir()
    (directory / "etcd").mkdir()
    cluster = Cluster(directory / "ours")
    try:
        with running_etcd(directory / "etcd", members=3) as members:
            peer_leader = etcd_leader([member.endpoint for member in members])
            leader = cluster.leader()
            leader.do("load", 64, 1)
            for in_flight in IN_FLIGHT:
                ours = leader.do("load", in_flight, seconds)
                etcd = etcd_commits(directory, in_flight, seconds, peer_leader)
                ratio = ours["per_s"] / etcd["per_s"]
                print(
                    f"{in_flight:>3} in flight         {ours['per_s']:>9,}{ours['p50_ms']:>8.2f}{ours['p99_ms']:>8.2f}"
                    f"{etcd['per_s']:>9,}{etcd['p50_ms']:>8.2f}{etcd['p99_ms']:>8.2f}{ratio:>7.2f}"
                )
                rows.append({"in_flight": in_flight, "ours": ours, "etcd": etcd, "ratio": round(ratio, 2)})
    finally:
        cluster.stop()
    ratio = next(row["ratio"] for row in rows if row["in_flight"] == 64)
    print(f"target: {TIMES_ETCD_AT_64} x etcd at 64 in flight: {verdict(ratio >= TIMES_ETCD_AT_64)}")
    return rows


def memory_and_restart(directory: Path) -> dict[str, Any]:
    """A hundred thousand objects, a history of a million entries, then a kill and a start of one member."""
    (directory / "history").mkdir()
    cluster = Cluster(directory / "history")
    try:
        leader = cluster.leader()
        filled = leader.do("fill", 0, OBJECTS, 200)
        per_objects = round(filled["after_mib"] - filled["before_mib"], 1)
        while leader.do("status")["last"] < HISTORY:
            leader.do("load", 512, 2)
        last = leader.do("status")["last"]
        follower = next(member for member in cluster.members.values() if member is not leader)
        follower.kill()
        began = time.time()
        again = cluster.start(follower.name)
        caught_up = again.do("wait", last)["at"] - began
        cluster.stop()
        # And all of them: until the first write is accepted.
        began = time.time()
        for name in list(cluster.members):
            cluster.start(name)
        cluster.leader().do("load", 1, 0.01)
        all_back = time.time() - began
    finally:
        cluster.stop()
    print(f"{OBJECTS:,} objects of 200 bytes: {per_objects} MiB resident")
    print(
        f"restart with {last:,} entries: log open after {again.ready['opened_s']:.2f} s, "
        f"caught up after {caught_up:.2f} s; "
        f"all three, to the first write: {all_back:.2f} s "
        f"(target: under {RESTART_S} s: {verdict(max(caught_up, all_back) < RESTART_S)})"
    )
    return {
        "objects_mib": per_objects,
        "entries": last,
        "opened_s": again.ready["opened_s"],
        "caught_up_s": round(caught_up, 2),
        "all_back_s": round(all_back, 2),
    }


def install(directory: Path) -> dict[str, Any]:
    """A fourth member has to be sent 150 MB while the leader takes writes."""
    (directory / "install").mkdir()
    cluster = Cluster(directory / "install")
    try:
        leader = cluster.leader()
        leader.do("fill", 0, SNAPSHOT_OBJECTS, SNAPSHOT_OBJECT_BYTES)
        written = leader.do("snapshot")
        leader.do("load", 64, 2)
        leader.do("snapshot")
        quiet = leader.do("load", 16, 3)
        target = leader.do("status")["commit"]
        began = time.time()
        new = cluster.start("m4")
        started = time.time()
        leader.do("add", "m4", new.address)
        leader.start("load", 16, 6)
        done = new.do("wait", target)["at"]
        busy = leader.result()
    finally:
        cluster.stop()
    seconds = done - started
    print(
        f"snapshot of {written['bytes'] / 1e6:.0f} MB written in {written['seconds']:.2f} s, "
        f"installed in {seconds:.2f} s; "
        f"write p99 {busy['p99_ms']:.1f} ms meanwhile (max {busy['max_ms']:.0f}), {quiet['p99_ms']:.1f} ms before "
        f"(target: under {INSTALL_S} s and {INSTALL_P99_MS:.0f} ms: "
        f"{verdict(seconds < INSTALL_S and busy['p99_ms'] < INSTALL_P99_MS)})"
    )
    return {
        "bytes": written["bytes"],
        "written_s": written["seconds"],
        "installed_s": round(seconds, 2),
        "process_started_s": round(started - began, 2),
        "quiet": quiet,
        "meanwhile": busy,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--directory", type=Path, default=OUT.parent, help="on the disk that is to be measured")
    parser.add_argument("--only", choices=("commits", "restart", "install"))
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="raft-", dir=options.directory))
    results: dict[str, Any] = {}
    try:
        if options.only in (None, "commits"):
            results["commits"] = commits(directory, options.seconds)
        if options.only in (None, "restart"):
            results["restart"] = memory_and_restart(directory)
        if options.only in (None, "install"):
            results["install"] = install(directory)
    finally:
        shutil.rmtree(directory)
    OUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
