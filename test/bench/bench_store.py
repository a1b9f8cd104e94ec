"""Writes per second and latency of the in-process store, beside what the disk allows.

The raw limit for N in flight: N framed records of the same size in one write and one fdatasync, in a loop, without
anything else. `engine` is group commit alone with 200-byte commands; `store` the whole path with the fabric's
state machine; `during snapshots` the same while snapshots of a large state are written without a pause.

    .venv/bin/python test/bench/bench_store.py [--seconds 2] [--directory DIR]
"""

import argparse
import asyncio
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import uvloop

from cloudless.clock import SystemClock
from cloudless.config import StoreConfig
from cloudless.coordinator.core import snapshot
from cloudless.coordinator.core.commands import PutUser
from cloudless.coordinator.core.state import State
from cloudless.coordinator.engine import EngineParts
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import collector, record
from cloudless.coordinator.wal.files import OsFilesystem
from cloudless.coordinator.wal.log import Log
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.coordinator.wal.record import LogEntry
from cloudless.coordinator.wal.single import open_single
from cloudless.core.model import (
    CandidateScore,
    ContainerStatus,
    PlacementDecision,
    Replica,
    ReplicaPhase,
    ReplicaStatus,
    Role,
    RoleBinding,
    User,
    WorkloadRecord,
)
from cloudless.core.spec import Metadata, ResourceAmounts, WorkloadSpec

IN_FLIGHT = (1, 64, 512)
COMMAND_BYTES = 200
OUT = Path(__file__).parents[2] / "build" / "bench" / "store.json"


def figures(latencies: list[float], count: int, seconds: float) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        "writes_per_s": round(count / seconds),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 3),
    }


def raw(directory: Path, in_flight: int, frame_bytes: int, seconds: float) -> list[float]:
    """How long each write and fdatasync of one group took."""
    path = directory / f"raw-{in_flight}-{frame_bytes}"
    data = os.urandom(frame_bytes * in_flight)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    latencies: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        os.write(fd, data)
        os.fdatasync(fd)
        latencies.append(time.perf_counter() - start)
    os.close(fd)
    path.unlink()
    return latencies


