"""What comes from outside the agent's process, byte by byte: messages of coordinators, and the journal's files."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from pathlib import Path

from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.agent.channels import ChannelServer
from cloudless.agent.core import model as m
from cloudless.agent.journal import ASSIGNMENTS, FACTS, Journal, decode_facts, frame
from cloudless.agent.link import Link, LinkServices
from cloudless.agent.logwatch import LogWatcher
from cloudless.agent.supervisor import Supervisor
from cloudless.api.v1 import session_pb2 as pb
from cloudless.core.model import DeviceInfo, NodeUsage
from cloudless.errors import CloudlessError, Corrupt
from cloudless.testing.runtime import FakeDevice, FakeRuntime
from cloudless.testing.simloop import SimClock, run

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=300))
def test_journal_files_of_any_bytes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file in (ASSIGNMENTS, FACTS):
            (Path(name) / file).write_bytes(data)
        assert Journal(Path(name)).load().revision == 0


@given(st.binary(max_size=200))
def test_journal_payloads_of_any_bytes_under_a_good_checksum(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file in (ASSIGNMENTS, FACTS):
            (Path(name) / file).write_bytes(frame(data, fabric=""))
        Journal(Path(name)).load()


@given(json_values)
def test_facts_of_any_shape(value) -> None:
    import json

    for document in (value, {"coordinators": value, "replicas": {"r": value}}, {"coordinators": [], "replicas": value}):
        with contextlib.suppress(Corrupt):
            decode_facts(json.dumps(document).encode())


names = st.text("abc-", max_size=3)
probes = st.builds(
    lambda kind, numbers: {
        kind: {},
        **dict(zip(["period_ms", "timeout_ms", "failure_threshold"], numbers, strict=False)),
    },
    st.sampled_from(["http", "tcp", "exec", "grpc"]),
    st.lists(st.integers(-5, 5_000), max_size=3),
)
assignments = st.builds(
    lambda replica, stopping, containers, grace, backoff, retries: pb.Assignment(
        replica_id=replica,
        stopping=stopping,
        spec={
            "containers": [{"name": n, "liveness_probe": p} for n, p in containers],
            "termination": {"grace_period_ms": grace},
            "restart_policy": {"max_retries": retries, "backoff": {"initial_ms": backoff, "max_ms": backoff}},
        },
    ),
    names,
    st.booleans(),
    st.lists(st.tuples(names, probes), max_size=3),
    st.integers(-10, 10_000),
    st.integers(-10, 10_000),
    st.integers(-2, 2),
)
messages = st.one_of(
    st.builds(
        lambda revision, found: pb.ConnectResponse(assignments={"revision": revision, "assignments": found}),
        st.integers(-1, 2**63 - 1),
        st.lists(assignments, max_size=3),
    ),
    st.builds(lambda n: pb.ConnectResponse(report_ack={"sequence": n}), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda n: pb.ConnectResponse(heartbeat_ack={"sequence": n}), st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda r: pb.ConnectResponse(open_channel={"logs": {"replica_id": r, "tail_lines": -9}}), names),
    st.builds(lambda r: pb.ConnectResponse(open_channel={"exec": {"replica_id": r, "command": ["x"]}}), names),
    st.just(pb.ConnectResponse()),
    st.just(pb.ConnectResponse(welcome={})),
    st.binary(max_size=60).map(lambda data: _parsed(data)),
)


def _parsed(data: bytes) -> pb.ConnectResponse:
    try:
        return pb.ConnectResponse.FromString(data)
    except DecodeError:
        return pb.ConnectResponse()


class Script:
    """A stream that says what the fuzzer wrote, then ends."""

    def __init__(self, script: list[pb.ConnectResponse]) -> None:
        self.script = script

    async def send(self, message: object) -> None:
        await asyncio.sleep(0)

    async def receive(self) -> object:
        await asyncio.sleep(0.5)
        return self.script.pop(0) if self.script else None

    async def close(self) -> None:
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(messages, max_size=8))
def test_a_coordinator_may_say_anything(script: list[pb.ConnectResponse]) -> None:
    """No message breaks the supervisor; the link at most ends."""

    async def story(loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        clock = SimClock(loop)
        device = FakeDevice(clock, directory / "logs")
        runtime = FakeRuntime(device)

        async def prober(replica_id: str, assignment: object, check: m.RunProbe) -> tuple[bool, str]:
            return random.Random(replica_id).random() < 0.5, "x"

        supervisor = Supervisor(runtime, Journal(directory / "j"), clock, prober, jitter=lambda: 0.0)
        supervisor.load()
        task = asyncio.ensure_future(supervisor.run())
        await supervisor.ready.wait()

        async def dial(session: object) -> Script:
            return Script([])

        channels = ChannelServer(runtime, supervisor, LogWatcher(max_bytes=0), dial=dial, spool=directory / "s")  # type: ignore[arg-type]
        services = LinkServices(
            node=supervisor,
            clock=clock,
            boot_id="",
            instance_id="",
            device=DeviceInfo,
            usage=NodeUsage,
            open_channel=channels.open,
            learn_coordinators=lambda addresses: None,
        )
        link = Link(Script([pb.ConnectResponse(welcome={}), *script]), services, on_doubt=lambda: None)  # type: ignore[arg-type]
        await link.greet()
        with contextlib.suppress(CloudlessError, ExceptionGroup):
            await link.run()
        await asyncio.sleep(30)
        assert not task.done()
        await supervisor.assign(2**63 - 1, [])
        await asyncio.sleep(3_000)
        assert not device.sandboxes
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await channels.close()

    with tempfile.TemporaryDirectory() as name:
        run(lambda loop: story(loop, Path(name)))
