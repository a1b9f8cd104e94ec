"""Three real coordinators in one event loop: how they come together, lose one another, and whom they keep out."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator import joining
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.main import EXIT_REMOVED, exit_code
from cloudless.coordinator.raft.transport import TlsTransport
from cloudless.errors import CloudlessError, InvalidArgument
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.enrollment import enroll
from cloudless.identity.keys import key_pem, new_private_key
from cloudless.identity.spiffe import COORDINATOR, NODE, SpiffeId, server_name
from cloudless.testing.coordinator import Cluster, RunningCoordinator, eventually, failure_of, running_coordinators
from cloudless.testing.etcd import shared_etcd
from cloudless.testing.identity import Fabric


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_coordinators(tmp_path, 3) as running:
        yield running


def _names(member: RunningCoordinator) -> set[str]:
    return {name for _, name in member.state.workloads}


async def _agree(cluster: Cluster) -> None:
    """Every coordinator holds the same state."""
    leader = await cluster.leader()
    await cluster.applied(leader.store.snapshot.index)
    await eventually(
        lambda: len({state_hash(member.state) for member in cluster.members.values()}) == 1, what="one state everywhere"
    )


async def test_what_one_accepts_all_have(cluster: Cluster) -> None:
    for name, member in cluster.members.items():
        await member.put_workload(f"through-{name}", replicas=0)
    await _agree(cluster)
    for member in cluster.members.values():
        assert _names(member) == {"through-c1", "through-c2", "through-c3"}
        assert sorted(member.state.coordinators) == ["c1", "c2", "c3"]
        api = {other.api_address for other in cluster.members.values()}
        await eventually(
            lambda m=member, a=api: set(m.coordinator.directory.api_addresses()) == a, what="all addresses"
        )
        assert member.coordinator.directory.api_addresses()[0] == member.api_address
    roots = {m.coordinator.identity.authority.root_sha256 for m in cluster.members.values()}
    assert len(roots) == 1
    assert len({m.coordinator.engine.cluster_id() for m in cluster.members.values()}) == 1


async def test_any_of_them_admits_nodes_and_tells_all_addresses(cluster: Cluster) -> None:
    await _agree(cluster)
    follower = next(m for m in cluster.members.values() if not m.store.leading)
    jwt = await follower.token(node_pattern="n*", max_uses=3)
    done = await enroll(jwt, "n1")
    assert set(done.coordinators) == {m.api_address for m in cluster.members.values()}
    await cluster.stop(follower.config.id)
    assert await enroll(jwt, "n2"), "the token names the others too"


async def test_the_death_of_the_leader(cluster: Cluster) -> None:
    await (await cluster.leader()).put_workload("before", replicas=0)
    dead = (await cluster.leader()).config.id
    await cluster.kill(dead)
    leader = await cluster.leader()
    await leader.put_workload("after", replicas=0)
    for member in cluster.members.values():
        await member.put_workload(f"through-{member.config.id}", replicas=0)
    back = await cluster.start(dead)
    await asyncio.wait_for(back.coordinator.wait_ready(), 10)
    await _agree(cluster)
    assert _names(back) >= {"before", "after"}


async def test_a_graceful_stop_of_the_leader_hands_over(cluster: Cluster) -> None:
    leader = await cluster.leader()
    term = leader.store.term
    stopping = asyncio.create_task(cluster.stop(leader.config.id))
    other = next(m for m in cluster.members.values() if m is not leader)
    await other.put_workload("meanwhile", replicas=0)
    await stopping
    assert (await cluster.leader()).store.term == term + 1, "one election, not several"


async def test_all_at_once_and_back(cluster: Cluster) -> None:
    await (await cluster.leader()).put_workload("kept", replicas=0)
    await _agree(cluster)
    ids = list(cluster.members)
    for coordinator_id in ids:
        await cluster.kill(coordinator_id)
    first = await cluster.start("c1")
    assert not first.coordinator.presence.ready, "one of three decides nothing"
    assert first.coordinator.healthy()
    assert not first.store.leading
    await cluster.start("c2")
    await asyncio.wait_for(first.coordinator.wait_ready(), 10)
    await first.put_workload("two-suffice", replicas=0)
    await cluster.start("c3")
    for member in cluster.members.values():
        await asyncio.wait_for(member.coordinator.wait_ready(), 10)
    await _agree(cluster)
    assert _names(cluster.members["c3"]) == {"kept", "two-suffice"}


async def test_a_removed_coordinator_ends_and_stays_out(cluster: Cluster) -> None:
    await _agree(cluster)
    leader = await cluster.leader()
    gone = next(m for m in cluster.members.values() if m is not leader)
    name = gone.config.id
    waiting = asyncio.create_task(gone.coordinator.wait(asyncio.Event()))
    async with leader.channel() as channel:
        stub = control_pb2_grpc.ClusterServiceStub(channel)
        await stub.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id=name))
    with pytest.raises(CloudlessError) as caught:
        await asyncio.wait_for(waiting, 20)
    assert exit_code(caught.value) == EXIT_REMOVED
    await cluster.kill(name)
    # Its folder says the same again, whether its log knows of the removal or only the others do.
    assert exit_code(await _end_of(cluster, name)) == EXIT_REMOVED
    shutil.rmtree(gone.config.data_dir)
    refusal = await failure_of_add(cluster, name)
    assert refusal.reason == "CoordinatorIdUsed"
    await cluster.add("c9")
    await cluster.voters(*sorted({*cluster.members, "c9"}))


async def _end_of(cluster: Cluster, name: str) -> CloudlessError:
    """Starts it, and returns what it ends with."""
    try:
        started = await cluster.start(name)
        await asyncio.wait_for(started.coordinator.wait(asyncio.Event()), 20)
    except CloudlessError as error:
        if name in cluster.members:
            await cluster.kill(name)
        return error
    raise AssertionError(f"{name} goes on")


async def failure_of_add(cluster: Cluster, name: str) -> CloudlessError:
    member = next(iter(cluster.members.values()))
    async with member.channel() as channel:
        stub = control_pb2_grpc.ClusterServiceStub(channel)
        return await failure_of(stub.AddCoordinator(control_pb2.AddCoordinatorRequest(id=name)))


async def test_a_member_that_lost_its_log_is_not_let_begin_anew(cluster: Cluster) -> None:
    await cluster.stop("c3")
    shutil.rmtree(cluster.config("c3").data_dir / "log")
    with pytest.raises(CloudlessError) as caught:
        await cluster.start("c3")
    assert caught.value.reason == "LogMissing"
    assert "under a new id" in caught.value.remedy


async def test_one_of_several_is_not_made_the_only_one(cluster: Cluster) -> None:
    for name in ("c1", "c2"):
        await cluster.stop(name)
        with pytest.raises(CloudlessError) as caught:
            await cluster.start(name, store__engine="single")
        assert isinstance(caught.value, InvalidArgument)
        assert caught.value.reason == "WrongEngine"
        await cluster.start(name)
        await cluster.leader()


async def test_a_member_that_moved_is_found(cluster: Cluster) -> None:
    """To other ports: the others learn of it from itself."""
    leader = await cluster.leader()
    name = next(m.config.id for m in cluster.members.values() if m is not leader)
    await cluster.stop(name)
    old = cluster.config(name).listen.member
    cluster.move(name)
    moved = await cluster.start(name)
    await asyncio.wait_for(moved.coordinator.wait_ready(), 10)
    assert moved.coordinator.engine.listening != old

    def known() -> bool:
        return all(
            member.state.coordinators[name].member_address == moved.coordinator.engine.listening
            and moved.api_address in member.coordinator.directory.api_addresses()
            and {m.id: m.address for m in member.store.status().members}[name] == moved.coordinator.engine.listening
            for member in cluster.members.values()
        )

    await eventually(known, what="the new addresses everywhere")
    await cluster.kill((await cluster.leader()).config.id)
    await (await cluster.leader()).put_workload("the-moved-one-counts", replicas=0)


def _signed(member: RunningCoordinator, kind: str, name: str) -> Credentials:
    """A certificate of this fabric for anybody."""
    authority, key = member.coordinator.identity.authority, new_private_key()
    who = SpiffeId(member.trust_domain, kind, name)
    names = (server_name(member.trust_domain),) if kind == COORDINATOR else ()
    issued = authority.sign_csr(make_csr(key, who), who, 60_000, dns_names=names)
    return Credentials.from_pem(key_pem=key_pem(key), chain_pem=issued.chain_pem, bundle_pem=authority.trust_bundle_pem)


async def _knock(address: str, credentials: Credentials, hello: bytes, tmp_path: Path) -> None:
    """Shows a certificate at a member listener, says something, and waits until it is hung up on."""
    certificate, key = tmp_path / "knock.pem", tmp_path / "knock.key"
    certificate.write_bytes(credentials.chain_pem)
    key.write_bytes(credentials.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(hello)
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
    except OSError:
        return  # hung up on even earlier


async def test_whoever_is_refused_at_the_member_listener_is_a_security_event(cluster: Cluster, tmp_path: Path) -> None:
    from cloudless.api.v1 import raft_pb2

    target = cluster.members["c1"]
    address = target.coordinator.engine.listening

    def hello(member: str) -> bytes:
        said = raft_pb2.MemberHello(
            protocol=1, protocol_oldest=1, member_id=member, to="c1", cluster_id=target.coordinator.engine.cluster_id()
        ).SerializeToString()
        return len(said).to_bytes(4, "big") + said

    stranger = Fabric(tmp_path / "strange", trust_domain=target.trust_domain).member(COORDINATOR, "c2")
    await _knock(address, _signed(target, COORDINATOR, "c2"), hello("c3"), tmp_path)
    await _knock(address, stranger, hello("c2"), tmp_path)
    await _knock(address, _signed(target, NODE, "n1"), hello("c2"), tmp_path)

    def recorded() -> list[Any]:
        found = [e for m in cluster.members.values() for e in m.state.events if e.type == "security.member_refused"]
        return found if len(found) == 3 * len(cluster.members) else []

    await eventually(recorded, what="the refusals on every coordinator")
    events = [e for e in target.state.events if e.type == "security.member_refused"]
    assert {e.resource for e in events} == {"coordinator/c1"}
    by_reason = {event.metadata["reason"]: event.metadata["certificate"] for event in events}
    assert len(by_reason) == 3
    assert by_reason["WrongMember"].endswith("/coordinator/c2")
    assert by_reason["NotACoordinator"].endswith("/node/n1")


async def test_a_join_that_was_cut_off_behind_the_identity_is_completed(tmp_path: Path) -> None:
    async with running_coordinators(tmp_path, 1) as cluster:
        config = cluster.config("c2", join_token_file=await cluster.token("c2"))
        config.data_dir.mkdir(mode=0o700)
        await joining.join_if_asked(config, cluster.clock, jitter=lambda: 0.5)
        assert joining.under_way(config) is not None
        # Now without a token, and once more before it was promoted.
        await cluster.start("c2")
        await cluster.kill("c2")
        await cluster.start("c2")
        await cluster.voters("c1", "c2")
        await asyncio.wait_for(cluster.members["c2"].coordinator.wait_ready(), 10)
        await eventually(lambda: joining.under_way(config) is None, what="the join to be complete")
        assert sorted(path.name for path in joining.directory(config).iterdir()) == [
            "coordinators.json",
            "id",
            "log-begun",
        ]


async def test_nobody_is_let_in_before_the_cluster_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Survivors of a lost cluster have the same authority, and dial the address that a restored one may take over:
    only the cluster's id keeps them out."""
    known: list[str] = []
    start = TlsTransport.start

    def starting(self: TlsTransport, *arguments: Any) -> None:
        known.append(self.greeter._cluster_id())
        start(self, *arguments)

    monkeypatch.setattr(TlsTransport, "start", starting)
    cluster = Cluster(tmp_path)
    try:
        for _ in range(2):
            await cluster.start("c1")
            await cluster.stop("c1")
    finally:
        await cluster.close()
    assert known[0]
    assert known == [known[0]] * 2


