"""The life of replicas under a supervisor on a real containerd: health checks, hooks, restarts, out of memory, and an
update behind one host port."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from cloudless.agent.core.model import RunProbe
from cloudless.agent.core.probes import ProbeKind
from cloudless.agent.journal import Journal
from cloudless.agent.probing import NetworkProber
from cloudless.agent.runtime.containerd import ContainerdRuntime
from cloudless.agent.supervisor import Supervisor
from cloudless.clock import SystemClock
from cloudless.core.model import Assignment, ReplicaPhase, ReplicaStatus
from cloudless.core.spec import (
    Backoff,
    Container,
    ContainerPort,
    ExecProbe,
    GrpcProbe,
    HttpProbe,
    PreStop,
    Probe,
    ResourceAmounts,
    Resources,
    RestartPolicy,
    RestartPolicyKind,
    TcpProbe,
    Termination,
    WorkloadSpec,
)
from cloudless.testing.containerd import BOX, ContainerdMachine
from cloudless.testing.fabric import require_containerd

pytestmark = [pytest.mark.containerd, pytest.mark.xdist_group("replica-life")]

P = ReplicaPhase
POLITE = "trap 'cat /tmp/hook; echo term; exit 0' TERM; echo ready; while :; do sleep 100 & wait $!; done"
GRPC_SERVER = """
import asyncio, sys, grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

