"""The client and several coordinators: one is gone, hangs, is slow, has no leader, or is new."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cloudless import contexts
from cloudless.api.v1 import control_pb2
from cloudless.clock import SystemClock
from cloudless.contexts import Context, Contexts
from cloudless.ctl import watching
from cloudless.ctl.client import Client
from cloudless.errors import DeadlineExceeded, PermissionDenied, Unauthenticated, Unavailable
from cloudless.identity.channel import CONSISTENCY_METADATA, STALE
from cloudless.testing.ctl import Ctl
from cloudless.testing.fake_control import FakeControl

REFUSING = "127.0.0.1:1"


@pytest.fixture
def one() -> Iterator[FakeControl]:
    with FakeControl() as started:
        yield started


@pytest.fixture
def two() -> Iterator[FakeControl]:
    with FakeControl() as started:
        yield started


@pytest.fixture
def hanging() -> Iterator[str]:
    """An address that takes connections and never says a word, as that of a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    made: list[Client] = []
    yield made
    for client in made:
        client.close()


def make(clients: list[Client], *addresses: str, timeout_ms: int = 10_000, **options) -> Client:
    ids = iter(range(1000))
    client = Client(
        addresses,
        credentials=None,
        clock=SystemClock(),
        timeout_ms=timeout_ms,
        open_channel=lambda address: grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]),
        new_request_id=lambda: f"id-{next(ids)}",
        **options,
    )
    clients.append(client)
    return client


def took_s(function) -> float:
    began = time.monotonic()
    function()
    return time.monotonic() - began


def nodes(client: Client):
    return client.call("Node", "ListNodes", control_pb2.ListNodesRequest())


def create(client: Client):
    return client.call("Token", "CreateToken", control_pb2.CreateTokenRequest(), write=True)


def called(control: FakeControl, method: str) -> list[dict]:
    return [metadata for name, _, metadata in control.calls if name == method]


def request_ids(control: FakeControl) -> list[str]:
    return [metadata["cloudless-request-id"] for metadata in called(control, "CreateToken")]


def test_a_coordinator_that_is_gone_costs_nothing(one: FakeControl, clients: list[Client]) -> None:
    client = make(clients, REFUSING, one.address)
    assert took_s(lambda: nodes(client)) < 0.8
    assert took_s(lambda: [nodes(client) for _ in range(20)]) < 0.8
    assert len(called(one, "ListNodes")) == 21


@pytest.mark.parametrize("write", [False, True])
def test_a_coordinator_that_hangs_costs_a_second_once(
    one: FakeControl, hanging: str, clients: list[Client], write: bool
) -> None:
    client = make(clients, hanging, one.address)
    ask = (lambda: create(client)) if write else (lambda: nodes(client))
    assert 0.9 < took_s(ask) < 2.0
    assert took_s(lambda: [ask() for _ in range(10)]) < 0.8


def test_a_slow_coordinator_is_not_waited_for_and_a_write_is_done_once(
    one: FakeControl, two: FakeControl, clients: list[Client]
) -> None:
    client = make(clients, one.address, two.address)
    stalled = one.stall("CreateToken")
    assert 0.9 < took_s(lambda: create(client)) < 2.0
    assert request_ids(two) == ["id-0"]
    stalled.set()
    create(client)  # goes to the one that answered
    assert request_ids(two) == ["id-0", "id-1"]


def test_a_write_whose_coordinator_falls_goes_to_the_next_under_the_same_id(
    one: FakeControl, two: FakeControl, clients: list[Client]
) -> None:
    client = make(clients, one.address, two.address)
    one.lose_answer("CreateToken")
    assert took_s(lambda: create(client)) < 0.5
    assert request_ids(one) == request_ids(two) == ["id-0"]


def test_a_write_waits_for_a_leader_without_long_pauses(
    one: FakeControl, two: FakeControl, clients: list[Client]
) -> None:
    client = make(clients, one.address, two.address)
    for control in (one, two):
        control.fail("CreateToken", Unavailable("nobody leads", reason="NoLeader"), times=5)
    assert took_s(lambda: create(client)) < 1.3  # 0.1 s + four times 0.2 s
    assert set(request_ids(one) + request_ids(two)) == {"id-0"}


def test_a_read_waits_a_moment_for_a_leader(one: FakeControl, clients: list[Client]) -> None:
    client = make(clients, one.address)
    one.fail("ListNodes", Unavailable("nobody leads", reason="NoLeader"), times=3)
    nodes(client)
    assert len(called(one, "ListNodes")) == 4


