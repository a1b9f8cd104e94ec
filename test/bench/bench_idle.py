"""Idle cost of a coordinator and of an agent that runs a replica: resident memory and share of one core."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from cloudless.dev import containerd
from cloudless.dev.bench import Report, cpu_s, sample
from cloudless.dev.fabric import AgentPlan
from cloudless.dev.image import build_image
from cloudless.testing.fabric import running_fabric

SETTLE_S = 8.0
MEASURE_S = 20.0
BOX = "cloudless.local/box:bench"


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def main() -> None:
    if reason := containerd.missing():
        sys.exit(f"this benchmark needs containers: {reason}")
    report = Report("idle", "Idle cost, one coordinator and one agent with one running replica")
    with tempfile.TemporaryDirectory() as scratch:
        plan = AgentPlan(name="n1", index=1)
        with running_fabric(Path(scratch), tag="clidle", agents=[plan], subnet_prefix="10.203") as fabric:
            archive = Path(scratch) / "box.tar"
            build_image(archive, BOX, cmd=["/bin/sh"])
            fabric.ctl("image", "import", str(archive))
            manifest = (
                "apiVersion: cloudless.dev/v1\nkind: Workload\nmetadata: {name: idle}\n"
                f"spec: {{containers: [{{name: main, image: {BOX}, command: [sleep, '100000']}}]}}\n"
            )
            fabric.ctl("apply", "-f", "-", "--wait", stdin=manifest)
            time.sleep(SETTLE_S)
            pids = {name: fabric.pid(name) for name in ("agent-n1", "coordinator")}
            before = {name: cpu_s(pid) for name, pid in pids.items()}
            time.sleep(MEASURE_S)
            for name, pid in pids.items():
                used = 100 * (cpu_s(pid) - before[name]) / MEASURE_S
                memory = resident_mib(pid)
                agent = name.startswith("agent")
                bar_memory, bar_cpu = ("under 80 MiB", "under 1 % of a core") if agent else ("", "")
                report.row(f"{name} memory", sample([memory], "MiB"), bar=bar_memory, met=memory < 80)
                report.row(f"{name} CPU", sample([used], "%"), bar=bar_cpu, met=used < 1)
    report.write()


if __name__ == "__main__":
    main()
