"""What benchmarks share: timing, a table for people, JSON for programs under `build/bench`."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "build" / "bench"
_TICKS = os.sysconf("SC_CLK_TCK")
_START_S = 30.0


@dataclass(frozen=True)
class Sample:
    """Figures of one thing measured several times, all in `unit`."""

    median: float
    minimum: float
    p99: float
    runs: int
    unit: str = "ms"


def sample(values: Sequence[float], unit: str = "ms") -> Sample:
    ordered = sorted(values)
    last = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return Sample(statistics.median(ordered), ordered[0], last, len(ordered), unit)


def timed_ms(action: Callable[[], Any], *, runs: int, warm: int = 1) -> Sample:
    """Wall time of `action`, after `warm` runs that do not count."""
    for _ in range(warm):
        action()
    values = []
    for _ in range(runs):
        began = time.perf_counter()
        action()
        values.append((time.perf_counter() - began) * 1000)
    return sample(values)


class Report:
    """Rows of one benchmark. A row with `base` shows the ratio to it; one with `bar` says whether it is met."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self._rows: list[dict[str, Any]] = []

    def row(self, what: str, value: Sample, *, base: Sample | None = None, bar: str = "", met: bool = True) -> None:
        ratio = value.median / base.median if base is not None and base.median else None
        self._rows.append({"what": what, **asdict(value), "ratio": ratio, "bar": bar, "met": met if bar else None})

    def write(self) -> None:
        """Prints the table and stores the JSON."""
        print(f"{self.title}\n")
        print(f"  {'':<44}{'median':>12}{'min':>12}{'p99':>12}  {'ratio':>6}")
        for row in self._rows:
            ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
            verdict = f"  {row['bar']}: {'met' if row['met'] else 'NOT met'}" if row["bar"] else ""
            figures = "".join(f"{row[key]:>8.1f} {row['unit']:<3}" for key in ("median", "minimum", "p99"))
            print(f"  {row['what']:<44}{figures}  {ratio:>6}{verdict}")
        print()
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps({"title": self.title, "rows": self._rows}, indent=2))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def start_coordinator(directory: Path, *, metrics: str = "") -> tuple[subprocess.Popen[bytes], Path]:
    """A coordinator of a fabric of its own that listens, on ports that the system picks, and its data folder.
    `metrics`: where its metrics are served. Raises SystemExit with its log where it does not start."""
    data = directory / "coordinator"
    argv = [
        str(Path(sys.executable).parent / "cloudless-coordinator"),
        f"--data-dir={data}",
        "--listen-api=127.0.0.1:0",
        "--listen-enroll=127.0.0.1:0",
        "--listen-member=127.0.0.1:0",
        f"--metrics-listen={metrics}",
    ]
    with (directory / "coordinator.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    deadline = time.monotonic() + _START_S
    while not (data / "listen.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit((directory / "coordinator.log").read_text())
        time.sleep(0.02)
    return process, data
