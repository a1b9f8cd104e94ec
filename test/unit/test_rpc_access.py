"""Who may call what: the table is complete, and each row holds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cloudless.api.v1 import control_pb2, member_pb2, session_pb2
from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc import server
from cloudless.coordinator.rpc.access import OPEN, TABLE, Scope
from cloudless.coordinator.rpc.authentication import Authentication, issued_at_ms
from cloudless.coordinator.rpc.authorization import Authorization
from cloudless.coordinator.rpc.call import Call, Principal
from cloudless.core.model import Coordinator, Node, Role, RoleBinding, User
from cloudless.errors import CloudlessError, InvalidArgument, PermissionDenied, Unauthenticated
from cloudless.identity.channel import SERVER_OPTIONS
from cloudless.identity.csr import CertificateInfo, read_certificate
from cloudless.identity.spiffe import SpiffeId
from cloudless.testing.identity import Fabric

DAY_MS = 24 * 3_600_000


def every_rpc() -> list[Any]:
    files = (control_pb2, member_pb2, session_pb2, health_pb2, reflection_pb2)
    return [
        method for file in files for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
    ]


def path(method: Any) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def test_every_rpc_of_every_service_has_a_row() -> None:
    rows = set(TABLE) | OPEN
    missing = [path(method) for method in every_rpc() if path(method) not in rows]
    assert missing == []
    assert rows == {path(method) for method in every_rpc()}, "and no row is for nothing"


def test_nothing_but_enrolment_and_health_is_open() -> None:
    services = {name.rpartition("/")[0] for name in OPEN}
    assert services == {"/cloudless.api.v1.EnrollmentService", "/grpc.health.v1.Health"}


def test_each_row_that_reads_a_namespace_can_read_its_request() -> None:
    by_path = {path(method): method for method in every_rpc()}
    for name, rule in TABLE.items():
        if rule.scope in (Scope.NAMED, Scope.VISIBLE):
            message = by_path[name].input_type._concrete_class()
            namespaces = rule.namespaces(message)
            assert namespaces is not None
            assert set(namespaces) <= {"default"}, name


class Clock:
    def __init__(self, now_ms: int) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


class World:
    """Authentication and authorisation over a state that the test changes."""

    def __init__(self) -> None:
        self.state = State.empty("fabric.example")
        self.clock = Clock(10 * DAY_MS)
        self.authentication = Authentication(trust_domain="fabric.example", state=lambda: self.state, clock=self.clock)
        self.authorization = Authorization(self.authentication, state=lambda: self.state, clock=self.clock)

    def user(self, *bindings: RoleBinding, name: str = "alice", revoked: bool = False) -> Principal:
        self.state = self.state.with_user(User(name=name, bindings=bindings, revoked=revoked))
        return self.authentication.principal(self.certificate("user", name))

    def certificate(self, kind: str, name: str, *, key: str = "k1", **times: int) -> CertificateInfo:
        start = times.get("not_before_ms", self.clock.ms - 5 * 60_000)
        end = times.get("expires_at_ms", self.clock.ms + DAY_MS)
        return CertificateInfo(SpiffeId("fabric.example", kind, name), key, "1", start, end)

    async def call(self, principal: Principal, method: str, request: Any = None, *, streaming: bool = False) -> str:
        call = Call(method, None, False, streaming, {}, principal=principal)

        async def handler(call: Call, request: Any) -> str:
            return "done"

        return str(await self.authorization(call, request, handler))

    async def refusal(self, principal: Principal, method: str, request: Any = None) -> PermissionDenied:
        with pytest.raises(PermissionDenied) as caught:
            await self.call(principal, method, request)
        return caught.value


API = "/cloudless.api.v1."
VIEWER, OPERATOR, ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN


@pytest.mark.parametrize(
    ("method", "request_", "needed"),
    [
        ("NodeService/ListNodes", control_pb2.ListNodesRequest(), (VIEWER, "*")),
        ("NodeService/UpdateNode", control_pb2.UpdateNodeRequest(), (ADMIN, "*")),
        ("NodeService/RemoveNode", control_pb2.RemoveNodeRequest(), (ADMIN, "*")),
        ("TokenService/CreateToken", control_pb2.CreateTokenRequest(), (ADMIN, "*")),
        ("UserService/PutUser", control_pb2.PutUserRequest(), (ADMIN, "*")),
        ("WorkloadService/GetWorkload", control_pb2.GetWorkloadRequest(namespace="a"), (VIEWER, "a")),
        ("WorkloadService/GetWorkload", control_pb2.GetWorkloadRequest(), (VIEWER, "default")),
        ("WorkloadService/ScaleWorkload", control_pb2.ScaleWorkloadRequest(namespace="a"), (OPERATOR, "a")),
        ("WorkloadService/Logs", control_pb2.LogsRequest(namespace="a"), (OPERATOR, "a")),
        ("EventService/ListEvents", control_pb2.ListEventsRequest(namespace="a"), (VIEWER, "a")),
    ],
)
async def test_a_role_opens_its_namespace_and_no_other(method: str, request_: Any, needed: Any) -> None:
    role, namespace = needed
    order = [VIEWER, OPERATOR, ADMIN]
    for held in order:
        for where in ("*", namespace, "elsewhere"):
            world = World()
            alice = world.user(RoleBinding(held, where))
            allowed = order.index(held) >= order.index(role) and where in ("*", namespace)
            if allowed:
                assert await world.call(alice, API + method, request_) == "done"
            else:
                denied = await world.refusal(alice, API + method, request_)
                assert denied.reason == "RoleRequired"
                assert f"role {role} or higher" in denied.message, "it says what is needed"
                assert ("every namespace" if namespace == "*" else f"namespace {namespace}") in denied.message


async def test_a_batch_needs_the_role_in_each_namespace_that_it_names() -> None:
    world = World()
    alice = world.user(RoleBinding(OPERATOR, "a"))
    request = control_pb2.ApplyWorkloadsRequest()
    request.workloads.add().metadata.namespace = "a"
    assert await world.call(alice, API + "WorkloadService/ApplyWorkloads", request) == "done"
    request.workloads.add().metadata.namespace = "b"
    denied = await world.refusal(alice, API + "WorkloadService/ApplyWorkloads", request)
    assert "namespace b" in denied.message


async def test_a_list_of_all_namespaces_needs_a_role_in_some() -> None:
    world = World()
    request = control_pb2.ListWorkloadsRequest(options=control_pb2.ListOptions(all_namespaces=True))
    assert await world.call(world.user(RoleBinding(VIEWER, "a")), API + "WorkloadService/ListWorkloads", request)
    await world.refusal(world.user(name="bob"), API + "WorkloadService/ListWorkloads", request)


async def test_each_kind_of_caller_has_its_services_and_no_others() -> None:
    world = World()
    world.state = world.state.with_node(Node(id="n1", public_key_sha256="k1"))
    world.state = world.state.with_coordinator(Coordinator(id="c2"))
    callers = {
        "node": world.authentication.principal(world.certificate("node", "n1")),
        "coordinator": world.authentication.principal(world.certificate("coordinator", "c2")),
        "user": world.user(RoleBinding(ADMIN, "*")),
    }
    for method in TABLE:
        if "/cloudless." not in method:
            continue
        allowed = {"SessionService": {"node"}, "MemberService": {"coordinator"}}.get(
            method.split("/")[1].rpartition(".")[2], {"user"}
        )
        if method.endswith("/ListCoordinators"):
            allowed = {"node", "user"}
        for kind, caller in callers.items():
            if kind not in allowed:
                assert (await world.refusal(caller, method)).reason == "NotForThisCaller"
            elif kind != "user":
                assert await world.call(caller, method) == "done"


async def test_a_method_without_a_row_is_refused_to_everyone() -> None:
    world = World()
    admin = world.user(RoleBinding(ADMIN, "*"))
    assert (await world.refusal(admin, API + "Future/Call")).reason == "NotForThisCaller"


def _unauthenticated(world: World, certificate: CertificateInfo) -> str:
    with pytest.raises(Unauthenticated) as caught:
        world.authentication.principal(certificate)
    return caught.value.reason


def test_who_is_not_let_in() -> None:
    world = World()
    assert _unauthenticated(world, world.certificate("user", "nobody")) == "UserUnknown"
    assert _unauthenticated(world, world.certificate("node", "n1")) == "NodeRemoved"
    world.state = world.state.with_user(User(name="bob", revoked=True))
    assert _unauthenticated(world, world.certificate("user", "bob")) == "UserRevoked"
    late = world.certificate("user", "alice", expires_at_ms=world.clock.ms)
    assert _unauthenticated(world, late) == "CertificateExpired"
    stranger = CertificateInfo(SpiffeId("other.example", "user", "alice"), "k", "1", 0, world.clock.ms + 1)
    assert _unauthenticated(world, stranger) == "WrongTrustDomain"


def test_the_certificate_of_an_earlier_device_of_that_name_is_refused() -> None:
    world = World()
    before = world.certificate("node", "n1", key="old")
    world.clock.ms += 3_600_000
    world.state = world.state.with_node(Node(id="n1", public_key_sha256="new", enrolled_at_ms=world.clock.ms))
    assert _unauthenticated(world, before) == "CertificateSuperseded"
    assert world.authentication.principal(world.certificate("node", "n1", key="new")).name == "n1"
    world.clock.ms += 3_600_000
    rotated = world.certificate("node", "n1", key="rotated")  # by renewal; the log may already hold a later key
    assert world.authentication.principal(rotated).name == "n1"


async def test_a_removed_coordinator_is_refused_and_its_streams_end() -> None:
    world = World()
    assert world.authentication.principal(world.certificate("coordinator", "c2")).name == "c2", "the log may be behind"
    world.state = world.state.with_coordinator(Coordinator(id="c2"))
    member = world.authentication.principal(world.certificate("coordinator", "c2"))
    stream = Stream(world, member, API + "MemberService/Observe", None)
    await stream.began.wait()
    watcher = asyncio.create_task(world.authorization.watch_streams(interval_s=0.01))
    world.state = world.state.with_coordinator(Coordinator(id="c2", removed=True))
    assert (await stream.refusal()).reason == "CoordinatorRemoved"
    watcher.cancel()
    assert _unauthenticated(world, world.certificate("coordinator", "c2")) == "CoordinatorRemoved"


@pytest.mark.parametrize("ttl_ms", [3_000, 60_000, 3_600_000, DAY_MS])
def test_when_a_certificate_was_issued_can_be_told(tmp_path: Any, ttl_ms: int) -> None:
    fabric = Fabric(tmp_path / "ca")
    credentials = fabric.member("node", "n1", ttl_ms=ttl_ms)
    info = read_certificate(credentials.chain_pem)
    assert abs(issued_at_ms(info) - fabric.clock.now_ms()) < 2_000


class Stream:
    """A call on a stream that lasts until it is cancelled."""

    def __init__(self, world: World, principal: Principal, method: str, request: Any) -> None:
        self.began = asyncio.Event()
        self.cleaned_up = False
        call = Call(method, None, False, True, {}, principal=principal)
        self.task = asyncio.create_task(self._run(world, call, request))

    async def _run(self, world: World, call: Call, request: Any) -> None:
        await world.authorization(call, request, self._handler)

    async def _handler(self, call: Call, request: Any) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaned_up = True

    async def refusal(self) -> CloudlessError:
        with pytest.raises(CloudlessError) as caught:
            await asyncio.wait_for(self.task, 5)
        assert self.cleaned_up
        return caught.value


WATCH = API + "WorkloadService/WatchWorkloads"


async def test_an_open_stream_ends_when_its_caller_loses_the_right() -> None:
    world = World()
    request = control_pb2.WatchWorkloadsRequest()
    bindings = (RoleBinding(VIEWER, "default"),)
    revoked = Stream(world, world.user(*bindings, name="bob"), WATCH, request)
    demoted = Stream(world, world.user(*bindings, name="carol"), WATCH, request)
    stays = Stream(world, world.user(*bindings, name="dave"), WATCH, request)
    for stream in (revoked, demoted, stays):
        await stream.began.wait()
    world.user(name="bob", revoked=False)
    world.state = world.state.with_user(User(name="bob", revoked=True))
    world.state = world.state.with_user(User(name="carol"))
    world.authorization.check_streams()
    assert (await revoked.refusal()).reason == "UserRevoked"
    assert (await demoted.refusal()).reason == "RoleRequired"
    assert not stays.task.done()
    stays.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stays.task


async def test_a_nodes_stream_outlives_its_first_certificate_when_that_was_renewed() -> None:
    world = World()
    end = world.clock.ms + 60_000
    world.state = world.state.with_node(Node(id="n1", public_key_sha256="k1", certificate_expires_at_ms=end))
    node = world.authentication.principal(world.certificate("node", "n1", expires_at_ms=end))
    stream = Stream(world, node, API + "SessionService/Connect", None)
    await stream.began.wait()
    renewed = Node(id="n1", public_key_sha256="k1", certificate_expires_at_ms=end + 60_000)
    world.state = world.state.with_node(renewed)
    world.clock.ms = end + 1
    world.authorization.check_streams()
    await asyncio.sleep(0)
    assert not stream.task.done()
    world.clock.ms = end + 60_000
    world.authorization.check_streams()
    assert (await stream.refusal()).reason == "CertificateExpired"


async def test_the_watcher_notices_by_itself() -> None:
    world = World()
    stream = Stream(world, world.user(RoleBinding(VIEWER, "default")), WATCH, control_pb2.WatchWorkloadsRequest())
    await stream.began.wait()
    watcher = asyncio.create_task(world.authorization.watch_streams(interval_s=0.01))
    world.state = world.state.with_user(User(name="alice", revoked=True))
    assert (await stream.refusal()).reason == "UserRevoked"
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher


async def test_a_stream_without_a_first_message_is_refused() -> None:
    world = World()
    call = Call(API + "WorkloadService/Exec", None, True, True, {}, principal=world.user(RoleBinding(ADMIN, "*")))

    class Empty:
        async def peek(self) -> None:
            return None

    async def handler(call: Call, request: Any) -> None:
        raise AssertionError("must not run")

    with pytest.raises(InvalidArgument) as caught:
        await world.authorization(call, Empty(), handler)
    assert caught.value.reason == "FirstMessageMissing"


def test_grpc_knows_every_option_by_its_name() -> None:
    """An option that is spelled wrongly is silently ignored."""
    library = Path(cygrpc.__file__).read_bytes()
    names = {name for name, _ in {*server._API_OPTIONS, *server._ENROLL_OPTIONS} - set(SERVER_OPTIONS)}
    assert [name for name in sorted(names) if name.encode() not in library] == []
