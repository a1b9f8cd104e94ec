"""Starting containers: the runtime's `ensure_sandbox` and `start_container`, network included, beside `ctr run -d`
without a network, in turns on one containerd with the same image."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from cloudless.agent.runtime.base import Sandbox
from cloudless.agent.runtime.containerd import ContainerdRuntime
from cloudless.clock import SystemClock
from cloudless.core.spec import Container, ResourceAmounts, Resources, WorkloadSpec
from cloudless.dev import containerd
from cloudless.dev.bench import Report, sample
from cloudless.testing.containerd import BOX, ContainerdMachine

ONES = 20
MANY = 50
MANY_RUNS = 3
AT_ONCE = 8
_COMMAND = ("sleep", "100000")


class Ours:
    """Containers with the usual limits, capabilities, seccomp filter and a network of their own."""

    def __init__(self, runtime: ContainerdRuntime) -> None:
        self._runtime = runtime
        self._count = 0

    async def run(self, containers: int) -> float:
        """Milliseconds until all run; then removes them."""
        limits = ResourceAmounts(cpu_millis=500, memory_bytes=64 * 2**20, pids=100)
        container = Container("main", image=BOX, command=_COMMAND, resources=Resources(limits, limits))
        names = [f"b{self._count + i}" for i in range(containers)]
        self._count += containers
        sandboxes = [Sandbox(name, "default", "bench", 1, WorkloadSpec(containers=(container,))) for name in names]

        async def start(sandbox: Sandbox) -> None:
            await self._runtime.ensure_sandbox(sandbox)
            await self._runtime.start_container(sandbox, container, attempt=0)

        began = time.perf_counter()
        await asyncio.gather(*map(start, sandboxes))
        took = (time.perf_counter() - began) * 1000
        await asyncio.gather(*map(self._runtime.remove_sandbox, names))
        return took


class Ctr:
    def __init__(self, address: str, archive: Path, fifos: Path) -> None:
        self._base = ["ctr", "--address", address, "--namespace", "bench-ctr"]
        self._fifos = str(fifos)
        self._call("image", "import", str(archive))
        self._count = 0

    def _call(self, *arguments: str) -> None:
        subprocess.run([*self._base, *arguments], check=True, capture_output=True)

    def run(self, containers: int) -> float:
        names = [f"b{self._count + i}" for i in range(containers)]
        self._count += containers
        with ThreadPoolExecutor(AT_ONCE) as pool:
            began = time.perf_counter()
            list(pool.map(self._start, names))
            took = (time.perf_counter() - began) * 1000
            list(pool.map(self._remove, names))
        return took

    def _start(self, name: str) -> None:
        self._call("run", "-d", "--fifo-dir", self._fifos, BOX, name, *_COMMAND)

    def _remove(self, name: str) -> None:
        self._call("task", "delete", "--force", name)
        self._call("container", "delete", name)

    def close(self) -> None:
        self._call("image", "remove", "--sync", BOX)
        subprocess.run([*self._base[:3], "namespace", "remove", "bench-ctr"], check=True, capture_output=True)


async def measure(directory: Path) -> Report:
    report = Report("start", "one container and fifty, image present, beside `ctr run -d`")
    machine = ContainerdMachine(directory)
    machine.start()
    try:
        place = machine.agent(directory / "agent")
        runtime = ContainerdRuntime(place.config, data_dir=place.data_dir, clock=SystemClock())
        await runtime.start()
        await runtime.import_image(machine.box_archive)
        ctr = await asyncio.to_thread(Ctr, machine.daemon.address, machine.box_archive, directory / "ctr")
        ours = Ours(runtime)
        try:
            for count, runs in ((1, ONES), (MANY, MANY_RUNS)):
                await asyncio.to_thread(ctr.run, count)
                await ours.run(count)
                pairs = [(await asyncio.to_thread(ctr.run, count), await ours.run(count)) for _ in range(runs)]
                base, value = sample([a for a, _ in pairs]), sample([b for _, b in pairs])
                report.row(f"ctr run -d, {count}" + (f", {AT_ONCE} at a time" if count > 1 else ""), base)
                met = value.median <= base.median
                report.row(f"runtime, {count}", value, base=base, bar="at most 1", met=met)
        finally:
            await asyncio.to_thread(ctr.close)
            await runtime.close()
            await place.purge()
    finally:
        machine.stop()
    return report


def main() -> None:
    if reason := containerd.missing():
        sys.exit(f"this benchmark needs containers: {reason}")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(measure(Path(scratch))).write()


if __name__ == "__main__":
    main()
