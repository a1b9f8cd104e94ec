"""Writes per second and latency of one coordinator through gRPC and mTLS, beside its store alone and the disk.

The coordinator is a process of its own and this is its client. `UpdateWorkload` writes a small workload (validated,
defaults filled in, applied, answered with its view); `CreateToken` also signs a JWT; `ApplyWorkloads` writes 100 in
each call. `store` is the same log and state machine in this process, without gRPC; `fdatasync` is one write and sync
of as many frames as are in flight, in a loop. `server ms` is the coordinator's CPU time for each write.

    .venv/bin/python test/bench/bench_grpc_writes.py [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
import uvloop

from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.clock import SystemClock
from cloudless.coordinator.core.commands import PutWorkload
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core import defaults
from cloudless.core.spec import Container, Metadata, WorkloadSpec
from cloudless.identity.channel import open_channel

IN_FLIGHT = (1, 64)
BATCH = 100
NAMES = 200
FRAME_BYTES = 400
OUT = Path(__file__).parents[2] / "build" / "bench" / "grpc_writes.json"
TICKS = os.sysconf("SC_CLK_TCK")

Write = Callable[[int], Awaitable[object]]
Row = dict[str, Any]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def figures(latencies: list[float], writes: int, seconds: float) -> Row:
    ordered = sorted(latencies)
    return {
        "writes_per_s": round(writes / seconds),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 3),
    }


async def drive(write: Write, in_flight: int, seconds: float, *, per_call: int = 1) -> Row:
    latencies: list[float] = []
    numbers = itertools.count()
    for number in range(20):
        await write(number)
    began = time.perf_counter()
    end = began + seconds

    async def caller() -> None:
        while (start := time.perf_counter()) < end:
            await write(next(numbers))
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return figures(latencies, len(latencies) * per_call, time.perf_counter() - began)


def raw(directory: Path, in_flight: int, seconds: float) -> Row:
    path = directory / "raw"
    data = os.urandom(FRAME_BYTES * in_flight)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    latencies: list[float] = []
    began = time.perf_counter()
    while (start := time.perf_counter()) - began < seconds:
        os.write(fd, data)
        os.fdatasync(fd)
        latencies.append(time.perf_counter() - start)
    os.close(fd)
    path.unlink()
    return figures(latencies, len(latencies) * in_flight, time.perf_counter() - began)


def fill(message: Any, number: int) -> Any:
    message.metadata.name = f"w{number % NAMES}"
    message.metadata.labels["round"] = str(number)
    message.spec.containers.add(name="main", image="docker.io/library/web:1")
    return message


async def store_alone(directory: Path, in_flight: int, seconds: float) -> Row:
    store = await Store.open(directory / f"store-{in_flight}", machine=FabricMachine("bench"), clock=SystemClock())
    spec = WorkloadSpec(containers=(Container(name="main", image="docker.io/library/web:1"),))

    async def write(number: int) -> None:
        metadata, filled = defaults.apply(Metadata(f"w{number % NAMES}", labels={"round": str(number)}), spec)
        await store.propose(PutWorkload(metadata, filled), actor="user/bench")

    measured = await drive(write, in_flight, seconds)
    await store.close()
    return measured


async def through_grpc(address: str, data: Path, pid: int, seconds: float) -> list[Row]:
    context = contexts.load(data / "admin.yaml").get()
    rows: list[Row] = []
    async with open_channel(address, context.credentials()) as channel:
        workloads = control_pb2_grpc.WorkloadServiceStub(channel)
        tokens = control_pb2_grpc.TokenServiceStub(channel)
        cluster = control_pb2_grpc.UserServiceStub(channel)
        seed = control_pb2.ApplyWorkloadsRequest()
        for number in range(NAMES):
            fill(seed.workloads.add(), number)
        await workloads.ApplyWorkloads(seed)

        async def update(number: int) -> None:
            await workloads.UpdateWorkload(fill(control_pb2.UpdateWorkloadRequest(), number))

        async def create_token(number: int) -> None:
            await tokens.CreateToken(control_pb2.CreateTokenRequest(node_pattern="n*"))

        async def batch(number: int) -> None:
            request = control_pb2.ApplyWorkloadsRequest()
            for offset in range(BATCH):
                fill(request.workloads.add(), number * BATCH + offset)
            await workloads.ApplyWorkloads(request)

        async def nothing(number: int) -> None:
            await cluster.WhoAmI(control_pb2.WhoAmIRequest())

        plan: list[tuple[str, Write, int, tuple[int, ...]]] = [
            ("UpdateWorkload", update, 1, IN_FLIGHT),
            ("CreateToken", create_token, 1, IN_FLIGHT),
            (f"ApplyWorkloads of {BATCH}", batch, BATCH, (1, 4)),
            ("WhoAmI (no write)", nothing, 1, IN_FLIGHT),
        ]
        for name, write, per_call, in_flights in plan:
            for in_flight in in_flights:
                before = cpu_s(pid)
                measured = await drive(write, in_flight, seconds, per_call=per_call)
                spent = (cpu_s(pid) - before) / (measured["writes_per_s"] * seconds)
                rows.append({"name": name, "in_flight": in_flight, **measured, "server_ms": round(spent * 1000, 3)})
    return rows


def start(directory: Path) -> tuple[subprocess.Popen[bytes], Path]:
    data = directory / "coordinator"
    argv = [
        str(Path(sys.executable).parent / "cloudless-coordinator"),
        f"--data-dir={data}",
        "--listen-api=127.0.0.1:0",
        "--listen-enroll=127.0.0.1:0",
        "--metrics-listen=",
    ]
    with (directory / "coordinator.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    deadline = time.monotonic() + 30
    while not (data / "listen.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit((directory / "coordinator.log").read_text())
        time.sleep(0.02)
    return process, data


def show(row: Row, limit: Row | None) -> None:
    ratio = f"{row['writes_per_s'] / limit['writes_per_s']:.3f}" if limit else ""
    row["of_store"] = float(ratio) if ratio else None
    server = f"{row['server_ms']:.3f}" if "server_ms" in row else ""
    print(
        f"{row['name']:<24}{row['in_flight']:>9}{row['writes_per_s']:>11,}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        f"{server:>11}{ratio:>10}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--directory", type=Path, default=OUT.parent, help="on the disk that is to be measured")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    options.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="grpc-", dir=options.directory))
    rows: list[Row] = []
    print(f"{'':<24}{'in flight':>9}{'writes/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'server ms':>11}{'of store':>10}")
    try:
        for n in IN_FLIGHT:
            rows.append({"name": "fdatasync", "in_flight": n, **raw(directory, n, options.seconds)})
            show(rows[-1], None)
        stores = {}
        for n in IN_FLIGHT:
            measured = uvloop.run(store_alone(directory, n, options.seconds))
            stores[n] = {"name": "store", "in_flight": n, **measured}
            rows.append(stores[n])
            show(rows[-1], None)
        process, data = start(directory)
        try:
            address = json.loads((data / "listen.json").read_text())["api"]
            for row in uvloop.run(through_grpc(address, data, process.pid, options.seconds)):
                show(row, stores.get(row["in_flight"]))
                rows.append(row)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    finally:
        shutil.rmtree(directory)
    OUT.write_text(json.dumps({"frame_bytes": FRAME_BYTES, "writes": rows}, indent=2) + "\n")
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
