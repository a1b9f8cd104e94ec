"""Writes per second and latency of one coordinator through gRPC and mTLS, beside gRPC alone, its store alone and the
disk.

The coordinator is a process of its own; this is its client, and hardly costs anything (`testing.grpc_load`).
`UpdateWorkload` writes a small workload (validated, defaults filled in, applied, answered with its view), whose labels
differ each time; with `, new spec` its spec does, too. `CreateToken` also signs a JWT; `ApplyWorkloads` writes 100 in
each call. `grpc.aio` is a server of the same library whose handler does nothing: what is in reach at most. `store` is
the same log and state machine in this process, without gRPC; `fdatasync` is one write and sync of as many frames as are
in flight, in a loop. `server ms` is the server's CPU time for each write. `three members`: at the leader of
three coordinators on loopback; `server ms` is the leader's.

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

import grpc
import grpc.aio
import structlog
import uvloop

from cloudless import contexts
from cloudless.api.v1 import control_pb2
from cloudless.clock import SystemClock
from cloudless.coordinator.core.commands import PutWorkload
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core import defaults
from cloudless.core.spec import Container, Metadata, WorkloadSpec
from cloudless.dev.bench import cpu_s, start_coordinator
from cloudless.dev.fabric import LocalFabric
from cloudless.identity import credentials as stored
from cloudless.identity.channel import SERVER_OPTIONS, ServerCertificate, server_credentials
from cloudless.identity.credentials import Credentials
from cloudless.identity.spiffe import COORDINATOR, USER
from cloudless.testing.grpc_load import UnaryLoad, latencies_of
from cloudless.testing.identity import Fabric

IN_FLIGHT = (1, 64)
BATCH = 100
NAMES = 200
FRAME_BYTES = 400
WRITES_PER_S = 5000  # at 64 in flight
SERIAL_P50_MS = 1.5  # with three members
OUT = Path(__file__).parents[2] / "build" / "bench" / "grpc_writes.json"

Write = Callable[[int], Awaitable[object]]
Request = Callable[[int], bytes]
Row = dict[str, Any]


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


async def load(
    address: str, credentials: Credentials, path: str, request: Request, pid: int, options: tuple[int, int, float]
) -> Row:
    """`options`: writes in each call, calls in flight, seconds."""
    per_call, in_flight, seconds = options
    client = await UnaryLoad.connect(address, credentials, path)
    try:
        for number in range(20):
            await client.call(request(number))
        before, began = cpu_s(pid), time.perf_counter()
        latencies = await latencies_of(client, request, in_flight=in_flight, seconds=seconds)
        row = figures(latencies, len(latencies) * per_call, time.perf_counter() - began)
        return row | {"server_ms": round((cpu_s(pid) - before) / (len(latencies) * per_call) * 1000, 3)}
    finally:
        client.close()


def update(number: int) -> bytes:
    return fill(control_pb2.UpdateWorkloadRequest(), number).SerializeToString()


def update_spec(number: int) -> bytes:
    request = fill(control_pb2.UpdateWorkloadRequest(), number)
    request.spec.containers[0].env.add(name="ROUND", value=f"{number}-{os.getpid()}-{time.perf_counter_ns()}")
    return request.SerializeToString()


def create_token(number: int) -> bytes:
    return control_pb2.CreateTokenRequest(node_pattern="n*").SerializeToString()


def batch(number: int) -> bytes:
    request = control_pb2.ApplyWorkloadsRequest()
    for offset in range(BATCH):
        fill(request.workloads.add(), number * BATCH + offset)
    return request.SerializeToString()


def nothing(number: int) -> bytes:
    return b""


API = "/cloudless.api.v1."
PLAN: tuple[tuple[str, str, Request, int, tuple[int, ...]], ...] = (
    ("UpdateWorkload", API + "WorkloadService/UpdateWorkload", update, 1, IN_FLIGHT),
    ("UpdateWorkload, new spec", API + "WorkloadService/UpdateWorkload", update_spec, 1, IN_FLIGHT),
    ("CreateToken", API + "TokenService/CreateToken", create_token, 1, IN_FLIGHT),
    (f"ApplyWorkloads of {BATCH}", API + "WorkloadService/ApplyWorkloads", batch, BATCH, (1, 4)),
    ("WhoAmI (no write)", API + "UserService/WhoAmI", nothing, 1, IN_FLIGHT),
)


async def seed(address: str, credentials: Credentials) -> None:
    """The workloads that are written again and again."""
    request = control_pb2.ApplyWorkloadsRequest()
    for number in range(NAMES):
        fill(request.workloads.add(), number)
    client = await UnaryLoad.connect(address, credentials, API + "WorkloadService/ApplyWorkloads")
    await client.call(request.SerializeToString())
    client.close()


async def through_grpc(address: str, data: Path, pid: int, seconds: float) -> list[Row]:
    credentials = contexts.load(data / "admin.yaml").get().credentials()
    await seed(address, credentials)
    rows: list[Row] = []
    for name, path, request, per_call, in_flights in PLAN:
        for in_flight in in_flights:
            measured = await load(address, credentials, path, request, pid, (per_call, in_flight, seconds))
            rows.append({"name": name, "in_flight": in_flight, **measured})
    return rows


async def through_leader(fabric: LocalFabric, seconds: float) -> list[Row]:
    credentials = contexts.load(fabric.context_file).get().credentials()
    leader = fabric.leader()
    address, pid = fabric.address(leader), fabric.pid(fabric.coordinator_process(leader))
    await seed(address, credentials)
    name, path, request, per_call, in_flights = PLAN[0]
    return [
        {"name": f"{name}, three members", "in_flight": n}
        | await load(address, credentials, path, request, pid, (per_call, n, seconds))
        for n in in_flights
    ]


def three_members(directory: Path, seconds: float) -> list[Row]:
    fabric = LocalFabric(directory, tag="clgrpc")
    try:
        fabric.start_coordinators(3)
        return uvloop.run(through_leader(fabric, seconds))
    finally:
        fabric.stop_together([fabric.coordinator_process(name) for name in fabric.coordinators()])


async def grpc_alone(address: str, credentials: Credentials, pid: int, seconds: float) -> list[Row]:
    return [
        {"name": "grpc.aio", "in_flight": n, **await load(address, credentials, "/t.T/T", update, pid, (1, n, seconds))}
        for n in IN_FLIGHT
    ]


async def serve_nothing(directory: Path) -> None:
    """The other process of `grpc_alone`: writes where it listens, answers until it is killed."""
    fabric = Fabric(directory / "ca")
    fabric.member(USER, "bench").save(directory / "user")
    answer = bytes(300)

    async def handler(request: bytes, context: Any) -> bytes:
        return answer

    server = grpc.aio.server(options=SERVER_OPTIONS)
    methods = {"T": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
    certificate = ServerCertificate(fabric.member(COORDINATOR, "bench"))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(certificate, require_client=True))
    await server.start()
    (directory / "address.new").write_text(f"127.0.0.1:{port}")
    (directory / "address.new").rename(directory / "address")
    await server.wait_for_termination()


def start_nothing(directory: Path) -> tuple[subprocess.Popen[bytes], str, Credentials]:
    directory.mkdir()
    process = subprocess.Popen([sys.executable, __file__, "--serve-nothing", str(directory)])
    while not (directory / "address").exists():
        if process.poll() is not None:
            raise SystemExit("the server that does nothing did not start")
        time.sleep(0.02)
    return process, (directory / "address").read_text(), stored.load(directory / "user")


def show(row: Row, store: Row | None, alone: Row | None) -> None:
    ratios = [f"{row['writes_per_s'] / limit['writes_per_s']:.3f}" if limit else "" for limit in (store, alone)]
    row["of_store"], row["of_grpc"] = (float(ratio) if ratio else None for ratio in ratios)
    server = f"{row['server_ms']:.3f}" if "server_ms" in row else ""
    print(
        f"{row['name']:<30}{row['in_flight']:>9}{row['writes_per_s']:>11,}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        f"{server:>11}{ratios[0]:>10}{ratios[1]:>9}",
        flush=True,
    )


def measure(directory: Path, seconds: float) -> list[Row]:
    rows: list[Row] = []
    print(f"{'':<30}{'in flight':>9}{'writes/s':>11}{'p50 ms':>9}{'p99 ms':>9}", end="")
    print(f"{'server ms':>11}{'of store':>10}{'of grpc':>9}")
    for n in IN_FLIGHT:
        rows.append({"name": "fdatasync", "in_flight": n, **raw(directory, n, seconds)})
        show(rows[-1], None, None)
    stores = {}
    for n in IN_FLIGHT:
        stores[n] = {"name": "store", "in_flight": n, **uvloop.run(store_alone(directory, n, seconds))}
        show(stores[n], None, None)
    process, address, credentials = start_nothing(directory / "nothing")
    try:
        alone = {row["in_flight"]: row for row in uvloop.run(grpc_alone(address, credentials, process.pid, seconds))}
    finally:
        process.kill()
        process.wait()
    for row in alone.values():
        show(row, None, None)
    process, data = start_coordinator(directory)
    try:
        address = json.loads((data / "listen.json").read_text())["api"]
        through = uvloop.run(through_grpc(address, data, process.pid, seconds))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    through += three_members(directory / "three", seconds)
    for row in through:
        show(row, stores.get(row["in_flight"]), alone.get(row["in_flight"]))
    judge(through)
    return [*rows, *stores.values(), *alone.values(), *through]


def judge(rows: list[Row]) -> None:
    """What the requirements ask for."""
    first = PLAN[0][0]
    by_name = {(row["name"], row["in_flight"]): row for row in rows}
    for name in (first, f"{first}, three members"):
        per_s = by_name[name, 64]["writes_per_s"]
        print(f"{name}: {WRITES_PER_S:,}/s at 64 in flight: {'met' if per_s >= WRITES_PER_S else 'NOT met'}")
    name = f"{first}, three members"
    p50_ms = by_name[name, 1]["p50_ms"]
    print(f"{name}: p50 under {SERIAL_P50_MS} ms, one by one: {'met' if p50_ms < SERIAL_P50_MS else 'NOT met'}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--directory", type=Path, default=OUT.parent, help="on the disk that is to be measured")
    parser.add_argument("--serve-nothing", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_nothing:
        uvloop.run(serve_nothing(options.serve_nothing))
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    options.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="grpc-", dir=options.directory))
    try:
        rows = measure(directory, options.seconds)
    finally:
        shutil.rmtree(directory)
    OUT.write_text(json.dumps({"frame_bytes": FRAME_BYTES, "writes": rows}, indent=2) + "\n")
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