async def test_a_folder_of_the_single_engine_becomes_a_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        first = await cluster.start("c1", store__engine="single", store__snapshot_entries=10)
        for number in range(25):
            await first.put_workload(f"w{number}", replicas=0)
        before = state_hash(first.state)
        await cluster.stop("c1")
        cluster.move("c1")
        first = await cluster.start("c1")
        names = _names(first)
        assert len(names) == 25
        assert before, "the hash moved on with the announcement of the member listener"
        await cluster.add("c2")
        await cluster.add("c3")
        await cluster.voters("c1", "c2", "c3")
        await _agree(cluster)
        assert _names(cluster.members["c3"]) == names
    finally:
        await cluster.close()


async def test_coordinators_on_an_etcd(tmp_path: Path) -> None:
    """The engine has no members of its own; how coordinators join, are told of and removed is the same."""
    changes = {
        "store__engine": "etcd",
        "store__etcd__endpoints": (shared_etcd(),),
        "store__etcd__prefix": f"/{tmp_path}/",
        "store__etcd__lease_ttl_ms": 1000,
    }
    cluster = Cluster(tmp_path, **changes)
    try:
        first = await cluster.start("c1")
        second = await cluster.add("c2")
        await asyncio.wait_for(second.coordinator.wait_ready(), 10)
        assert "member" not in second.coordinator._listening()
        await second.put_workload("through-c2", replicas=0)
        await eventually(lambda: _names(first) == {"through-c2"}, what="one state")
        both = {first.api_address, second.api_address}
        await eventually(lambda: set(first.coordinator.directory.api_addresses()) == both, what="all addresses")
        await eventually(lambda: joining.under_way(second.config) is None, what="the join to be complete")
        waiting = asyncio.create_task(second.coordinator.wait(asyncio.Event()))
        async with first.channel() as channel:
            stub = control_pb2_grpc.ClusterServiceStub(channel)
            await stub.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id="c2"))
        with pytest.raises(CloudlessError) as caught:
            await asyncio.wait_for(waiting, 10)
        assert exit_code(caught.value) == EXIT_REMOVED
    finally:
        await cluster.close()
