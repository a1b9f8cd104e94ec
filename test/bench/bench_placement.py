"""From a wish to a committed placement: reconcile loop, scheduler and log of one coordinator, on a real disk.

A decision: one more replica is asked for, and the time runs from that write's beginning until the plan that places it
is committed and applied, both commits included: the plan is often made before the write's answer is there. Beside it:
a write that asks for nothing, which is what the log costs, and a batch of 10,000 replicas onto empty nodes. The
fabric has as many nodes and is as full as the row says, as in `bench_scheduler`.

    .venv/bin/python test/bench/bench_placement.py [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from bench_scheduler import TYPICAL, fabric, record_of

from cloudless.clock import SystemClock
from cloudless.config import SchedulerConfig
from cloudless.coordinator.core.commands import PutWorkload, ScaleWorkload
from cloudless.coordinator.core.state import State
from cloudless.coordinator.reconciling import workload_loop
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import collector
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core import defaults
from cloudless.core.model import NodeUsage
from cloudless.core.replacing import replace

OUT = Path(__file__).parents[2] / "build" / "bench" / "placement.json"
RUNS = 200
BATCH = 10_000
P50_MS, P95_MS = 5.0, 20.0  # with the commit, at 5,000 nodes
ROWS = ((100, 0), (1_000, 50), (5_000, 0), (5_000, 50), (5_000, 95))


class Prepared(FabricMachine):
    """Begins with a fabric that is there already."""

    def __init__(self, state: State) -> None:
        super().__init__("bench")
        self._state = state

    def empty(self) -> State:
        return self._state


def figures(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)] * 1000, 2),
        "max_ms": round(ordered[-1] * 1000, 1),
    }


async def placed(store: Store[State], name: str, count: int) -> None:
    """Until so many of its replicas have a node. Raises TimeoutError when they do not get one."""
    with_watch = store.watch(store.snapshot.index)
    try:

        def done() -> bool:
            state, key = store.snapshot.state, ("default", name)
            return len(state.replicas_by_workload.get(key, ())) - state.pending.get(key, 0) >= count

        if done():
            return
        async with asyncio.timeout(60):
            async for _ in with_watch:
                if done():
                    return
    finally:
        with_watch.close()


async def measure(directory: Path, state: State, usage: dict[str, NodeUsage], runs: int) -> dict[str, Any]:
    collector.prefer_latency()
    store = await Store.open(directory, machine=Prepared(state), clock=SystemClock())
    loop = workload_loop(store, usages=lambda: usage, scheduler=SchedulerConfig(), rng=random.Random(1))
    loop.start()
    metadata, spec = defaults.apply(record_of("asked", TYPICAL).metadata, replace(TYPICAL, replicas=1))
    await store.propose(PutWorkload(metadata, spec), actor="user/bench")
    await placed(store, "asked", 1)
    decided, written = [], []
    for number in range(2, runs + 2):
        began = time.perf_counter()
        await store.propose(ScaleWorkload("default", "asked", number), actor="user/bench")
        await placed(store, "asked", number)
        decided.append(time.perf_counter() - began)
        began = time.perf_counter()
        labels = replace(metadata, labels={"round": str(number)})
        await store.propose(PutWorkload(labels, replace(spec, replicas=number)), actor="user/bench")
        written.append(time.perf_counter() - began)
    await loop.stop()
    await store.close()
    return {"decision": figures(decided), "write": figures(written)}


async def batch(directory: Path, state: State, usage: dict[str, NodeUsage]) -> dict[str, float]:
    store = await Store.open(directory, machine=Prepared(state), clock=SystemClock())
    loop = workload_loop(store, usages=lambda: usage, scheduler=SchedulerConfig(), rng=random.Random(1))
    loop.start()
    metadata, spec = defaults.apply(record_of("many", TYPICAL).metadata, replace(TYPICAL, replicas=BATCH))
    began = time.perf_counter()
    await store.propose(PutWorkload(metadata, spec), actor="user/bench")
    await placed(store, "many", BATCH)
    seconds = time.perf_counter() - began
    entries = store.snapshot.index
    await loop.stop()
    await store.close()
    return {"per_s": round(BATCH / seconds), "seconds": round(seconds, 2), "entries": entries}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, default=OUT.parent, help="on the disk that is to be measured")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    options.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="placement-", dir=options.directory))
    rows: list[dict[str, Any]] = []
    met = True
    print(f"{'committed placements':<28}{'P50 ms':>9}{'P95 ms':>9}{'max':>8}{'write P50':>11}{'ratio':>8}")
    try:
        for nodes, fill in ROWS:
            state, usage, _ = fabric(nodes, fill)
            found = uvloop.run(measure(directory / f"{nodes}-{fill}", state, usage, RUNS))
            decision, write = found["decision"], found["write"]
            ratio = round(decision["p50_ms"] / write["p50_ms"], 2)
            print(
                f"{nodes:>7,} nodes, {fill:>2} % full      {decision['p50_ms']:>8.2f}{decision['p95_ms']:>9.2f}"
                f"{decision['max_ms']:>8.1f}{write['p50_ms']:>11.2f}{ratio:>8.2f}",
                flush=True,
            )
            rows.append({"nodes": nodes, "fill": fill, "ratio": ratio, **found})
            if nodes == 5_000:
                met = met and decision["p50_ms"] < P50_MS and decision["p95_ms"] < P95_MS
        print(f"target: P50 under {P50_MS:.0f} ms, P95 under {P95_MS:.0f} ms: {'met' if met else 'NOT met'}")
        state, usage, _ = fabric(5_000, 0)
        whole = uvloop.run(batch(directory / "batch", state, usage))
        print(
            f"{BATCH:,} replicas onto 5,000 nodes: {whole['seconds']} s, {whole['per_s']:,}/s planned and committed, "
            f"{whole['entries']} entries"
        )
    finally:
        shutil.rmtree(directory)
    OUT.write_text(json.dumps({"decisions": rows, "batch": whole}, indent=2) + "\n")
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
