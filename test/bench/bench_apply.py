"""From `apply` to running: the whole way through coordinator, log, scheduler, session, agent and containerd, beside
`ctr run -d` of the same image on the same containerd, in turns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.dev import containerd
from cloudless.dev.bench import Report, sample
from cloudless.dev.fabric import AgentPlan, LocalFabric
from cloudless.dev.image import build_image
from cloudless.identity.channel import open_sync_channel
from cloudless.testing.fabric import running_fabric

BOX = "cloudless.local/box:bench"
ONES = 15
MANY = 50
MANY_RUNS = 3
DEFAULT = control_pb2.ListOptions(namespace="default")
_RUNNING = (types_pb2.REPLICA_PHASE_RUNNING, types_pb2.REPLICA_PHASE_READY)


class Fabric:
    def __init__(self, local: LocalFabric) -> None:
        context = contexts.load(local.context_file).get()
        channel = open_sync_channel(context.coordinators[0], context.credentials())
        self.stub = control_pb2_grpc.WorkloadServiceStub(channel)
        self._count = 0

    def run(self, replicas: int) -> float:
        """Milliseconds from the call of ApplyWorkloads until a watch shows all replicas running; then removes them."""
        self._count += 1
        name = f"bench-{self._count}"
        request = control_pb2.ApplyWorkloadsRequest()
        manifest = request.workloads.add()
        manifest.metadata.name, manifest.metadata.namespace = name, "default"
        manifest.spec.replicas = replicas
        manifest.spec.termination.grace_period_ms = 1
        container = manifest.spec.containers.add(name="main", image=BOX, command=["sleep", "100000"])
        container.resources.requests.cpu_millis = 1
        container.resources.requests.memory_bytes = 16 * 2**20
        watch = self.stub.WatchReplicas(control_pb2.WatchReplicasRequest(workload=name, options=DEFAULT), timeout=120)
        for update in watch:
            if update.synced:
                break
        began = time.perf_counter()
        (outcome,) = self.stub.ApplyWorkloads(request, timeout=60).outcomes
        if outcome.error_code:
            raise RuntimeError(outcome.error_message)
        running: set[str] = set()
        for update in watch:
            if update.replica.status.phase in _RUNNING:
                running.add(update.replica.id)
            if len(running) == replicas:
                break
        took = (time.perf_counter() - began) * 1000
        watch.cancel()
        self.stub.DeleteWorkload(control_pb2.DeleteWorkloadRequest(namespace="default", name=name), timeout=60)
        listed = control_pb2.ListReplicasRequest(workload=name, options=DEFAULT)
        while self.stub.ListReplicas(listed, timeout=10).replicas:
            time.sleep(0.02)
        return took


class Ctr:
    def __init__(self, address: str, archive: Path) -> None:
        self._base = ["ctr", "--address", address, "--namespace", "bench"]
        self._call("image", "import", str(archive))
        self._count = 0

    def _call(self, *arguments: str) -> None:
        subprocess.run([*self._base, *arguments], check=True, capture_output=True)

    def run(self, containers: int) -> float:
        names = [f"b{self._count + i}" for i in range(containers)]
        self._count += containers
        began = time.perf_counter()
        for name in names:
            self._call("run", "-d", BOX, name, "sleep", "100000")
        took = (time.perf_counter() - began) * 1000
        for name in names:
            self._call("task", "kill", "--signal", "9", name)
        time.sleep(0.2)
        for name in names:
            self._call("task", "delete", name)
            self._call("container", "delete", name)
        return took


def main() -> None:
    if reason := containerd.missing():
        sys.exit(f"this benchmark needs containers: {reason}")
    report = Report("apply", "apply to running, image present, beside `ctr run -d`")
    with tempfile.TemporaryDirectory() as scratch:
        plan = AgentPlan(name="n1", index=1, settings={"owner-cpu": "64"})
        with running_fabric(Path(scratch), tag="clapply", agents=[plan], subnet_prefix="10.204") as local:
            archive = Path(scratch) / "box.tar"
            build_image(archive, BOX, cmd=["/bin/sh"])
            local.ctl("image", "import", str(archive))
            ours, ctr = Fabric(local), Ctr(local.containerd_address, archive)
            ours.run(1), ctr.run(1)
            ones = [(ctr.run(1), ours.run(1)) for _ in range(ONES)]
            many = [(ctr.run(MANY), ours.run(MANY)) for _ in range(MANY_RUNS)]
    for count, pairs in ((1, ones), (MANY, many)):
        base, value = sample([a for a, _ in pairs]), sample([b for _, b in pairs])
        report.row(f"ctr run -d, {count}", base)
        met = value.median <= 1.5 * base.median
        report.row(f"apply to running, {count} replicas", value, base=base, bar="at most 1.5", met=met)
    report.write()


if __name__ == "__main__":
    main()
