"""A real coordinator inside the test's process, on ports that the system picks, with real certificates.

async with running_coordinator(tmp_path, session__heartbeat_interval_ms=100) as c:
    alice = await c.user("alice", (Role.VIEWER, "default"))
    async with c.channel(alice) as channel:
        await control_pb2_grpc.WorkloadServiceStub(channel).ListWorkloads(...)

async with running_coordinators(tmp_path, 3) as cluster:      # c1, c2, c3: all of them voters
    leader = await cluster.leader()
    await cluster.kill(leader.config.id)
    await (await cluster.leader()).put_workload("web")
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from cloudless import config as settings
from cloudless import contexts
from cloudless.api.v1 import control_pb2, control_pb2_grpc, types_pb2
from cloudless.api.v1.convert import fill
from cloudless.clock import Clock, SystemClock
from cloudless.config import CoordinatorConfig
from cloudless.coordinator.core.state import State
from cloudless.coordinator.main import Coordinator
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.core.model import Role, RoleBinding
from cloudless.errors import CloudlessError
from cloudless.identity.channel import error_from_rpc, open_channel
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.enrollment import enroll
from cloudless.identity.keys import PrivateKey, key_pem, new_private_key
from cloudless.identity.spiffe import USER, SpiffeId

TRUST_DOMAIN = "fabric.example"

T = TypeVar("T")


class RunningCoordinator:
    """What a test needs of a coordinator that runs. `coordinator` is the real thing."""

    def __init__(self, coordinator: Coordinator, admin_context: Path) -> None:
        self.coordinator = coordinator
        self.admin_context = admin_context
        self.admin: Credentials = contexts.load(admin_context).get().credentials()

    @property
    def config(self) -> CoordinatorConfig:
        return self.coordinator.config

    @property
    def store(self) -> Store[State]:
        return self.coordinator.store

    @property
    def state(self) -> State:
        return self.coordinator.store.snapshot.state

    @property
    def hub(self) -> SessionHub:
        return self.coordinator.hub

    @property
    def api_address(self) -> str:
        return self.coordinator.rpc.api_address

    @property
    def enroll_address(self) -> str:
        return self.coordinator.rpc.enroll_address

    @property
    def trust_domain(self) -> str:
        return self.coordinator.identity.authority.trust_domain

    def channel(self, credentials: Credentials | None = None) -> grpc.aio.Channel:
        """A channel to the mTLS listener, as the admin unless told otherwise."""
        return open_channel(self.api_address, credentials or self.admin)

    async def user(self, name: str, *bindings: tuple[Role, str], ttl_ms: int = 3_600_000) -> Credentials:
        """A person with these bindings, made by the admin through the API."""
        key = new_private_key()
        csr = make_csr(key, SpiffeId(self.trust_domain, USER, name))
        request = control_pb2.PutUserRequest(name=name, csr_der=csr, ttl_ms=ttl_ms)
        for role, namespace in bindings:
            fill(RoleBinding(role, namespace), request.bindings.add())
        async with self.channel() as channel:
            answer = await _stub(channel, "UserService").PutUser(request)
        return Credentials.from_pem(
            key_pem=key_pem(key),
            chain_pem=answer.certificate_chain_pem.encode(),
            bundle_pem=answer.trust_bundle_pem.encode(),
        )

    async def token(self, **fields: Any) -> str:
        """A join token's JWT; fields of CreateTokenRequest."""
        async with self.channel() as channel:
            answer = await _stub(channel, "TokenService").CreateToken(control_pb2.CreateTokenRequest(**fields))
        return str(answer.jwt)

    async def node(self, name: str, *, key: PrivateKey | None = None, jwt: str = "") -> Credentials:
        """A node, enrolled over the wire."""
        done = await enroll(jwt or await self.token(node_pattern=name), name, key=key)
        return done.credentials

    async def put_workload(
        self, name: str, *, namespace: str = "default", replicas: int = 1, **labels: str
    ) -> types_pb2.Workload:
        """A small workload, through the API."""
        request = control_pb2.CreateWorkloadRequest()
        request.metadata.name, request.metadata.namespace = name, namespace
        request.metadata.labels.update(labels)
        request.spec.replicas = replicas
        request.spec.containers.add(name="main", image="docker.io/library/web:1")
        async with self.channel() as channel:
            answer: control_pb2.CreateWorkloadResponse = await _stub(channel, "WorkloadService").CreateWorkload(request)
            return answer.workload


async def failure_of(call: Awaitable[Any]) -> CloudlessError:
    """What a call fails with; raises AssertionError when it succeeds."""
    try:
        async with asyncio.timeout(10):
            answer = await call
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error)
    raise AssertionError(f"the call succeeded: {answer}")


def _stub(channel: grpc.aio.Channel, service: str) -> Any:
    return getattr(control_pb2_grpc, f"{service}Stub")(channel)


def coordinator_config(directory: Path, **changes: Any) -> CoordinatorConfig:
    """Settings for tests: loopback, any ports, metrics off; `listen__api="..."` changes `listen.api`."""
    values: dict[str, Any] = {
        "data_dir": directory / "coordinator",
        "listen__api": "127.0.0.1:0",
        "listen__enroll": "127.0.0.1:0",
        "identity__trust_domain": TRUST_DOMAIN,
        "listen__member": "127.0.0.1:0",
        "metrics__listen": "",
        **changes,
    }
    return settings.build(CoordinatorConfig, {tuple(name.split("__")): value for name, value in values.items()})