async def main():
    servicer = health.aio.HealthServicer()
    await servicer.set("db", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port("0.0.0.0:50051")
    await server.start()
    print("up", flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    require_containerd()
    machine = ContainerdMachine(tmp_path_factory.mktemp("life"))
    machine.start()
    try:
        yield machine
    finally:
        machine.stop()


class Node:
    def __init__(self, runtime: ContainerdRuntime, directory: Path) -> None:
        self.runtime = runtime
        self.directory = directory
        self.supervisor: Supervisor
        self._revision = 0

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[None]:
        """One life of the agent; leaving it is a kill."""
        journal = Journal(self.directory / "journal", fabric="f")
        prober = NetworkProber(self.runtime)
        self.supervisor = Supervisor(self.runtime, journal, SystemClock(), prober, jitter=lambda: 0.5)
        self.supervisor.load()
        task = asyncio.ensure_future(self.supervisor.run())
        try:
            await self.supervisor.ready.wait()
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def assign(self, *assignments: Assignment) -> None:
        self._revision = max(self._revision, self.supervisor.revision) + 1
        await self.supervisor.assign(self._revision, assignments)

    def status(self, replica_id: str) -> ReplicaStatus:
        observation = self.supervisor.reports.get(replica_id)
        return observation.status if observation else ReplicaStatus()

    def log(self, replica_id: str) -> str:
        return self.runtime.log_path(replica_id, "main").read_text()

    async def until(self, check: Callable[[], bool], *, within_s: float = 20) -> None:
        async with asyncio.timeout(within_s):
            while not check():
                version = self.supervisor.reports.version
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self.supervisor.reports.wait_beyond(version)

    async def until_phase(self, replica_id: str, phase: ReplicaPhase) -> None:
        await self.until(lambda: self.supervisor.phase(replica_id) is phase)

    async def until_served(self, port: int) -> None:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)

    async def stop(self, wanted: Assignment, *others: Assignment) -> float:
        """Seconds until its container had exited."""
        began = time.monotonic()
        await self.assign(replace(wanted, stopping=True, stop_reason="ScaledDown"), *others)
        await self.until(lambda: self.gone(wanted) or self.status(wanted.replica_id).containers[0].state == "exited")
        return time.monotonic() - began

    def gone(self, wanted: Assignment) -> bool:
        observation = self.supervisor.reports.get(wanted.replica_id)
        return observation is not None and observation.gone


@pytest_asyncio.fixture
async def node(machine, tmp_path):
    place = machine.agent(tmp_path / "agent")
    runtime = ContainerdRuntime(place.config, data_dir=place.data_dir, clock=SystemClock())
    await runtime.start()
    await runtime.import_image(machine.box_archive)
    try:
        yield Node(runtime, tmp_path)
    finally:
        await runtime.close()
        await place.purge()
    assert place.leftovers() == []


def assignment(
    script: str,
    *,
    name: str = "web-1",
    generation: int = 1,
    grace_ms: int = 5_000,
    pre_stop: PreStop | None = None,
    policy: RestartPolicyKind = RestartPolicyKind.ALWAYS,
    **fields,
) -> Assignment:
    container = Container("main", BOX, command=("/bin/sh", "-c", script), **fields)
    spec = WorkloadSpec(
        containers=(container,),
        restart_policy=RestartPolicy(policy, 0, Backoff(initial_ms=100, max_ms=2_000)),
        termination=Termination(grace_ms, pre_stop),
    )
    return Assignment(name, "web", "default", generation, spec)


def shell(script: str, *, timeout_ms: int = 5_000, period_ms: int = 100, failures: int = 1) -> Probe:
    command = ExecProbe(("/bin/sh", "-c", script))
    return Probe(exec=command, timeout_ms=timeout_ms, period_ms=period_ms, failure_threshold=failures)


async def test_startup_gates_readiness_and_a_failed_liveness_check_starts_it_again(node):
    wanted = assignment(
        "rm -f /tmp/sick; sleep 0.3; touch /tmp/up; " + POLITE,
        startup_probe=shell("test -e /tmp/up", failures=100),
        liveness_probe=shell("test ! -e /tmp/sick || { echo it is sick; exit 7; }", failures=2),
        readiness_probe=shell("test ! -e /tmp/sick"),
    )
    async with node.agent():
        await node.assign(wanted)
        await node.until_phase("web-1", P.READY)
        made_sick = shell("touch /tmp/sick")
        check = RunProbe("main", 0, ProbeKind.LIVENESS, made_sick, "")
        assert (await NetworkProber(node.runtime)("web-1", wanted, check))[0]
        await node.until(lambda: node.status("web-1").restart_count == 1)
        await node.until_phase("web-1", P.READY)
        last = node.status("web-1").containers[0]
        assert last.last_reason == "LivenessProbeFailed"
        await node.stop(wanted)
        await node.until(lambda: node.gone(wanted))


async def test_a_grpc_check_reaches_the_replicas_address(node):
    probe = Probe(grpc=GrpcProbe("50051", "db"), period_ms=100, timeout_ms=2_000)
    wanted = assignment(POLITE, readiness_probe=probe)
    async with node.agent():
        await node.assign(wanted)
        await node.until(lambda: "connection refused" in node.status("web-1").message)
        # in the replica's network, where no image with a gRPC server is at hand
        namespace = node.runtime._namespace_of("web-1")
        command = ["nsenter", f"--net={namespace}", sys.executable, "-c", GRPC_SERVER]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            await asyncio.to_thread(server.stdout.readline)
            await node.until_phase("web-1", P.READY)
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
        await node.until_phase("web-1", P.RUNNING)
        await node.stop(wanted)
        await node.until(lambda: node.gone(wanted))


async def test_the_hook_ends_before_the_request_to_stop(node):
    hook = PreStop(exec=ExecProbe(("/bin/sh", "-c", "sleep 0.3; echo hook > /tmp/hook")))
    wanted = assignment(POLITE, pre_stop=hook, policy=RestartPolicyKind.NEVER)
    async with node.agent():
        await node.assign(wanted)
        await node.until(lambda: node.supervisor.phase("web-1") is P.READY and "ready" in node.log("web-1"))
        assert node.supervisor.evict("web-1", "Evicted", "no memory")  # it keeps its sandbox, and so its log
        await node.until(lambda: node.status("web-1").containers[0].state == "exited")
        assert node.log("web-1").split() == ["ready", "hook", "term"]
        assert (node.status("web-1").phase, node.status("web-1").reason) == (P.FAILED, "Evicted")
        await node.stop(wanted)
        await node.until(lambda: node.gone(wanted))


async def test_a_hook_that_hangs_is_killed_when_the_grace_is_over_and_two_seconds_follow(node):
    wanted = assignment(
        "trap '' TERM; echo ready; while :; do sleep 100; done",
        grace_ms=1_000,
        pre_stop=PreStop(exec=ExecProbe(("/bin/sh", "-c", "sleep 60"))),
    )
    async with node.agent():
        await node.assign(wanted)
        await node.until_phase("web-1", P.READY)
        took = await node.stop(wanted)
        assert 2.9 <= took < 6
        await node.until(lambda: node.gone(wanted))


async def test_an_agent_that_is_killed_in_the_pause_goes_on_with_the_rest(node):
    wanted = assignment("echo ready; touch /tmp/hook; " + POLITE, pre_stop=PreStop(sleep_ms=1_500), grace_ms=10_000)
    stopping = replace(wanted, stopping=True, stop_reason="ScaledDown")
    async with node.agent():
        await node.assign(wanted)
        await node.until_phase("web-1", P.READY)
        began = time.monotonic()
        await node.assign(stopping)
        await node.until_phase("web-1", P.STOPPING)
        await asyncio.to_thread(until_written, node.directory / "journal" / "facts", b'"stop_cause": "ScaledDown"')
    async with node.agent():
        await node.until(lambda: node.gone(wanted))
        assert 1.4 <= time.monotonic() - began < 2.9, "neither none nor twice the pause"


def until_written(path: Path, text: bytes) -> None:
    deadline = time.monotonic() + 5
    while not path.exists() or text not in path.read_bytes():
        assert time.monotonic() < deadline, "the journal was not written"
        time.sleep(0.01)


async def test_out_of_memory_says_so_with_the_limit_and_becomes_a_crash_loop(node):
    limits = Resources(limits=ResourceAmounts(memory_bytes=32 * 2**20))
    wanted = assignment("exec busybox dd if=/dev/zero of=/dev/null bs=200000000 count=1", resources=limits)
    async with node.agent():
        await node.assign(wanted)
        await node.until(lambda: node.status("web-1").reason == "CrashLoopBackOff")
        container = node.status("web-1").containers[0]
        assert (container.last_reason, container.last_exit_code) == ("OOMKilled", 128 + signal.SIGKILL)
        assert "its memory limit of 32Mi; starts again after" in container.message
        assert container.retry_at_ms > container.finished_at_ms
        await node.stop(wanted)
        await node.until(lambda: node.gone(wanted))


async def test_an_update_behind_one_host_port_fails_no_request(node, unused_tcp_port):
    def version(number: int) -> Assignment:
        page = f"mkdir /tmp/www; echo v{number} > /tmp/www/index.html; exec busybox httpd -f -p 8080 -h /tmp/www"
        return assignment(
            page,
            name=f"web-{number}",
            generation=number,
            ports=(ContainerPort("http", 8080, host_port=unused_tcp_port),),
            readiness_probe=Probe(http=HttpProbe("/", "http"), period_ms=100, timeout_ms=1_000),
            liveness_probe=Probe(tcp=TcpProbe("http"), period_ms=500, timeout_ms=1_000),
            pre_stop=PreStop(sleep_ms=300),
            grace_ms=500,
        )

    async def fetch() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
        try:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")), answer
            return answer.split()[-1].decode()
        finally:
            writer.close()

    answers: list[str] = []

    async def load() -> None:
        while True:
            async with asyncio.timeout(5):  # wait_for may lose a cancellation
                answers.append(await fetch())

    old, new = version(1), version(2)
    async with node.agent():
        await node.assign(old)
        await node.until_phase("web-1", P.READY)
        await node.until_served(unused_tcp_port)
        callers = [asyncio.ensure_future(load()) for _ in range(4)]
        try:
            await node.assign(old, new)
            await node.until_phase("web-2", P.READY)
            await node.stop(old, new)
            await node.until(lambda: node.gone(old))
            done = len(answers)
            await node.until(lambda: len(answers) > done + 50 or any(c.done() for c in callers))
            assert [c.exception() for c in callers if c.done()] == []
            assert answers[0] == "v1"
            assert set(answers[-20:]) == {"v2"}
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
