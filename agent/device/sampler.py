"""Live use of the device, for heartbeats."""

from __future__ import annotations

from pathlib import Path

from cloudless.agent.device import capacity, network, power
from cloudless.agent.device.system import System
from cloudless.clock import Clock, SystemClock
from cloudless.core.model import NodeUsage

_SLOW_INTERVAL_MS = 10_000  # embedded controllers take milliseconds to tell the battery's state


class UsageSampler:
    """`metered`: what `detect` found for the link of that moment; it holds until the default route moves."""

    def __init__(
        self, data_dir: Path, *, system: System | None = None, clock: Clock | None = None, metered: bool = False
    ) -> None:
        self._system = system or System.here()
        self._clock = clock or SystemClock()
        self._data_dir = data_dir
        self._memory_total, self._memory_group = capacity.memory_limit(self._system)
        self._interface = network.default_interface(self._system)
        self._metered = metered
        self._last_cpu = self._cpu()
        self._power = power.read(self._system)
        self._slow_at_ms = self._clock.monotonic_ms()

    def _cpu(self) -> tuple[int, int, int]:
        """(busy ticks, all ticks, CPUs) since boot, of /proc/stat. A guest's time is in user time already."""
        busy = total = cpus = 0
        for line in self._system.read("/proc/stat").splitlines():
            if line.startswith("cpu "):
                ticks = [int(value) for value in line.split()[1:9]]
                total = sum(ticks)
                busy = total - ticks[3] - ticks[4]
            elif line.startswith("cpu"):
                cpus += 1
        return busy, total, max(1, cpus)

    def _cpu_millis(self) -> int:
        busy, total, cpus = self._cpu()
        last_busy, last_total, _ = self._last_cpu
        self._last_cpu = (busy, total, cpus)
        elapsed = total - last_total
        return max(0, (busy - last_busy) * 1000 * cpus // elapsed) if elapsed > 0 else 0

    def _memory_bytes(self) -> int:
        """In use and not to be had back at once: without page cache."""
        if self._memory_group:
            current = self._system.number(f"{self._memory_group}/memory.current")
            if current is None:
                current = self._system.number(f"{self._memory_group}/memory.usage_in_bytes") or 0
            stat = dict(
                line.split(" ", 1) for line in self._system.read(f"{self._memory_group}/memory.stat").splitlines()
            )
            cached = int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
            return max(0, current - cached)
        info = capacity.meminfo(self._system)
        return max(0, info.get("MemTotal", 0) - info.get("MemAvailable", info.get("MemFree", 0)))

    def _refresh_slow(self) -> None:
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._slow_at_ms < _SLOW_INTERVAL_MS:
            return
        self._slow_at_ms = now_ms
        self._power = power.read(self._system)
        interface = network.default_interface(self._system)
        if interface != self._interface:
            self._interface = interface
            self._metered = network.is_cellular(self._system, interface)

    def sample(self, *, rtt_us: int = 0) -> NodeUsage:
        """Use since the sample before (CPU) and now (the rest); takes well under a millisecond. Power and link are
        read at most every 10 s. `rtt_us` is passed through: the last heartbeat's round trip."""
        self._refresh_slow()
        stat = self._system.statvfs(capacity.existing(self._data_dir))
        return NodeUsage(
            cpu_millis=self._cpu_millis(),
            memory_bytes=self._memory_bytes(),
            storage_bytes=capacity.storage_used(stat),
            battery_percent=self._power.battery_percent,
            power_source=self._power.source,
            metered=self._metered,
            rtt_us=rtt_us,
        )
