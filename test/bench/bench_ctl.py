"""`cloudlessctl get nodes` as a whole process, beside the interpreter's own start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from cloudless.dev.bench import Report, timed_ms
from cloudless.dev.fabric import AgentPlan, LocalFabric

RUNS = 15


def main() -> None:
    report = Report("ctl", "cloudlessctl as a whole process")
    with tempfile.TemporaryDirectory() as scratch:
        fabric = LocalFabric(Path(scratch), tag="clbench")
        try:
            fabric.start_coordinator()
            plan = AgentPlan(name="n1", index=1, runtimes=("process",))
            fabric.start_agent(plan)
            fabric.wait_for(fabric.ready_nodes, what="a ready node", timeout_s=30)
            bare = timed_ms(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), runs=RUNS)
            grpc = timed_ms(lambda: subprocess.run([sys.executable, "-c", "import grpc"], check=True), runs=RUNS)
            nodes = timed_ms(lambda: fabric.ctl("get", "nodes"), runs=RUNS)
            report.row("python -c pass", bare)
            report.row("python -c 'import grpc'", grpc)
            report.row("cloudlessctl get nodes", nodes, base=grpc, bar="under 300 ms", met=nodes.median < 300)
        finally:
            fabric.stop("agent-n1")
            fabric.stop("coordinator")
    report.write()


if __name__ == "__main__":
    main()
