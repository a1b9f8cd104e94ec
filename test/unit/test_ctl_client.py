"""The client: idempotency keys, repeats, deadlines, and watches that go on."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudless.api.v1 import control_pb2, types_pb2
from cloudless.clock import SystemClock
from cloudless.ctl import watching
from cloudless.ctl.client import Client, deadline, gather
from cloudless.ctl.main import run
from cloudless.errors import (
    Compacted,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    WatchLagged,
)
from cloudless.testing.ctl import Ctl
from cloudless.testing.fake_control import FakeControl


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as started:
        yield started


@pytest.fixture
def client(control: FakeControl) -> Iterator[Client]:
    made = make(control)
    yield made
    made.close()


def make(
    control: FakeControl,
    *,
    timeout_ms: int = 5_000,
    addresses: tuple[str, ...] = (),
    sleep: Callable[[float], None] = lambda _: None,
) -> Client:
    ids = iter(range(1000))
    return Client(
        addresses or (control.address,),
        credentials=None,
        clock=SystemClock(),
        timeout_ms=timeout_ms,
        open_channel=lambda address: control.open_channel() if address == control.address else dead(address),
        new_request_id=lambda: f"id-{next(ids)}",
        sleep=sleep,
    )


def dead(address: str):
    import grpc

    return grpc.insecure_channel(address)


def ids(control: FakeControl, method: str) -> list[str]:
    return [metadata.get("cloudless-request-id", "") for called, _, metadata in control.calls if called == method]


def create(client: Client):
    return client.call("Token", "CreateToken", control_pb2.CreateTokenRequest(), write=True)


def test_a_write_whose_answer_was_lost_is_repeated_and_done_once(control: FakeControl, client: Client) -> None:
    control.lose_answer("CreateToken")
    answer = create(client)
    assert answer.token.id == "jt-0000"
    assert list(control.tokens) == ["jt-0000"]
    assert ids(control, "CreateToken") == ["id-0", "id-0"]


def test_each_write_has_an_id_of_its_own(control: FakeControl, client: Client) -> None:
    create(client)
    create(client)
    assert ids(control, "CreateToken") == ["id-0", "id-1"]


def test_a_write_is_repeated_while_the_coordinator_is_away(control: FakeControl, client: Client) -> None:
    control.fail("CreateToken", Unavailable("no leader"), times=3)
    assert create(client).token.id == "jt-0000"
    assert len(set(ids(control, "CreateToken"))) == 1


def test_a_write_is_not_repeated_after_a_refusal(control: FakeControl, client: Client) -> None:
    control.fail("CreateToken", PermissionDenied("no", reason="RoleRequired", remedy="ask"))
    with pytest.raises(PermissionDenied, match="no") as refused:
        create(client)
    assert (refused.value.reason, refused.value.remedy) == ("RoleRequired", "ask")
    assert len(ids(control, "CreateToken")) == 1


def test_a_write_gives_up_at_its_deadline(control: FakeControl) -> None:
    client = make(control, timeout_ms=100)
    control.fail("CreateToken", Unavailable("no leader"), times=100_000)
    with pytest.raises((Unavailable, DeadlineExceeded)):
        create(client)
    assert control.tokens == {}
    client.close()


def test_a_read_fails_at_once(control: FakeControl, client: Client) -> None:
    control.fail("ListNodes", Unavailable("no leader"))
    with pytest.raises(Unavailable):
        client.call("Node", "ListNodes", control_pb2.ListNodesRequest())
    assert len(ids(control, "ListNodes")) == 1


@pytest.mark.parametrize("write", [False, True])
def test_an_answer_that_does_not_come_is_a_timeout(control: FakeControl, write: bool) -> None:
    client = make(control, timeout_ms=150)
    stalled = control.stall("ListNodes")
    with pytest.raises(DeadlineExceeded, match="ListNodes was not answered within") as late:
        client.call("Node", "ListNodes", control_pb2.ListNodesRequest(), write=write)
    assert ("not known" in late.value.remedy) is write
    stalled.set()
    client.close()


def test_a_write_that_took_too_long_says_what_it_waited_for(control: FakeControl) -> None:
    stalled: list[threading.Event] = []
    client = make(control, timeout_ms=300, sleep=lambda _: stalled.append(control.stall("CreateToken")))
    control.fail("CreateToken", Unavailable("no coordinator leads", reason="NoLeader"))
    with pytest.raises(DeadlineExceeded, match=r"not answered within .* s: no coordinator leads") as late:
        create(client)
    assert late.value.reason == "NoLeader"
    assert "not known" in late.value.remedy
    stalled[0].set()
    client.close()


def test_the_next_coordinator_is_asked(control: FakeControl) -> None:
    client = make(control, addresses=("127.0.0.1:1", control.address))
    client.call("Node", "ListNodes", control_pb2.ListNodesRequest())
    assert len(ids(control, "ListNodes")) == 1
    client.close()


def test_nobody_answers(control: FakeControl) -> None:
    client = make(control, addresses=("127.0.0.1:1",))
    with pytest.raises(Unavailable, match=r"no coordinator answers at 127\.0\.0\.1:1"):
        client.call("Node", "ListNodes", control_pb2.ListNodesRequest())
    client.close()


def test_pages_and_gathering(control: FakeControl, client: Client) -> None:
    for number in range(5):
        control.add_node(f"n{number}")
    control.page_size_max = 2
    items, revision = client.pages("Node", "ListNodes", control_pb2.ListNodesRequest(), "nodes")
    assert [item.node.id for item in items] == ["n0", "n1", "n2", "n3", "n4"]
    assert revision == control.revision

    def missing() -> None:
        raise NotFound("gone")

    first, second = gather([missing, lambda: 2])
    assert isinstance(first, NotFound)
    assert second == 2


def follow_nodes(client: Client, **options):
    def request(revision: int):
        return control_pb2.WatchNodesRequest(from_revision=revision)

    return watching.follow(client, "Node", "WatchNodes", request, sleep=lambda seconds: None, **options)


@pytest.mark.parametrize("error", [Unavailable("gone"), WatchLagged("slow"), Compacted("old")])
def test_a_watch_goes_on_after_a_break(control: FakeControl, client: Client, error: Exception) -> None:
    control.add_node("n1")
    control.fail("WatchNodes", error)  # type: ignore[arg-type]
    messages = follow_nodes(client, from_revision=1)
    assert next(messages).node.node.id == "n1"
    control.add_node("n2")
    seen = next(message for message in messages if message.HasField("node"))
    assert seen.node.node.id in ("n1", "n2"), "from the present state a node may come twice"
    messages.close()  # type: ignore[attr-defined]
    revisions = [request.from_revision for method, request, _ in control.calls if method == "WatchNodes"]
    assert revisions == ([1, 1] if isinstance(error, Unavailable) else [1, 0])


def test_a_watch_that_is_refused_is_not_repeated(control: FakeControl, client: Client) -> None:
    control.fail("WatchNodes", PermissionDenied("no"))
    with pytest.raises(PermissionDenied):
        next(follow_nodes(client))
    assert len(ids(control, "WatchNodes")) == 1


def test_a_watch_ends_with_its_time(control: FakeControl, client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        list(follow_nodes(client, left_ms=deadline(SystemClock(), 200)))


def test_a_bad_context_is_said_before_any_call(control: FakeControl, tmp_path: Path) -> None:
    ctl = Ctl(control, tmp_path)
    ctl.config.write_text("contexts: 5\n")
    outcome = ctl("get", "nodes")
    assert outcome.code == InvalidArgument.exit_code
    assert outcome.err.startswith("error: ")


def test_get_watch_shows_each_change(control: FakeControl, tmp_path: Path) -> None:
    """`get -w` never ends by itself: here the coordinator ends the watch and then refuses another."""
    ctl = Ctl(control, tmp_path)
    control.add_node("n1")
    app = ctl.app()
    result: list[int] = []
    shown = {name: threading.Event() for name in ("n1", "n2", "n3")}

    class Recorder(io.StringIO):
        def write(self, text: str) -> int:
            for name, event in shown.items():
                if name in text:
                    event.set()
            return super().write(text)

    before, sys.stdout = sys.stdout, Recorder()
    try:
        thread = threading.Thread(target=lambda: result.append(run(["get", "nodes", "-w", "--no-headers"], app)))
        thread.start()
        assert shown["n1"].wait(5)
        control.add_node("n2", state=types_pb2.NODE_STATE_UNREACHABLE)
        assert shown["n2"].wait(5)
        control.end_watches()
        control.add_node("n3")
        assert shown["n3"].wait(5), "the watch goes on where it ended"
        control.fail("WatchNodes", PermissionDenied("your role was taken away"))
        control.end_watches()
        thread.join(5)
    finally:
        sys.stdout = before
    assert result == [PermissionDenied.exit_code]


def test_exec_sends_stdin_and_its_end(control: FakeControl, tmp_path: Path) -> None:
    """As a process of its own: reading stdin must not keep it from ending."""
    ctl = Ctl(control, tmp_path)
    control.add_node("n1")
    manifest = (
        "apiVersion: cloudless.dev/v1\nkind: Workload\nmetadata: {name: web}\n"
        "spec: {containers: [{name: web, image: nginx}]}\n"
    )
    assert ctl("apply", "-f", "-", stdin=manifest.encode()).code == 0
    program = (
        "import os, sys, grpc\n"
        "from cloudless.ctl.app import App\nfrom cloudless.ctl.main import run\n"
        "code = run(sys.argv[1:], App(open_channel=lambda address: grpc.insecure_channel(address)))\n"
        "sys.stdout.flush()\nos._exit(code)\n"
    )

    def process(*arguments: str, data: bytes | None) -> subprocess.CompletedProcess[bytes]:
        read, write = os.pipe()
        try:
            return subprocess.run(
                [sys.executable, "-c", program, *arguments],
                env={**os.environ, "CLOUDLESS_CONFIG": str(ctl.config)},
                capture_output=True,
                timeout=20,
                **({"input": data} if data is not None else {"stdin": read}),  # type: ignore[arg-type]
            )
        finally:
            os.close(read)
            os.close(write)

    data = bytes(range(256)) * 2000
    echoed = process("exec", "-i", "web-00000", "--", "cat", data=data)
    assert (echoed.returncode, echoed.stdout == data) == (0, True), echoed.stderr
    ended = process("exec", "-i", "web-00000", "--", "exit", "3", data=None)
    assert ended.returncode == 3, "a stdin that stays open does not hold it"


def test_a_short_command_imports_little() -> None:
    """What a listing pulls in decides how quickly it answers; these are slow to import."""
    code = (
        "import sys\nimport cloudless.ctl.commands.get\nprint(sorted(set(sys.argv[1].split(',')) & set(sys.modules)))"
    )
    heavy = "rich,cryptography,structlog,prometheus_client,opentelemetry,cloudless.core.model,cloudless.manifest"
    done = subprocess.run([sys.executable, "-c", code, heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
