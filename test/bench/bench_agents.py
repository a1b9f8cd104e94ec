"""One coordinator and thousands of agents over real gRPC streams with mutual TLS on loopback.

The coordinator is a process of its own; the agents are one more (`testing.agent_load`), which has real certificates,
one connection each, and sends a heartbeat every second. Shown for each number of agents: how long it takes until all
are ready, the coordinator's CPU (of one core) and resident memory at rest, bytes on the wire for each node and
second, the slowest answer to a heartbeat, the P50 and P99 of a write through gRPC meanwhile, how long it takes to
place one replica on each node, and nodes that were called unreachable though their agents run. It goes on to twice
the number asked for, to say where it breaks: heartbeats late by more than a second, or nodes lost.

    .venv/bin/python test/bench/bench_agents.py [--agents 5000] [--seconds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop

from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.dev.bench import cpu_s, start_coordinator
from cloudless.identity.channel import channel_options, open_channel
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.keys import key_pem, new_private_key
from cloudless.identity.spiffe import NODE, SpiffeId
from cloudless.testing.agent_load import LoadAgent
from cloudless.testing.grpc_load import UnaryLoad, latencies_of

OUT = Path(__file__).parents[2] / "build" / "bench" / "agents.json"
AT_ONCE = 64
ENROL_AT_ONCE = 8  # the listener for strangers takes few at once
LATE_S = 1.0
RSS_MIB_MAX = 2048  # of a small server with 4 GiB
WRITES_PER_S = 100
Row = dict[str, Any]


def rss_mib(pid: int) -> float:
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def busy_share() -> tuple[int, int]:
    """Ticks of all cores so far: those in which they worked, and all."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def scraped(address: str) -> list[tuple[str, float]]:
    """The samples of the coordinator's metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return [(row.rpartition(" ")[0], float(row.rpartition(" ")[2])) for row in lines if not row.startswith("#")]


def lateness(address: str) -> list[tuple[float, float]]:
    """How often the coordinator's event loop was late by at most so many ms."""
    return [
        (float(name.partition('le="')[2].partition('"')[0]) * 1000, count)
        for name, count in scraped(address)
        if name.startswith("cloudless_event_loop_lateness_seconds_bucket")
    ]


def longest_turn_ms(before: list[tuple[float, float]], after: list[tuple[float, float]]) -> float:
    grown = [(bound, new - old) for (bound, new), (_, old) in zip(after, before, strict=True)]
    return next((bound for bound, count in grown if count >= grown[-1][1]), 0.0)


def unreachable_so_far(address: str) -> int:
    wanted = 'cloudless_node_transitions_total{state="Unreachable"}'
    return round(sum(value for name, value in scraped(address) if name == wanted))


def device() -> types_pb2.DeviceInfo:
    made = types_pb2.DeviceInfo(
        device_class=types_pb2.DEVICE_CLASS_SERVER, arch="amd64", os="linux", kernel="6.1", agent_version="bench"
    )
    made.capacity.cpu_millis, made.capacity.memory_bytes = 4000, 8 * 2**30
    made.runtimes.add(name="containerd", version="1", available=True)
    for name in ("seccomp", "cgroups", "overlayfs", "user_namespaces"):
        made.features.add(name=name, available=True)
    return made


