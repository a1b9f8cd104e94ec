"""Health checks against real servers on loopback: good, bad, slow, silent and absurd ones."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from cloudless.agent.core.model import RunProbe
from cloudless.agent.core.probes import ProbeKind
from cloudless.agent.probing import NetworkProber, _encode_health, _words
from cloudless.agent.runtime.base import ExecRequest, Sandbox
from cloudless.clock import SystemClock
from cloudless.core.model import Assignment
from cloudless.core.spec import (
    Container,
    ContainerPort,
    ExecProbe,
    GrpcProbe,
    HttpProbe,
    Probe,
    TcpProbe,
    WorkloadSpec,
)
from cloudless.testing.runtime import FakeDevice, FakeExec, FakeRuntime


@asynccontextmanager
async def server(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[str]:
    """Answers each connection's head; None: never."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = answer(await reader.readuntil(b"\r\n\r\n"))
            if reply is None:
                await asyncio.sleep(30)
            else:
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    serving = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with serving:
        yield str(serving.sockets[0].getsockname()[1])


@asynccontextmanager
async def plain() -> AsyncIterator[str]:
    """Speaks before it is asked, as no TLS server does."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        await reader.read(1)  # until the checker hangs up
        writer.close()

    serving = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with serving:
        yield str(serving.sockets[0].getsockname()[1])


async def check(probe: Probe, *, runtime: FakeRuntime | None = None, port: str = "80") -> tuple[bool, str]:
    container = Container("main", "i", ports=(ContainerPort("http", int(port)),))
    assignment = Assignment("r1", "w", "d", 1, WorkloadSpec(containers=(container,)))
    prober = NetworkProber(runtime)  # type: ignore[arg-type]
    return await prober("r1", assignment, RunProbe("main", 0, ProbeKind.LIVENESS, probe, "127.0.0.1"))


@pytest.mark.parametrize(
    ("status", "ok"), [(200, True), (204, True), (302, True), (399, True), (400, False), (404, False), (503, False)]
)
async def test_http_status(status: int, ok: bool) -> None:
    async with server(lambda head: b"HTTP/1.1 %d Whatever\r\n\r\n" % status) as port:
        passed, detail = await check(Probe(http=HttpProbe("/", "http")), port=port)
        assert passed is ok
        assert str(status) in detail


async def test_http_sends_path_host_and_headers() -> None:
    heads: list[bytes] = []

    def answer(head: bytes) -> bytes:
        heads.append(head)
        return b"HTTP/1.0 200 OK\r\n\r\n"

    async with server(answer) as port:
        assert (await check(Probe(http=HttpProbe("/ok?x=1", port, headers={"X-A": "b", "Host": "me"}))))[0]
        assert heads[0].startswith(b"GET /ok?x=1 HTTP/1.1\r\n")
        assert b"\r\nX-A: b\r\n" in heads[0]
        assert heads[0].lower().count(b"host:") == 1
        refused = await check(Probe(http=HttpProbe("/", port, headers={"X": "a\r\nEvil: 1"})))
        assert not refused[0]
        assert len(heads) == 1


@pytest.mark.parametrize("reply", [b"", b"hello\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 OK\r\n", b"x" * 20_000, b"\0" * 10])
async def test_http_answers_that_are_none(reply: bytes) -> None:
    async with server(lambda head: reply) as port:
        assert not (await check(Probe(http=HttpProbe("/", port))))[0]


async def test_http_that_never_answers_times_out() -> None:
    async with server(lambda head: None) as port:
        began = asyncio.get_running_loop().time()
        passed, detail = await check(Probe(http=HttpProbe("/", port), timeout_ms=200))
        assert not passed
        assert "200 ms" in detail
        assert asyncio.get_running_loop().time() - began < 2


async def test_tcp() -> None:
    async with server(lambda head: b"") as port:
        assert (await check(Probe(tcp=TcpProbe("http")), port=port))[0]
    assert not (await check(Probe(tcp=TcpProbe("70000"))))[0]
    assert await check(Probe(tcp=TcpProbe("nope"))) == (False, "the container has no port named nope")


@pytest.mark.parametrize("kind", ["http", "https", "tcp", "grpc"])
async def test_where_nobody_listens_the_place_is_named(kind: str) -> None:
    async with server(lambda head: b"") as port:
        pass
    probe = {
        "http": Probe(http=HttpProbe("/", port), timeout_ms=5_000),
        "https": Probe(http=HttpProbe("/", port, scheme="HTTPS"), timeout_ms=5_000),
        "tcp": Probe(tcp=TcpProbe(port), timeout_ms=5_000),
        "grpc": Probe(grpc=GrpcProbe(port), timeout_ms=5_000),
    }[kind]
    assert await check(probe) == (False, f"connection refused at 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.1.0.2', 80)"), "connection refused at P"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('10.1.0.2', 80)"), "no route to P"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no route to P"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by P"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files at P"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "at P"),
        (ConnectionAbortedError(), "ConnectionAbortedError at P"),
    ],
)
def test_words_for_what_goes_wrong(error: OSError, words: str) -> None:
    assert _words(error, "P").endswith(words)
    assert "(" not in _words(error, "P").removesuffix("(_ssl.c:1006) at P")


async def test_https_of_a_server_that_speaks_none() -> None:
    async with plain() as port:
        passed, detail = await check(Probe(http=HttpProbe("/", port, scheme="HTTPS")))
        assert (passed, detail) == (False, f"TLS failed (wrong version number) at 127.0.0.1:{port}")


async def test_https_that_never_answers_times_out() -> None:
    async with server(lambda head: None) as port:
        passed, detail = await check(Probe(http=HttpProbe("/", port, scheme="HTTPS"), timeout_ms=300))
        assert (passed, detail) == (False, f"no answer from 127.0.0.1:{port} within 300 ms")


async def test_exec(tmp_path: Path) -> None:
    async def program(request: ExecRequest, streams: FakeExec) -> int:
        streams.write(b"because\n")
        if request.command[0] == "hang":
            await asyncio.sleep(60)
        return int(request.command[1])

    device = FakeDevice(SystemClock(), tmp_path, program=program)
    runtime = FakeRuntime(device)
    container = Container("main", "i")
    sandbox = Sandbox("r1", "d", "w", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    assert (await check(Probe(exec=ExecProbe(("x", "0"))), runtime=runtime))[0]
    assert await check(Probe(exec=ExecProbe(("x", "3"))), runtime=runtime) == (False, "exit code 3: because")
    passed, detail = await check(Probe(exec=ExecProbe(("hang", "0")), timeout_ms=100), runtime=runtime)
    assert (passed, "100 ms" in detail) == (False, True)
    device.reachable = False
    assert (await check(Probe(exec=ExecProbe(("x", "0"))), runtime=runtime))[0] is None
    device.reachable = True
    device.exit("r1", "main", code=1)
    assert (await check(Probe(exec=ExecProbe(("x", "0"))), runtime=runtime))[0] is None, "its end is seen by looking"


async def test_a_check_that_hangs_is_killed_and_holds_no_other_up(tmp_path: Path) -> None:
    running: set[FakeExec] = set()
    all_run = asyncio.Event()

    async def program(request: ExecRequest, streams: FakeExec) -> int:
        if request.command[0] == "fine":
            return 0
        running.add(streams)
        if len(running) == 40:
            all_run.set()
        try:
            await asyncio.Event().wait()
        finally:
            running.discard(streams)
        return 0

    runtime = FakeRuntime(FakeDevice(SystemClock(), tmp_path, program=program))
    container = Container("main", "i")
    sandbox = Sandbox("r1", "d", "w", 1, WorkloadSpec(containers=(container,)))
    await runtime.ensure_sandbox(sandbox)
    await runtime.start_container(sandbox, container, attempt=0)
    wanted = Assignment("r1", "w", "d", 1, sandbox.spec)
    prober = NetworkProber(runtime)

    def ask(word: str, timeout_ms: int) -> Awaitable[tuple[bool | None, str]]:
        probe = Probe(exec=ExecProbe((word,)), timeout_ms=timeout_ms)
        return prober("r1", wanted, RunProbe("main", 0, ProbeKind.LIVENESS, probe, "127.0.0.1"))

    hanging = [asyncio.ensure_future(ask("hang", 500)) for _ in range(40)]
    async with asyncio.timeout(5):
        await all_run.wait()
        assert (await ask("fine", 100))[0]
        assert {ok for ok, _ in await asyncio.gather(*hanging)} == {False}
    assert not running


async def test_grpc_health() -> None:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await servicer.set("db", health_pb2.HealthCheckResponse.NOT_SERVING)
    serving = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, serving)
    port = str(serving.add_insecure_port("127.0.0.1:0"))
    await serving.start()
    try:
        assert (await check(Probe(grpc=GrpcProbe(port))))[0]
        assert await check(Probe(grpc=GrpcProbe(port, "db"))) == (False, "health status NOT_SERVING")
        passed, detail = await check(Probe(grpc=GrpcProbe(port, "unknown")))
        assert (passed, "NOT_FOUND" in detail) == (False, True)
    finally:
        await serving.stop(None)
    assert not (await check(Probe(grpc=GrpcProbe(port))))[0]
    for name in ("", "a", "x" * 127, "x" * 128, "y" * 20_000):
        assert health_pb2.HealthCheckRequest.FromString(_encode_health(name)).service == name
