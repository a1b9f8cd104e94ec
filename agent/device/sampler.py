"""Live use of the device, for heartbeats."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cloudless.agent.device import capacity
from cloudless.agent.device.conditions import Conditions
from cloudless.agent.device.system import System
from cloudless.clock import Clock, SystemClock
from cloudless.core.model import NodeUsage


class UsageSampler:
    """`conditions`: those that others read as well; else its own, with `metered` as `detect` found the link."""

    def __init__(
        self,
        data_dir: Path,
        *,
        system: System | None = None,
        clock: Clock | None = None,
        metered: bool = False,
        conditions: Conditions | None = None,
    ) -> None:
        self._system = system or System.here()
        self._conditions = conditions or Conditions(self._system, clock or SystemClock(), metered=metered)
        self._data_dir = data_dir
        self._memory_total, self._memory_group = capacity.memory_limit(self._system)
        self._last_cpu = self._cpu()

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

    def memory(self) -> tuple[int, int]:
        """(bytes in use and not to be had back at once, without page cache; bytes that there are for this agent)."""
        if self._memory_group:
            current = self._system.number(f"{self._memory_group}/memory.current")
            if current is None:
                current = self._system.number(f"{self._memory_group}/memory.usage_in_bytes") or 0
            stat = dict(
                line.split(" ", 1) for line in self._system.read(f"{self._memory_group}/memory.stat").splitlines()
            )
            cached = int(stat.get("total_inactive_file") or stat.get("inactive_file") or 0)
            return max(0, current - cached), self._memory_total
        info = capacity.meminfo(self._system)
        used = max(0, info.get("MemTotal", 0) - info.get("MemAvailable", info.get("MemFree", 0)))
        return used, self._memory_total

    def memory_stall_percent(self) -> float:
        """Share of the last 10 s in which all tasks waited for memory (PSI: Documentation/accounting/psi.rst); 0 where
        the kernel does not tell."""
        place = f"{self._memory_group}/memory.pressure" if self._memory_group else "/proc/pressure/memory"
        for line in self._system.read(place).splitlines():
            kind, _, figures = line.partition(" avg10=")
            if kind == "full":
                with contextlib.suppress(ValueError):
                    return float(figures.split(" ", 1)[0])
        return 0.0

    def sample(self, *, rtt_us: int = 0) -> NodeUsage:
        """Use since the sample before (CPU) and now (the rest); takes well under a millisecond. Power and link are
        read at most every 5 s. `rtt_us` is passed through: the last heartbeat's round trip."""
        self._conditions.refresh()
        stat = self._system.statvfs(capacity.existing(self._data_dir))
        return NodeUsage(
            cpu_millis=self._cpu_millis(),
            memory_bytes=self.memory()[0],
            storage_bytes=capacity.storage_used(stat),
            battery_percent=self._conditions.power.battery_percent,
            power_source=self._conditions.power.source,
            metered=self._conditions.metered,
            rtt_us=rtt_us,
        )
