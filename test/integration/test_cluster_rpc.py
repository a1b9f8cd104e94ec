"""ClusterService over the wire: status, coordinators and changes of them, backups, and a fabric restored from one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudless import backup
from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.backup import BackupInfo, BackupWriter
from cloudless.coordinator.core.commands import SCHEMA, AnnounceCoordinator, RemoveCoordinator
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.restoring import PENDING_FILE, REVISION_GAP
from cloudless.core.model import Role
from cloudless.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    TokenRefused,
)
from cloudless.identity.channel import CONSISTENCY_METADATA, STALE
from cloudless.identity.credentials import Credentials
from cloudless.identity.enrollment import enroll
from cloudless.testing.coordinator import (
    Cluster,
    RunningCoordinator,
    eventually,
    failure_of,
    running_coordinator,
    running_coordinators,
)

STALE_CALL = ((CONSISTENCY_METADATA, STALE),)


@pytest.fixture
async def single(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path, store__engine="single") as running:
        await eventually(lambda: "c1" in running.state.coordinators, what="the announcement")
        yield running


class Api:
    """ClusterService at one coordinator, as the admin unless told otherwise."""

    def __init__(self, running: RunningCoordinator, credentials: Credentials | None = None) -> None:
        self.channel = running.channel(credentials)
        self.stub: Any = control_pb2_grpc.ClusterServiceStub(self.channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Any:
        return self.stub

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


async def take(running: RunningCoordinator, path: Path, **options: Any) -> BackupInfo:
    """A backup through the API."""
    async with Api(running) as api:
        with BackupWriter(path) as writer:
            received = 0
            async for answer in api.Backup(control_pb2.BackupRequest(), **options):
                writer.write(answer.data)
                received += len(answer.data)
            assert received == answer.total_bytes
            return writer.finish()


async def test_the_status_says_what_the_coordinator_is(single: RunningCoordinator) -> None:
    async with Api(single) as api:
        status = await api.GetStatus(control_pb2.GetStatusRequest())
    assert (status.coordinator_id, status.role, status.leader_id, status.store_engine) == (
        "c1",
        "leader",
        "c1",
        "single",
    )
    snapshot = single.store.snapshot
    assert (status.applied_index, status.commit_index, status.last_index) == (snapshot.index,) * 3
    assert (status.first_index, status.term) == (1, single.store.term)
    assert status.state_hash == state_hash(snapshot.state)
    (view,) = status.coordinators
    assert (view.coordinator.id, view.role, view.asked, view.match_index) == ("c1", "leader", True, snapshot.index)
    assert list(view.coordinator.api_addresses) == [single.api_address]


async def test_nodes_and_people_find_the_coordinators(single: RunningCoordinator) -> None:
    for name in ("c2", "c3"):
        command = AnnounceCoordinator(name, "1.0", SCHEMA, (f"{name}.example:8443",))
        await single.store.propose(command, actor=f"coordinator/{name}")
    await single.store.propose(RemoveCoordinator("c3"), actor="user/admin")
    for who in (await single.node("n1"), await single.user("alice")):
        async with Api(single, who) as api:
            answer = await api.ListCoordinators(control_pb2.ListCoordinatorsRequest())
        assert [record.id for record in answer.coordinators] == ["c1", "c2"]
        assert list(answer.api_addresses) == [single.api_address, "c2.example:8443"]
    async with Api(single) as api:
        status = await api.GetStatus(control_pb2.GetStatusRequest())
    assert [(view.coordinator.id, view.role) for view in status.coordinators] == [("c1", "leader"), ("c2", "")]


async def test_only_administrators_change_the_cluster(single: RunningCoordinator, tmp_path: Path) -> None:
    alice = await single.user("alice", (Role.OPERATOR, "*"), (Role.ADMIN, "default"))
    async with Api(single, alice) as api:
        for call in (
            api.AddCoordinator(control_pb2.AddCoordinatorRequest(id="c2")),
            api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id="c1")),
            api.PromoteCoordinator(control_pb2.PromoteCoordinatorRequest(id="c1")),
            api.TransferLeadership(control_pb2.TransferLeadershipRequest()),
            api.Backup(control_pb2.BackupRequest()).read(),
        ):
            error = await failure_of(call)
            assert (type(error), error.reason) == (PermissionDenied, "RoleRequired")


async def test_one_coordinator_alone_stays_alone(single: RunningCoordinator) -> None:
    async with Api(single) as api:
        refusals = {
            "add": await failure_of(api.AddCoordinator(control_pb2.AddCoordinatorRequest(id="c2"))),
            "promote": await failure_of(api.PromoteCoordinator(control_pb2.PromoteCoordinatorRequest(id="c1"))),
            "transfer": await failure_of(api.TransferLeadership(control_pb2.TransferLeadershipRequest())),
        }
        for error in refusals.values():
            assert (type(error), error.reason) == (FailedPrecondition, "NotReplicated")
            assert "raft" in error.remedy
        last = await failure_of(api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id="c1")))
        assert (type(last), last.reason) == (FailedPrecondition, "LastVoter")
        unknown = await failure_of(api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id="c9")))
        assert (type(unknown), unknown.reason) == (NotFound, "CoordinatorUnknown")
        bad = await failure_of(api.AddCoordinator(control_pb2.AddCoordinatorRequest(id="no name")))
        assert type(bad) is InvalidArgument
        # A record of one that never was a member, or of an engine before this one.
        await single.store.propose(AnnounceCoordinator("c2", "1.0", SCHEMA), actor="coordinator/c2")
        await api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id="c2"))
    assert single.state.coordinators["c2"].removed


async def test_a_token_of_a_coordinator(tmp_path: Path) -> None:
    async with running_coordinators(tmp_path, 1) as cluster:
        c1 = cluster.members["c1"]
        async with Api(c1) as api:
            request = control_pb2.AddCoordinatorRequest(id="c2", ttl_ms=60_000)
            metadata = (("cloudless-request-id", "same"),)
            first = await api.AddCoordinator(request, metadata=metadata)
            again = await api.AddCoordinator(request, metadata=metadata)
            assert (first.jwt, first.token) == (again.jwt, again.token)
            assert (first.token.coordinator_id, first.token.max_uses, first.token.node_pattern) == ("c2", 1, "")
            assert first.token.expires_at_ms - first.token.created_at_ms == pytest.approx(60_000, abs=5_000)
            used = await failure_of(api.AddCoordinator(control_pb2.AddCoordinatorRequest(id="c1")))
            assert (type(used), used.reason) == (Conflict, "CoordinatorIdUsed")
        with pytest.raises(TokenRefused) as refused:
            await enroll(first.jwt, "n1")
        assert refused.value.reason == "TokenForCoordinator"
        async with c1.channel() as channel:
            tokens = control_pb2_grpc.TokenServiceStub(channel)  # type: ignore[no-untyped-call]
            listed = (await tokens.ListTokens(control_pb2.ListTokensRequest())).tokens
        assert [token.coordinator_id for token in listed] == ["c2"]


async def test_a_backup_of_a_running_coordinator(single: RunningCoordinator, tmp_path: Path) -> None:
    await single.put_workload("web", replicas=0)
    before = single.store.snapshot.index
    info = await take(single, tmp_path / "f.backup")
    assert info.index > before, "it holds its own announcement, and all before it"
    assert (info.trust_domain, info.engine) == (single.trust_domain, "single")
    (event,) = [event for event in single.state.events if event.type == "security.backup_taken"]
    assert event.actor == "user/admin"
    assert backup.verify(tmp_path / "f.backup") == info
    stale = await take(single, tmp_path / "stale.backup", metadata=STALE_CALL)
    assert (stale.index, stale.state_hash) == (single.store.snapshot.index, state_hash(single.state))
    files = backup.extract(tmp_path / "f.backup", tmp_path / "parts")
    assert files == info
    data_dir = single.config.data_dir
    for name in ("ca/root.pem", "ca/root.key", "ca/issuing.pem", "ca/issuing.key", "tokens.key"):
        assert (tmp_path / "parts" / name).read_bytes() == (data_dir / name).read_bytes()


async def test_a_restored_fabric_goes_on_under_the_same_identity(tmp_path: Path) -> None:
    path, data_dir = tmp_path / "f.backup", tmp_path / "new"
    async with running_coordinator(tmp_path / "old", store__engine="single") as lost:
        n1, admin = await lost.node("n1"), lost.admin
        await lost.put_workload("web", replicas=0)
        await lost.store.propose(AnnounceCoordinator("c2", "1.0", SCHEMA), actor="coordinator/c2")
        info = await take(lost, path)
        await lost.put_workload("lost", replicas=0)
        last = lost.store.snapshot.index
    backup.place(path, data_dir)
    async with running_coordinator(tmp_path, store__engine="raft", data_dir=data_dir, id="c9") as new:
        await eventually(
            lambda: any(event.type == "cluster.restored" for event in new.state.events), what="the restore to be told"
        )
        assert {name: record.removed for name, record in new.state.coordinators.items()} == {
            "c1": True, "c2": True, "c9": False,
        }  # fmt: skip
        assert [name for _, name in new.state.workloads] == ["web"]
        for person in (admin, new.admin):  # the certificates of before are as good as they were, and there is a new one
            async with Api(new, person) as api:
                status = await api.GetStatus(control_pb2.GetStatusRequest())
        assert (status.role, [view.coordinator.id for view in status.coordinators]) == ("leader", ["c9"])
        assert status.term >= info.term
        workload = await new.put_workload("more", replicas=0)
        assert workload.revision > info.index + REVISION_GAP > last
        async with Api(new, n1) as api:
            await api.ListCoordinators(control_pb2.ListCoordinatorsRequest())
    async with running_coordinator(tmp_path, store__engine="raft", data_dir=data_dir, id="c9") as again:
        assert sorted(name for _, name in again.state.workloads) == ["more", "web"]
        assert [event.type for event in again.state.events].count("cluster.restored") == 1


async def test_a_fabric_of_several_is_restored_as_that_of_one_for_good(tmp_path: Path) -> None:
    path, data_dir = tmp_path / "f.backup", tmp_path / "new"
    async with running_coordinators(tmp_path / "old", 2) as old:
        await old.members["c2"].put_workload("web", replicas=0)
        await take(old.members["c2"], path)
    backup.place(path, data_dir)
    async with running_coordinator(tmp_path, store__engine="single", data_dir=data_dir, id="c9") as new:
        await eventually(lambda: not (data_dir / PENDING_FILE).exists(), what="the old coordinators to be forgotten")
        assert [name for name, record in new.state.coordinators.items() if not record.removed] == ["c9"]
    async with running_coordinator(tmp_path, store__engine="single", data_dir=data_dir, id="c9") as again:
        assert [name for _, name in again.state.workloads] == ["web"]


async def test_a_fabric_of_three_is_restored_while_two_of_the_lost_ones_still_run(tmp_path: Path) -> None:
    path, new = tmp_path / "f.backup", tmp_path / "new"
    async with running_coordinators(tmp_path / "old", 3) as old:
        await old.members["c2"].put_workload("web", replicas=0)
        info = await take(old.members["c3"], path)
        await old.kill("c1")
        backup.place(path, new / "c1")
        restored = Cluster(new)
        try:
            c1 = await restored.start("c1")
            await eventually(
                lambda: sorted(name for name, record in c1.state.coordinators.items() if not record.removed) == ["c1"],
                what="the lost coordinators to be forgotten",
            )
            c4 = await restored.add("c4")
            await restored.voters("c1", "c4")
            made = await c1.put_workload("more", replicas=0)
            assert made.revision > info.index + REVISION_GAP
            await restored.applied(made.revision)
            assert sorted(name for _, name in c4.state.workloads) == ["more", "web"]
            assert state_hash(c4.state) == state_hash(c1.state)
            used = await failure_of(_add(c1, "c2"))
            assert used.reason == "CoordinatorIdUsed"
            # The others have heard nothing of it.
            leader = await old.leader()
            assert await _add(leader, "c5")
            assert [name for _, name in leader.state.workloads] == ["web"]
            assert {member.id for member in leader.store.status().members} == {"c1", "c2", "c3"}
        finally:
            await restored.close()


async def _add(running: RunningCoordinator, name: str) -> str:
    """The token of a new coordinator."""
    async with Api(running) as api:
        return str((await api.AddCoordinator(control_pb2.AddCoordinatorRequest(id=name))).jwt)


async def test_changes_of_three_coordinators(tmp_path: Path) -> None:
    async with running_coordinators(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        followers = sorted(set(cluster.members) - {leader.config.id})
        await _statuses_agree(cluster, leader)
        async with Api(cluster.members[followers[0]]) as api:
            answer = await api.TransferLeadership(control_pb2.TransferLeadershipRequest(id=followers[1]))
            assert answer.leader_id == followers[1]
            await api.PromoteCoordinator(control_pb2.PromoteCoordinatorRequest(id=followers[1]))  # it votes already
            unknown = await failure_of(api.PromoteCoordinator(control_pb2.PromoteCoordinatorRequest(id="c9")))
            assert unknown.reason == "UnknownMember"
        leader = await cluster.leader()
        info = await take(cluster.members[followers[0]], tmp_path / "follower.backup")
        assert info.engine == "raft"
        await cluster.applied(info.index)

        removed = leader.config.id  # asked of the leader itself
        async with Api(leader) as api:
            await api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id=removed))
        await cluster.stop(removed)
        leader = await cluster.leader()
        rest = sorted(cluster.members)
        await cluster.voters(*rest)
        other = next(name for name in rest if name != leader.config.id)
        async with Api(leader) as api:
            await api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id=other))
            again = await api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id=other))
            assert again == control_pb2.RemoveCoordinatorResponse()
            await cluster.stop(other)
            last = await failure_of(api.RemoveCoordinator(control_pb2.RemoveCoordinatorRequest(id=leader.config.id)))
            assert last.reason == "LastVoter"
            used = await failure_of(api.AddCoordinator(control_pb2.AddCoordinatorRequest(id=other)))
            assert used.reason == "CoordinatorIdUsed"
            status = await api.GetStatus(control_pb2.GetStatusRequest())
        assert [view.coordinator.id for view in status.coordinators] == [leader.config.id]
        assert [name for name, record in leader.state.coordinators.items() if not record.removed] == [leader.config.id]


async def _statuses_agree(cluster: Cluster, leader: RunningCoordinator) -> None:
    for name, member in cluster.members.items():
        async with Api(member) as api:
            status = await api.GetStatus(control_pb2.GetStatusRequest())
        assert status.leader_id == leader.config.id
        assert status.role == ("leader" if member is leader else "follower")
        roles = {view.coordinator.id: view.role for view in status.coordinators}
        assert roles == {other: "leader" if other == leader.config.id else "voter" for other in cluster.members}
        assert [view.coordinator.id for view in status.coordinators if view.asked] == [name]
        if member is leader:
            assert all(view.match_index >= 0 for view in status.coordinators)


async def test_a_survivor_without_a_leader_gives_what_it_has(tmp_path: Path) -> None:
    async with running_coordinators(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        await leader.put_workload("web", replicas=0)
        await cluster.applied(leader.store.snapshot.index)
        survivor = next(member for member in cluster.members.values() if member is not leader)
        for name in [name for name, member in cluster.members.items() if member is not survivor]:
            await cluster.kill(name)
        info = await asyncio.wait_for(take(survivor, tmp_path / "s.backup", metadata=STALE_CALL), 10)
        assert info.state_hash == state_hash(survivor.state)
        async with Api(survivor) as api:
            status = await api.GetStatus(control_pb2.GetStatusRequest())
            assert len(status.coordinators) == 3
            listed = await api.ListCoordinators(control_pb2.ListCoordinatorsRequest())
            assert [record.id for record in listed.coordinators] == ["c1", "c2", "c3"]
