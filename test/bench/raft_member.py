"""One coordinator's replicated log in a process of its own, for benchmarks: store, raft engine, disk and member
listener as in production; told what to do line by line on standard input, answers with a line of JSON each.

    python raft_member.py --id m1 --address 127.0.0.1:7001 --directory DIR --authority DIR [--bootstrap]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import structlog
import uvloop

from cloudless.clock import SystemClock
from cloudless.config import StoreConfig
from cloudless.coordinator.raft.engine import RaftOptions, open_raft
from cloudless.coordinator.raft.transport import TlsTransport
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import collector
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.keys import key_pem, new_private_key
from cloudless.identity.spiffe import COORDINATOR, SpiffeId, server_name
from cloudless.testing.bytes_map import BytesMap, put

COMMAND = put("k" * 16, os.urandom(178))  # 200 bytes in the log


def certificate(authority: CertificateAuthority, member: str) -> ServerCertificate:
    key, who = new_private_key(), SpiffeId(authority.trust_domain, COORDINATOR, member)
    names = [server_name(authority.trust_domain), "localhost"]
    issued = authority.sign_csr(make_csr(key, who), who, 3_600_000, dns_names=names, ip_addresses=["127.0.0.1"])
    return ServerCertificate(
        Credentials.from_pem(key_pem=key_pem(key), chain_pem=issued.chain_pem, bundle_pem=authority.trust_bundle_pem)
    )


def figures(latencies: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        "per_s": round(len(ordered) / seconds),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 3),
        "max_ms": round(ordered[-1] * 1000, 3),
    }


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise AssertionError


class Member:
    def __init__(self, store: Store[Any], opened_s: float) -> None:
        self.store = store
        self.opened_s = opened_s
        self.engine: Any = store._engine

    async def load(self, in_flight: int, seconds: float) -> dict[str, float]:
        """Commits per second and their latency with so many callers on this member."""
        latencies: list[float] = []
        began = time.perf_counter()
        end = began + seconds

        async def caller() -> None:
            while (start := time.perf_counter()) < end:
                await self.engine.propose(COMMAND)
                latencies.append(time.perf_counter() - start)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return figures(latencies, time.perf_counter() - began)

    async def fill(self, first: int, objects: int, value_bytes: int) -> dict[str, float]:
        """So many objects of this size into the state."""
        before = resident_mib()
        value = os.urandom(value_bytes)
        at_once = max(1, min(512, 32 * 2**20 // value_bytes))
        for start in range(first, first + objects, at_once):
            chunk = range(start, min(start + at_once, first + objects))
            await asyncio.gather(*(self.engine.propose(put(f"object-{n:012d}", value)) for n in chunk))
        return {"before_mib": before, "after_mib": resident_mib(), "index": self.store.snapshot.index}

    async def snapshot(self) -> dict[str, float]:
        """Writes one now."""
        began = time.perf_counter()
        self.store._snapshot_due = 0
        self.store._snapshot_when_due()
        task = self.store._snapshot_task
        assert task is not None
        await task
        files = sorted(Path(sys.argv[sys.argv.index("--directory") + 1]).rglob("*.snap"))
        return {"seconds": round(time.perf_counter() - began, 3), "bytes": files[-1].stat().st_size}

    async def status(self) -> dict[str, Any]:
        status = self.store.status()
        return {
            "role": status.role,
            "leader": status.leader,
            "term": status.term,
            "commit": status.commit_index,
            "applied": status.applied_index,
            "last": status.last_index,
            "voters": sum(member.voter for member in status.members),
            "members": len(status.members),
            "rss_mib": resident_mib(),
            "opened_s": self.opened_s,
        }

    async def run(self, word: str, arguments: list[str]) -> Any:
        if word == "load":
            return await self.load(int(arguments[0]), float(arguments[1]))
        if word == "fill":
            return await self.fill(*map(int, arguments))
        if word == "snapshot":
            return await self.snapshot()
        if word == "status":
            return await self.status()
        if word == "add":
            await self.store.membership.add_learner(*arguments)
            return {}
        if word == "wait":  # until so much is applied here
            while self.store.snapshot.index < int(arguments[0]):
                await asyncio.sleep(0.005)
            return {"at": time.time()}
        raise ValueError(word)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--bootstrap", action="store_true")
    parser.add_argument("--snapshot-entries", type=int, default=StoreConfig().snapshot_entries)
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    clock = SystemClock()
    authority = CertificateAuthority.load(options.authority, clock)
    holder: list[Any] = []
    transport = TlsTransport(
        options.id,
        listen=options.address,
        identity=certificate(authority, options.id),
        trust_domain=authority.trust_domain,
        cluster_id=lambda: holder[0].cluster_id if holder else "",
        clock=clock,
        on_refused=lambda refusal: print(refusal, file=sys.stderr),
    )
    raft = RaftOptions(address=options.address, bootstrap=options.bootstrap, cluster_id="bench")

    began = time.perf_counter()
    store: Store[Any] = await Store.open(
        options.directory,
        machine=BytesMap(),
        clock=clock,
        config=StoreConfig(engine="raft", snapshot_entries=options.snapshot_entries),
        member=options.id,
        engine=functools.partial(open_raft, transport=transport, options=raft, on_recovered=holder.append),
    )
    collector.prefer_latency()
    member = Member(store, round(time.perf_counter() - began, 3))
    print(json.dumps({"ready": True, "opened_s": member.opened_s}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, *arguments = line.split()
        if word == "stop":
            break
        print(json.dumps(await member.run(word, arguments)), flush=True)
    await store.close()
    print(json.dumps({"stopped": True}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