class Bench:
    """One coordinator, and the agents that were connected to it so far."""

    def __init__(self, pid: int, address: str, metrics: str, admin: Credentials) -> None:
        self.pid = pid
        self.metrics = metrics
        self.address = address
        self.admin = admin
        self.agents: list[LoadAgent] = []
        self.changed = asyncio.Event()

    async def enrol(self, enroll: str, count: int) -> list[Credentials]:
        """Credentials of so many new nodes, all with one key: making keys is not what is measured."""
        async with open_channel(self.address, self.admin) as channel:
            request = control_pb2.CreateTokenRequest(node_pattern="load-*", max_uses=count, region="eu", zone="rack")
            made = await control_pb2_grpc.TokenServiceStub(channel).CreateToken(request)
        key = new_private_key()
        domain = self.admin.trust_domain
        bundle = self.admin.bundle_pem
        turns = asyncio.Semaphore(ENROL_AT_ONCE)
        tls = grpc.ssl_channel_credentials(bundle)
        async with grpc.aio.secure_channel(enroll, tls, options=channel_options(domain)) as channel:
            stub = control_pb2_grpc.EnrollmentServiceStub(channel)

            async def one(name: str) -> Credentials:
                csr = make_csr(key, SpiffeId(domain, NODE, name))
                async with turns:
                    answer = await stub.Enroll(
                        control_pb2.EnrollRequest(token=made.jwt, node_name=name, csr_der=csr), timeout=60
                    )
                return Credentials.from_pem(
                    key_pem=key_pem(key), chain_pem=answer.certificate_chain_pem.encode(), bundle_pem=bundle
                )

            first = len(self.agents)
            return list(await asyncio.gather(*(one(f"load-{first + n:05d}") for n in range(count))))

    async def connect(self, credentials: list[Credentials]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)
        info = device()

        async def one(mine: Credentials) -> LoadAgent:
            name = mine.spiffe_id.name
            async with turns:
                return await LoadAgent.connect(name, self.address, mine, info, on_word=self.changed.set)

        self.agents += await asyncio.gather(*(one(mine) for mine in credentials))
        await self.until(lambda: all(agent.connected or agent.lost for agent in self.agents), 120)

    async def until(self, condition: Any, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()
                await asyncio.sleep(0.05)

    async def states(self) -> dict[str, int]:
        """How many nodes are in each state."""
        counts: dict[str, int] = {}
        async with open_channel(self.address, self.admin) as channel:
            stub = control_pb2_grpc.NodeServiceStub(channel)
            token = ""
            while True:
                request = control_pb2.ListNodesRequest(options=control_pb2.ListOptions(page_size=500, page_token=token))
                page = await stub.ListNodes(request)
                for view in page.nodes:
                    word = types_pb2.NodeState.Name(view.node.state).removeprefix("NODE_STATE_").lower()
                    counts[word] = counts.get(word, 0) + 1
                token = page.next_page_token
                if not token:
                    return counts

    async def until_ready(self, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while (await self.states()).get("ready", 0) < len(self.agents):
                await asyncio.sleep(0.25)

    def wire_bytes(self) -> int:
        return sum(agent.wire_bytes() for agent in self.agents if not agent.lost)

    async def at_rest(self, seconds: float) -> Row:
        for agent in self.agents:
            agent.slowest_ack_s = 0.0
        late, (busy, ticks) = lateness(self.metrics), busy_share()
        cpu, wire, began = cpu_s(self.pid), self.wire_bytes(), time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        used, (busy_after, ticks_after) = (cpu_s(self.pid) - cpu) / took, busy_share()
        slowest = sorted(agent.slowest_ack_s for agent in self.agents)
        return {
            "cpu_percent": round(used * 100, 1),
            "machine_busy_percent": round((busy_after - busy) / (ticks_after - ticks) * 100),
            "turn_max_ms": longest_turn_ms(late, lateness(self.metrics)),
            "rss_mib": round(rss_mib(self.pid)),
            "bytes_per_node_s": round((self.wire_bytes() - wire) / took / len(self.agents)),
            "ack_p50_ms": round(slowest[len(slowest) // 2] * 1000, 1),
            "ack_max_ms": round(slowest[-1] * 1000, 1),
        }

    async def writes(self, seconds: float) -> Row:
        """A write every 10 ms, one at a time, while everything else goes on."""
        path = "/cloudless.api.v1.WorkloadService/ApplyWorkloads"
        client = await UnaryLoad.connect(self.address, self.admin, path)

        def request(number: int) -> bytes:
            message = control_pb2.ApplyWorkloadsRequest()
            workload = message.workloads.add()
            workload.metadata.name = "meanwhile"
            workload.metadata.labels["round"] = str(number)
            workload.spec.containers.add(name="main", image="docker.io/library/web:1")
            return message.SerializeToString()

        try:
            await client.call(request(0))
            latencies = []
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                latencies += await latencies_of(client, request, in_flight=1, seconds=0.0001)
                await asyncio.sleep(1 / WRITES_PER_S)
        finally:
            client.close()
        ordered = sorted(latencies)
        return {
            "write_p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
            "write_p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        }

    async def replica_on_each(self) -> float:
        """Seconds until one replica on each node is asked for, placed, told, reported and ready."""
        name = f"everywhere-{len(self.agents)}"
        message = control_pb2.CreateWorkloadRequest()
        message.metadata.name = name
        message.spec.replicas = len(self.agents)
        container = message.spec.containers.add(name="main", image="docker.io/library/web:1")
        container.resources.requests.cpu_millis = 100
        message.spec.placement.spread.add(topology_key="node", max_skew=1)
        async with open_channel(self.address, self.admin) as channel:
            stub = control_pb2_grpc.WorkloadServiceStub(channel)
            began = time.perf_counter()
            await stub.CreateWorkload(message)
            while True:
                view = (await stub.GetWorkload(control_pb2.GetWorkloadRequest(name=name))).workload
                if view.status.ready >= len(self.agents):
                    took = time.perf_counter() - began
                    await stub.DeleteWorkload(control_pb2.DeleteWorkloadRequest(name=name))
                    return took
                await asyncio.sleep(0.1)


async def measure(process: subprocess.Popen[bytes], data: Path, sizes: list[int], seconds: float) -> list[Row]:
    listening = json.loads((data / "listen.json").read_text())
    address = listening["metrics"]
    bench = Bench(process.pid, listening["api"], address, contexts.load(data / "admin.yaml").get().credentials())
    rows: list[Row] = []
    print(
        f"{'agents':>7}{'enrol/s':>9}{'ready s':>9}{'CPU %':>8}{'RSS MiB':>9}{'KiB/node':>10}{'B/node/s':>10}"
        f"{'ack p50':>9}{'max ms':>8}{'in all':>8}{'write p50':>11}{'p99 ms':>8}{'replica each s':>16}"
        f"{'turn ms':>9}{'in all':>8}{'false loss':>12}"
    )
    empty_mib = rss_mib(process.pid)
    try:
        for size in sizes:
            more = size - len(bench.agents)
            late, unreachable = lateness(address), unreachable_so_far(address)
            began = time.perf_counter()
            credentials = await bench.enrol(listening["enroll"], more)
            enrolled = time.perf_counter()
            await bench.connect(credentials)
            await bench.until_ready(120)
            ready = time.perf_counter()
            rest = await bench.at_rest(seconds)
            busy = await bench.writes(seconds)
            placed = await bench.replica_on_each()
            states = await bench.states()
            gone = len(bench.agents) - states.get("ready", 0)
            lost = max(gone, unreachable_so_far(address) - unreachable)
            slowest = max(agent.slowest_ack_s for agent in bench.agents)
            row: Row = {
                "agents": size,
                "enrol_per_s": round(more / (enrolled - began)),
                "ready_s": round(ready - enrolled, 1),
                **rest,
                **busy,
                "kib_per_node": round((rest["rss_mib"] - empty_mib) * 1024 / size, 1),
                "replica_each_s": round(placed, 1),
                "ack_max_in_all_ms": round(slowest * 1000, 1),
                "turn_max_in_all_ms": longest_turn_ms(late, lateness(address)),
                "false_loss": lost,
                "sessions_ended": sum(bool(agent.lost) for agent in bench.agents),
            }
            rows.append(row)
            print(
                f"{size:>7,}{row['enrol_per_s']:>9,}{row['ready_s']:>9.1f}{row['cpu_percent']:>8.1f}"
                f"{row['rss_mib']:>9,}{row['kib_per_node']:>10.1f}{row['bytes_per_node_s']:>10,}{row['ack_p50_ms']:>9.1f}"
                f"{row['ack_max_ms']:>8.1f}{row['ack_max_in_all_ms']:>8.0f}"
                f"{row['write_p50_ms']:>11.2f}{row['write_p99_ms']:>8.1f}{row['replica_each_s']:>16.1f}"
                f"{row['turn_max_ms']:>9.0f}{row['turn_max_in_all_ms']:>8.0f}{lost:>12}",
                flush=True,
            )
            if broken := held_against(row):
                print(f"it breaks at {size:,}: {broken}; the machine was {row['machine_busy_percent']} % busy at rest")
                break
    finally:
        for agent in bench.agents:
            agent.close()
    return rows


def held_against(row: Row) -> str:
    """What is not as it should be; empty when nothing is."""
    found = []
    if row["false_loss"]:
        found.append(f"{row['false_loss']} times a node was called unreachable though its agent ran")
    if row["sessions_ended"]:
        found.append(f"{row['sessions_ended']} sessions ended")
    if row["ack_max_in_all_ms"] > LATE_S * 1000:
        found.append(f"a heartbeat was answered after {row['ack_max_in_all_ms']:.0f} ms")
    if row["rss_mib"] > RSS_MIB_MAX:
        found.append(f"{row['rss_mib']:,} MiB")
    return ", ".join(found)


def verdict(rows: list[Row], asked: int) -> str:
    """Whether so many agents were held, in one line."""
    row = next((row for row in rows if row["agents"] == asked), None)
    against = "it broke before" if row is None else held_against(row)
    bar = f"{asked:,} agents: no false loss, heartbeats answered within {LATE_S:g} s, under {RSS_MIB_MAX:,} MiB"
    return f"{bar}: {f'NOT met ({against})' if against else 'met'}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=5000)
    parser.add_argument("--sizes", help="numbers of agents, with commas, instead of what follows from --agents")
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement")
    parser.add_argument("--directory", type=Path, default=OUT.parent)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="agents-", dir=options.directory))
    sizes = sorted({size for size in (100, 1000) if size < options.agents} | {options.agents, 2 * options.agents})
    if options.sizes:
        sizes = sorted(int(size) for size in options.sizes.split(","))
    process, data = start_coordinator(directory, metrics="127.0.0.1:0")
    try:
        rows = uvloop.run(measure(process, data, sizes, options.seconds))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.copy(directory / "coordinator.log", OUT.with_name("agents.log"))
        shutil.rmtree(directory)
    bar = verdict(rows, max(size for size in sizes if size <= options.agents))
    print(bar)
    OUT.write_text(json.dumps({"agents": rows, "verdict": bar}, indent=2) + "\n")
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
