"""Health checks and hooks against each runtime: they run in the container, under its restrictions, and end in time."""

import asyncio
import time
import uuid

import pytest

from cloudless.agent.core.model import RunPreStop, RunProbe
from cloudless.agent.core.probes import ProbeKind
from cloudless.agent.probing import NetworkProber
from cloudless.agent.runtime.base import Sandbox
from cloudless.core.model import Assignment
from cloudless.core.spec import ContainerPort, EnvVar, ExecProbe, HttpProbe, Probe, Protocol, TcpProbe, WorkloadSpec
from cloudless.testing.runtime_provider import IgnoreSigterm, Print, RunForever, ServeHttp, Spin

GRACE_MS = 500  # of programs that are sure to be killed, or to end at once


class Checked:
    """One replica with one container `main`, and checks of it."""

    def __init__(self, runtime, *containers):
        self.replica_id = f"r{uuid.uuid4().hex[:12]}"
        self.runtime = runtime
        self.prober = NetworkProber(runtime)
        self.sandbox = Sandbox(self.replica_id, "default", "web", 1, WorkloadSpec(containers=containers))
        self.assignment = Assignment(self.replica_id, "web", "default", 1, self.sandbox.spec)

    async def start(self):
        self.address = (await self.runtime.ensure_sandbox(self.sandbox)).address
        for container in self.sandbox.spec.containers:
            await self.runtime.start_container(self.sandbox, container, attempt=0)
        return self

    async def check(self, probe):
        wanted = RunProbe("main", 0, ProbeKind.LIVENESS, probe, self.address)
        return await self.prober(self.replica_id, self.assignment, wanted)

    async def passes(self, probe):
        deadline = time.monotonic() + 15
        while not (await self.check(probe))[0]:
            assert time.monotonic() < deadline, "it did not happen in time"
            await asyncio.sleep(0.01)


def exec_probe(device, program, *, timeout_ms=10_000):
    return Probe(exec=ExecProbe(device.command(program)), timeout_ms=timeout_ms)


async def test_an_exec_check_is_its_exit_code_and_its_last_words(device, runtime):
    replica = await Checked(runtime, device.container("main", RunForever())).start()
    assert await replica.check(exec_probe(device, Print("well"))) == (True, "exit code 0: well")
    passed, detail = await replica.check(exec_probe(device, Print("x" * 1000, "", 3)))
    assert passed is False
    assert detail.startswith("exit code 3: xxx")
    assert len(detail) < 300


async def test_an_exec_check_that_takes_too_long_is_killed(device, runtime):
    replica = await Checked(runtime, device.container("main", RunForever())).start()
    before = await pids(runtime, replica)
    began = time.monotonic()
    assert await replica.check(exec_probe(device, Spin(), timeout_ms=300)) == (False, "no answer within 300 ms")
    assert time.monotonic() - began < 5
    deadline = time.monotonic() + 10
    while await pids(runtime, replica) > before:  # it is dead; the kernel takes its time to count it so
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def pids(runtime, replica):
    return (await runtime.stats(replica.replica_id, "main")).pids


async def test_a_check_of_what_does_not_run_is_no_verdict(device, runtime):
    replica = await Checked(runtime, device.container("main", RunForever())).start()
    await runtime.stop_container(replica.replica_id, "main", grace_ms=GRACE_MS)
    assert (await replica.check(exec_probe(device, Print())))[0] is None
    await runtime.remove_sandbox(replica.replica_id)
    assert (await replica.check(exec_probe(device, Print())))[0] is None


async def test_a_hook_runs_before_the_request_to_stop(device, runtime):
    replica = await Checked(runtime, device.container("main", IgnoreSigterm())).start()
    hook = RunPreStop("main", 0, exec_probe(device, Print("drained"), timeout_ms=5_000), replica.address)
    assert await replica.prober(replica.replica_id, replica.assignment, hook) == (True, "exit code 0: drained")


@pytest.mark.needs("real-processes")
async def test_an_exec_check_has_the_containers_environment(device, runtime):
    container = device.container("main", RunForever(), env=(EnvVar("HEALTH", "good"),))
    replica = await Checked(runtime, container).start()
    command = (*device.shell, 'test "$HEALTH" = good')
    assert (await replica.check(Probe(exec=ExecProbe(command), timeout_ms=10_000)))[0] is True


@pytest.mark.needs("network")
async def test_checks_over_the_network_reach_the_replicas_address(device, runtime, unused_tcp_port):
    port = ContainerPort("http", unused_tcp_port, Protocol.TCP)
    replica = Checked(runtime, device.container("main", ServeHttp(unused_tcp_port), ports=(port,)))
    await replica.start()
    await replica.passes(Probe(tcp=TcpProbe("http")))
    passed, detail = await replica.check(Probe(http=HttpProbe("/no/such/page", "http")))
    assert (passed, detail) == (False, "HTTP status 404")
    assert await replica.check(Probe(http=HttpProbe("/bin/busybox", "http"))) == (True, "HTTP status 200")
    await runtime.stop_container(replica.replica_id, "main", grace_ms=GRACE_MS)
    passed, detail = await replica.check(Probe(tcp=TcpProbe("http")))
    assert (passed, detail) == (False, f"connection refused at {replica.address}:{unused_tcp_port}")