def test_a_refusal_is_final_wherever_it_comes_from(one: FakeControl, two: FakeControl, clients: list[Client]) -> None:
    client = make(clients, one.address, two.address)
    one.fail("ListNodes", PermissionDenied("no", reason="RoleRequired"))
    with pytest.raises(PermissionDenied):
        nodes(client)
    assert called(two, "ListNodes") == []


def test_the_deadline_holds_where_nobody_answers(hanging: str, clients: list[Client]) -> None:
    client = make(clients, hanging, hanging.replace("127.0.0.1", "localhost"), timeout_ms=1_600)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        create(client)
    assert time.monotonic() - began < 2.5


def test_the_word_of_a_coordinator_says_more_than_that_another_is_gone(one: FakeControl, clients: list[Client]) -> None:
    client = make(clients, one.address, REFUSING, timeout_ms=1_500)
    one.fail("ListNodes", Unavailable("too few of us", reason="NoLeader", remedy="--stale"), times=100)
    with pytest.raises(Unavailable) as caught:
        client.call("Node", "ListNodes", control_pb2.ListNodesRequest())
    assert (caught.value.reason, caught.value.remedy) == ("NoLeader", "--stale")


def test_stale_reads_say_so(one: FakeControl, clients: list[Client]) -> None:
    nodes(make(clients, one.address, consistency=STALE))
    nodes(make(clients, one.address))
    first, second = called(one, "ListNodes")
    assert first[CONSISTENCY_METADATA] == STALE
    assert CONSISTENCY_METADATA not in second


def test_a_watch_begins_and_goes_on_with_another_coordinator(
    one: FakeControl, two: FakeControl, hanging: str, clients: list[Client]
) -> None:
    client = make(clients, hanging, one.address, two.address)
    for control in (one, two):
        control.add_node("n1")

    def request(revision: int):
        return control_pb2.WatchNodesRequest(from_revision=revision)

    messages = watching.follow(client, "Node", "WatchNodes", request)
    assert next(messages).node.node.id == "n1"
    assert next(messages).synced
    for control in (one, two):
        control.add_node("n2")
    assert next(messages).node.node.id == "n2"
    one.fail("WatchNodes", Unavailable("it stops", reason="ShuttingDown"))
    one.end_watches()
    two.add_node("n3")
    began = time.monotonic()
    assert next(messages).node.node.id == "n3"
    assert time.monotonic() - began < 1.5
    messages.close()  # type: ignore[attr-defined]
    assert [request.from_revision for name, request, _ in two.calls if name == "WatchNodes"] == [3]


def test_a_stream_of_requests_goes_to_a_coordinator_that_is_there(
    one: FakeControl, hanging: str, clients: list[Client]
) -> None:
    client = make(clients, hanging, REFUSING, one.address)
    start = control_pb2.ExecRequest(start=control_pb2.ExecStart(replica_id="r", command=["exit", "3"]))
    messages, _ = client.stream("Workload", "Exec", iter([start]))
    assert [message.exit_code for message in messages if message.HasField("exit_code")] == [3]


def test_new_coordinators_are_learnt_and_used(one: FakeControl, two: FakeControl, clients: list[Client]) -> None:
    learnt: list[tuple[str, ...]] = []
    client = make(clients, one.address, on_learnt=learnt.append)
    one.coordinators = (two.address, one.address)
    nodes(client)
    assert learnt == [(one.address, two.address)]
    one.__exit__()
    nodes(client)
    assert len(called(two, "ListNodes")) == 1
    assert len(learnt) == 1


def test_an_address_that_works_is_kept_whatever_they_call_themselves(one: FakeControl, clients: list[Client]) -> None:
    learnt: list[tuple[str, ...]] = []
    client = make(clients, one.address, on_learnt=learnt.append)
    one.coordinators = ("192.0.2.1:8443",)
    nodes(client)
    assert learnt == []
    one.coordinators = ("192.0.2.1:8443", "192.0.2.2:8443")
    nodes(client)
    assert learnt == [(one.address, "192.0.2.1:8443", "192.0.2.2:8443")]


def test_a_client_for_certain_coordinators_learns_of_no_others(one: FakeControl, clients: list[Client]) -> None:
    client = make(clients, one.address)
    one.coordinators = (one.address, "192.0.2.1:8443")
    nodes(client)
    assert client.addresses == (one.address,)