@contextlib.asynccontextmanager
async def running_coordinator(
    directory: Path, *, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[RunningCoordinator]:
    """Runs a coordinator below `directory` while the block runs. Again with the same directory: a restart. The
    replicated state's invariants are checked when it ends."""
    config = coordinator_config(directory, **changes)
    coordinator = await Coordinator.start(config, clock=clock or SystemClock())
    try:
        admin_context = config.admin_context if config.admin_context != Path() else config.data_dir / "admin.yaml"
        yield RunningCoordinator(coordinator, admin_context)
    finally:
        coordinator.store.snapshot.state.validate()
        await coordinator.stop(grace_s=0.5)


class Cluster:
    """Several coordinators of one fabric, in this event loop. `members`: those that run, by id."""

    def __init__(self, directory: Path, *, clock: Clock | None = None, **changes: Any) -> None:
        self.directory = directory
        self.clock = clock or SystemClock()
        self.changes = changes
        self.members: dict[str, RunningCoordinator] = {}
        self._addresses: dict[str, dict[str, str]] = {}

    def config(self, coordinator_id: str, **changes: Any) -> CoordinatorConfig:
        """Its settings: its own folder, and the ports that it had before."""
        values = {
            "id": coordinator_id,
            "data_dir": self.directory / coordinator_id,
            "store__engine": "raft",
            **self._addresses.get(coordinator_id, {}),
            **self.changes,
            **changes,
        }
        return coordinator_config(self.directory, **values)

    async def start(self, coordinator_id: str, **changes: Any) -> RunningCoordinator:
        """Starts one that has its identity already, or the first of all."""
        config = self.config(coordinator_id, **changes)
        coordinator = await Coordinator.start(config, clock=self.clock)
        self._addresses[coordinator_id] = {
            "listen__api": coordinator.rpc.api_address,
            "listen__enroll": coordinator.rpc.enroll_address,
            "listen__member": coordinator.engine.listening,
        }
        running = RunningCoordinator(coordinator, self.directory / "c1" / "admin.yaml")
        self.members[coordinator_id] = running
        return running

    def move(self, coordinator_id: str) -> None:
        """Its next start listens on other ports."""
        self._addresses.pop(coordinator_id, None)

    async def token(self, coordinator_id: str, **fields: Any) -> Path:
        """A file with a token for a new coordinator, made through the API."""
        request = control_pb2.AddCoordinatorRequest(id=coordinator_id, **fields)
        any_member = next(iter(self.members.values()))
        async with any_member.channel() as channel:
            answer = await _stub(channel, "ClusterService").AddCoordinator(request, wait_for_ready=True)
        path = self.directory / f"{coordinator_id}.token"
        path.write_text(answer.jwt)
        return path

    async def add(self, coordinator_id: str, **changes: Any) -> RunningCoordinator:
        """Admits a new coordinator and starts it. It becomes a voter by itself: see `voters`."""
        return await self.start(coordinator_id, join_token_file=await self.token(coordinator_id), **changes)

    async def stop(self, coordinator_id: str) -> None:
        """In good order."""
        await self.members.pop(coordinator_id).coordinator.stop(grace_s=0.2)

    async def kill(self, coordinator_id: str) -> None:
        """As nearly as one process can: the others hear nothing more of it, and it hands nothing over."""
        coordinator = self.members.pop(coordinator_id).coordinator
        await coordinator.engine.close()
        await coordinator.stop(grace_s=0.0)

    async def leader(self, *, timeout_s: float = 10.0) -> RunningCoordinator:
        """The one that leads, once a majority of those that run follows it."""

        def found() -> RunningCoordinator | None:
            for member in self.members.values():
                followers = [m for m in self.members.values() if m.store.leader_id == member.config.id]
                if member.store.leading and 2 * len(followers) > len(self.members):
                    return member
            return None

        return await eventually(found, what="a leader", timeout_s=timeout_s)

    async def voters(self, *ids: str, timeout_s: float = 20.0) -> None:
        """Returns when all that run agree that exactly these coordinators vote."""

        def agreed() -> bool:
            return all(
                sorted(m.id for m in member.store.status().members if m.voter) == sorted(ids)
                for member in self.members.values()
            )

        await eventually(agreed, what=f"{', '.join(ids)} to vote", timeout_s=timeout_s)

    async def applied(self, index: int, *, timeout_s: float = 10.0) -> None:
        """Returns when all that run have applied this entry."""
        await eventually(
            lambda: all(member.store.snapshot.index >= index for member in self.members.values()),
            what=f"entry {index} on every coordinator",
            timeout_s=timeout_s,
        )

    async def close(self) -> None:
        for member in self.members.values():
            member.state.validate()
        await asyncio.gather(*(member.coordinator.stop(grace_s=0.2) for member in self.members.values()))
        self.members.clear()


async def eventually(condition: Callable[[], T | None], *, what: str, timeout_s: float = 10.0) -> T:
    """The first true answer. Raises AssertionError when there is none in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not (answer := condition()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"gave up waiting for {what} after {timeout_s:.0f} s")
        await asyncio.sleep(0.01)
    return answer


@contextlib.asynccontextmanager
async def running_coordinators(
    directory: Path, count: int = 3, *, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Cluster]:
    """Coordinators c1 to cN as one fabric, each with its own folder below `directory`, all of them voters and ready."""
    cluster = Cluster(directory, clock=clock, **changes)
    try:
        await cluster.start("c1")
        ids = [f"c{number}" for number in range(1, count + 1)]
        for coordinator_id in ids[1:]:
            await cluster.add(coordinator_id)
        await cluster.voters(*ids)
        for member in cluster.members.values():
            async with asyncio.timeout(20):
                await member.coordinator.wait_ready()
        yield cluster
    finally:
        await cluster.close()