async def drive(write: Callable[[int], Awaitable[object]], in_flight: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    number = 0
    began = time.perf_counter()
    end = began + seconds

    async def caller() -> None:
        nonlocal number
        while (start := time.perf_counter()) < end:
            number += 1
            await write(number)
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return figures(latencies, len(latencies), time.perf_counter() - began)


class Nothing:
    """A `StateHost` without a state: what is left is the engine alone."""

    applied_index = 0
    applied_term = 0

    def apply(self, entry: LogEntry) -> None:
        self.applied_index, self.applied_term = entry.index, entry.term

    def load(self, body: bytes) -> tuple[int, int]:
        return 0, 0

    async def install(self, body: bytes) -> tuple[int, int]:
        return 0, 0


async def engine(directory: Path, in_flight: int, seconds: float) -> dict[str, float]:
    parts = EngineParts(
        directory=directory / f"engine-{in_flight}",
        member="bench",
        config=StoreConfig(),
        filesystem=OsFilesystem(),
        run_blocking=asyncio.to_thread,
        clock=SystemClock(),
        seconds=time.perf_counter,
        random_bits=secrets.randbits,
        on_failure=lambda _: None,
    )
    single = await open_single(parts, Nothing())
    data = b"x" + os.urandom(COMMAND_BYTES - 1)
    measured = await drive(lambda _: single.propose(data), in_flight, seconds)
    await single.close()
    return measured


def command(number: int) -> PutUser:
    return PutUser(User(f"u{number % 1000}", (RoleBinding(Role.VIEWER, f"n{number}".ljust(120, "x")),)))


async def store(directory: Path, in_flight: int, seconds: float) -> dict[str, float]:
    opened = await Store.open(directory / f"store-{in_flight}", machine=FabricMachine("bench"), clock=SystemClock())
    measured = await drive(lambda n: opened.propose(command(n), actor="user/bench"), in_flight, seconds)
    await opened.close()
    return measured


async def during_snapshots(directory: Path, seconds: float, users: int = 30_000) -> dict[str, float]:
    """64 in flight on a state of many objects, with one snapshot after the other."""
    config = StoreConfig(snapshot_entries=10**9)
    path = directory / "during"
    opened = await Store.open(path, machine=FabricMachine("bench"), clock=SystemClock(), config=config)
    big = [PutUser(User(f"big{n}", (RoleBinding(Role.VIEWER, "ns"),))) for n in range(users)]
    for start in range(0, users, 2000):
        await asyncio.gather(*(opened.propose(c, actor="user/bench") for c in big[start : start + 2000]))
    await opened.close()
    config = StoreConfig(snapshot_entries=1000)
    opened = await Store.open(path, machine=FabricMachine("bench"), clock=SystemClock(), config=config)
    measured = await drive(lambda n: opened.propose(command(n), actor="user/bench"), 64, seconds)
    await opened.close()
    return measured


async def recovery(directory: Path, entries: int) -> dict[str, float]:
    path = directory / "recovery"
    config = StoreConfig(snapshot_entries=10**9)
    opened = await Store.open(path, machine=FabricMachine("bench"), clock=SystemClock(), config=config)
    for start in range(0, entries, 2000):
        await asyncio.gather(*(opened.propose(command(n), actor="user/bench") for n in range(start, start + 2000)))
    await opened.close()
    began = time.perf_counter()
    opened = await Store.open(path, machine=FabricMachine("bench"), clock=SystemClock(), config=config)
    seconds = time.perf_counter() - began
    await opened.close()
    return {"entries": entries, "seconds": round(seconds, 3), "entries_per_s": round(entries / seconds)}


def scan(directory: Path, entries: int) -> dict[str, float]:
    """Opening a log of so many entries, none of them compacted: all are read and checked."""
    path = directory / "scan"
    data = b"x" + os.urandom(COMMAND_BYTES - 1)
    wal = Log.open(OsFilesystem(), path, segment_bytes=StoreConfig().segment_bytes, salt=lambda: 1)
    for first in range(1, entries + 1, 2000):
        wal.append([LogEntry(index, 1, data) for index in range(first, min(first + 2000, entries + 1))])
    wal.close()
    began = time.perf_counter()
    wal = Log.open(OsFilesystem(), path, segment_bytes=StoreConfig().segment_bytes, salt=lambda: 1)
    seconds = time.perf_counter() - began
    assert wal.last_index == entries
    wal.close()
    shutil.rmtree(path)
    return {"entries": entries, "seconds": round(seconds, 3)}


def large_state(replicas: int) -> State:
    state = State.empty("bench")
    spec = WorkloadRecord(metadata=Metadata(name="w", namespace="default"), spec=WorkloadSpec())
    state = state.with_workload(spec)
    digest = "sha256:" + "ab" * 32
    for n in range(replicas):
        node_id = f"node-{n % 1000:05d}"
        container = ContainerStatus(name="main", state="running", ready=True, started_at_ms=n, image_digest=digest)
        status = ReplicaStatus(phase=ReplicaPhase.READY, address=f"10.1.0.{n % 250}", containers=(container,))
        candidates = tuple(CandidateScore(node_id=f"node-{(n + k) % 1000:05d}") for k in range(3))
        placement = PlacementDecision(node_id=node_id, candidates=candidates, nodes_considered=1000)
        replica = Replica(
            id=f"r{n:08d}",
            workload="w",
            namespace="default",
            generation=1,
            node_id=node_id,
            status=status,
            placement=placement,
            fragment=ResourceAmounts(1, 1),
            revision=n,
        )
        state = state.with_replica(replica)
    return state


async def beside_writes(directory: Path, body: bytes, in_flight: int = 64) -> dict[str, float]:
    """Decoding a snapshot as a member does that gets it from another one, while this store takes writes. It is of an
    older entry, so that it does not become the state."""
    opened = await Store.open(directory / "beside", machine=FabricMachine("bench"), clock=SystemClock())
    latencies: list[float] = []
    done = False

    async def caller(number: int) -> None:
        while not done:
            start = time.perf_counter()
            await opened.propose(command(number), actor="user/bench")
            latencies.append(time.perf_counter() - start)

    callers = [asyncio.ensure_future(caller(number)) for number in range(in_flight)]
    await asyncio.sleep(0.5)
    latencies.clear()
    began = time.perf_counter()
    await opened.install(body)
    seconds = time.perf_counter() - began
    done = True
    measured = figures(latencies, len(latencies), seconds)
    await asyncio.gather(*callers)
    await opened.close()
    return {"seconds": round(seconds, 3), **measured}


def large(directory: Path, replicas: int) -> dict[str, float]:
    state = large_state(replicas)
    began = time.perf_counter()
    body = snapshot.encode(state, index=0, term=0)
    encoded = time.perf_counter() - began
    began = time.perf_counter()
    with collector.paused():
        snapshot.decode(body)
    decoded = time.perf_counter() - began
    del state
    beside = uvloop.run(beside_writes(directory, body))
    return {
        "replicas": replicas,
        "bytes": len(body),
        "encode_s": round(encoded, 3),
        "decode_s": round(decoded, 3),
        **{f"beside_{key}": value for key, value in beside.items()},
    }


def compare(name: str, in_flight: int, measure: Callable[[], dict[str, float]], directory: Path) -> dict[str, object]:
    """Measures between two halves of its limit, since a shared machine is not equally fast all the time."""
    frame = COMMAND_BYTES + record.HEADER_BYTES
    groups = raw(directory, in_flight, frame, 0.7)
    measured = measure()
    groups += raw(directory, in_flight, frame, 0.7)
    limit = figures(groups, len(groups) * in_flight, sum(groups))
    ratio = measured["writes_per_s"] / limit["writes_per_s"]
    slower = measured["p50_ms"] / limit["p50_ms"]
    print(
        f"{name:<18}{in_flight:>9}{measured['writes_per_s']:>11,}{measured['p50_ms']:>9.2f}{measured['p99_ms']:>9.2f}"
        f"{limit['writes_per_s']:>13,}{limit['p50_ms']:>9.2f}{ratio:>9.2f}{slower:>9.2f}"
    )
    return {"name": name, "in_flight": in_flight, **measured, "raw": limit, "of_raw": round(ratio, 3)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--directory", type=Path, default=OUT.parent, help="on the disk that is to be measured")
    parser.add_argument("--entries", type=int, default=200_000, help="for recovery")
    parser.add_argument("--scan-entries", type=int, default=1_000_000, help="in the log that is only opened")
    parser.add_argument("--replicas", type=int, default=100_000, help="in the large state")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    collector.prefer_latency()  # as the coordinator does
    options.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="store-", dir=options.directory))
    rows: list[dict[str, object]] = []
    try:
        print(
            f"{'':<18}{'in flight':>9}{'writes/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'raw writes/s':>13}{'raw p50':>9}"
            f"{'of raw':>9}{'x p50':>9}"
        )
        seconds = options.seconds
        for n in IN_FLIGHT:
            rows.append(compare("engine", n, lambda n=n: uvloop.run(engine(directory, n, seconds)), directory))
        for n in IN_FLIGHT:
            rows.append(compare("store", n, lambda n=n: uvloop.run(store(directory, n, seconds)), directory))
        rows.append(
            compare("during snapshots", 64, lambda: uvloop.run(during_snapshots(directory, seconds)), directory)
        )
        recovered = uvloop.run(recovery(directory, options.entries))
        print(f"recovery of {recovered['entries']:,} entries: {recovered['seconds']} s")
        scanned = scan(directory, options.scan_entries)
        print(f"a log of {scanned['entries']:,} entries is read and checked in {scanned['seconds']} s")
        sized = large(directory, options.replicas)
        print(
            f"a state of {sized['replicas']:,} replicas ({sized['bytes'] / 1e6:.0f} MB): "
            f"encoded in {sized['encode_s']} s, decoded in {sized['decode_s']} s; "
            f"beside 64 writers in {sized['beside_seconds']} s, "
            f"writes p50 {sized['beside_p50_ms']} ms, p99 {sized['beside_p99_ms']} ms"
        )
    finally:
        shutil.rmtree(directory)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(
        json.dumps({"writes": rows, "recovery": recovered, "scan": scanned, "large": sized}, indent=2) + "\n"
    )
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