def test_the_contexts_file_keeps_what_was_learnt(one: FakeControl, two: FakeControl, tmp_path: Path) -> None:
    ctl = Ctl(one, tmp_path)
    before = contexts.load(ctl.config).get()
    one.coordinators = (one.address, two.address)
    assert ctl("get", "nodes").code == 0
    after = contexts.load(ctl.config).get()
    assert after.coordinators == (*before.coordinators, two.address)
    assert after.certificate == before.certificate
    ctl.config.parent.chmod(0o500)
    try:
        one.coordinators = (one.address,)
        assert ctl("get", "nodes").code == 0  # a folder that cannot be written fails no command
    finally:
        ctl.config.parent.chmod(0o700)


def test_updates_of_the_contexts_file_do_not_overwrite_each_other(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    Contexts().merge(Context("home")).save(path)

    def add(number: int) -> None:
        contexts.update(path, lambda latest: latest.merge(Context(f"c{number}")))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {context.name for context in contexts.load(path).contexts} == {"home", *(f"c{n}" for n in range(8))}
    contexts.update(path, lambda latest: None)
    with pytest.raises(FileNotFoundError):
        contexts.update(tmp_path / "nowhere" / "config.yaml", lambda latest: latest)


def test_an_exec_whose_coordinator_falls_says_that_the_program_may_still_run(clients: list[Client]) -> None:
    forever = threading.Event()

    def program(start, requests):
        yield control_pb2.ExecResponse(started=True)
        forever.wait(20)

    with FakeControl() as falling:
        falling.program = program
        client = make(clients, falling.address, REFUSING)
        start = control_pb2.ExecRequest(start=control_pb2.ExecStart(replica_id="r", command=["sleep"]))
        messages, _ = client.stream("Workload", "Exec", iter([start]))
        assert next(messages).started
        threading.Timer(0.1, falling.__exit__).start()
        with pytest.raises(Unavailable) as caught:
            next(messages)
        forever.set()
    assert caught.value.reason == "StreamBroken"
    assert "may still run" in caught.value.remedy


class HungUp(grpc.RpcError):
    """What gRPC says when a handshake is cut off."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "failed to connect to all addresses; last error: Socket closed"

    def trailing_metadata(self) -> tuple[()]:
        return ()


class Ours:
    spiffe_id, trust_domain = "spiffe://test/user/admin", "test"
    not_before_ms, expires_at_ms = 1, 2**53


def test_a_coordinator_that_ends_during_a_handshake_has_not_refused_the_certificate(clients) -> None:
    client = make(clients, REFUSING)
    client._credentials = Ours
    assert isinstance(client._failed(REFUSING, HungUp()), Unauthenticated)
    client._succeeded("another:1", HungUp())  # of a call, all that counts is its trailers
    for address in ("another:1", REFUSING):  # also when that one is gone as well
        assert isinstance(client._failed(address, HungUp()), Unavailable)


@pytest.mark.parametrize(("lasts", "works"), [(3, True), (1000, False)])
def test_a_hang_up_is_taken_for_a_refusal_only_when_it_lasts(clients, lasts: int, works: bool) -> None:
    client = make(clients, REFUSING)
    asked: list[int] = []

    def ask(*_: object) -> str:
        asked.append(1)
        if len(asked) <= lasts:
            raise Unauthenticated("hung up", reason="CertificateRefused")
        return "answer"

    client._ask = ask
    if works:
        assert client.call("Node", "GetNode", control_pb2.GetNodeRequest()) == "answer"
    else:
        with pytest.raises(Unauthenticated):
            client.call("Node", "GetNode", control_pb2.GetNodeRequest())
    assert len(asked) > 1


def test_a_call_that_a_stopping_coordinator_ends_goes_to_another_one(clients, one: FakeControl) -> None:
    class Ended(HungUp):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.CANCELLED

    client = make(clients, one.address)
    raised = client._failed(one.address, Ended())
    assert isinstance(raised, Unavailable)
    asked: list[int] = []
    whole = client._ask

    def ask(*arguments: object) -> object:
        asked.append(1)
        if len(asked) == 1:
            raise raised
        return whole(*arguments)

    client._ask = ask
    client.call("Cluster", "GetStatus", control_pb2.GetStatusRequest(), write=True)
    assert len(asked) == 2
