"""Workloads, nodes, events and status through the API of a real coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator.core.commands import ReportNode
from cloudless.core.model import NodeState, Role
from cloudless.identity.channel import error_from_rpc
from cloudless.testing.coordinator import RunningCoordinator, failure_of, running_coordinator
from cloudless.testing.fabric_model import device


@pytest.fixture
async def c(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path) as running:
        yield running


@pytest.fixture
async def channel(c: RunningCoordinator) -> AsyncIterator[grpc.aio.Channel]:
    async with c.channel() as opened:
        yield opened


@pytest.fixture
def workloads(channel: grpc.aio.Channel) -> Any:
    return control_pb2_grpc.WorkloadServiceStub(channel)


def _put(request: Any, name: str, *, image: str = "web:1", replicas: int = 1, namespace: str = "") -> Any:
    request.metadata.name = name
    request.metadata.namespace = namespace
    request.spec.replicas = replicas
    request.spec.containers.add(name="main", image=image)
    return request


def _apply(*names: str, image: str = "web:1", dry_run: bool = False) -> control_pb2.ApplyWorkloadsRequest:
    request = control_pb2.ApplyWorkloadsRequest(dry_run=dry_run)
    for name in names:
        _put(request.workloads.add(), name, image=image)
    return request


async def test_create_update_scale_restart_delete(c: RunningCoordinator, workloads: Any) -> None:
    made = (await workloads.CreateWorkload(_put(control_pb2.CreateWorkloadRequest(), "web"))).workload
    assert (made.metadata.namespace, made.generation) == ("default", 1)
    assert made.spec.containers[0].resources.requests.memory_bytes > 0, "defaults are filled in and shown"
    again = await failure_of(workloads.CreateWorkload(_put(control_pb2.CreateWorkloadRequest(), "web")))
    assert again.code == "already_exists"
    update = _put(control_pb2.UpdateWorkloadRequest(expected_revision=made.revision + 999), "web", image="web:2")
    stale = await failure_of(workloads.UpdateWorkload(update))
    assert (stale.code, stale.remedy) == ("conflict", "read it again and repeat the change")
    assert stale.remedy not in stale.message
    update.ClearField("expected_revision")
    changed = (await workloads.UpdateWorkload(update)).workload
    assert (changed.generation, changed.spec.containers[0].image) == (2, "web:2")
    missing = _put(control_pb2.UpdateWorkloadRequest(), "nothing")
    assert (await failure_of(workloads.UpdateWorkload(missing))).code == "not_found"
    scaled = (await workloads.ScaleWorkload(control_pb2.ScaleWorkloadRequest(name="web", replicas=4))).workload
    assert scaled.status.desired == 4
    restarted = (await workloads.RestartWorkload(control_pb2.RestartWorkloadRequest(name="web"))).workload
    assert restarted.generation == 3
    for request in (
        control_pb2.ScaleWorkloadRequest(name="web", replicas=-1),
        control_pb2.ScaleWorkloadRequest(name="", replicas=1),
    ):
        assert (await failure_of(workloads.ScaleWorkload(request))).code == "invalid_argument"
    await workloads.DeleteWorkload(control_pb2.DeleteWorkloadRequest(name="web"))
    gone = await failure_of(workloads.GetWorkload(control_pb2.GetWorkloadRequest(name="web")))
    assert (gone.code, gone.reason) == ("not_found", "WorkloadNotFound")
    assert (
        await failure_of(workloads.DeleteWorkload(control_pb2.DeleteWorkloadRequest(name="web")))
    ).code == "not_found"


async def test_every_violation_is_listed_at_once(c: RunningCoordinator, workloads: Any) -> None:
    request = _put(control_pb2.CreateWorkloadRequest(), "Not A Name", replicas=-1)
    request.spec.containers.add(name="main")
    error = await failure_of(workloads.CreateWorkload(request))
    assert (error.code, error.reason) == ("invalid_argument", "InvalidSpec")
    for path in ("metadata.name", "spec.replicas", "spec.containers[1]"):
        assert path in error.message
    assert not c.state.workloads


async def test_apply_says_of_each_what_changed(c: RunningCoordinator, workloads: Any) -> None:
    async def apply(request: control_pb2.ApplyWorkloadsRequest) -> list[str]:
        return [outcome.changed for outcome in (await workloads.ApplyWorkloads(request)).outcomes]

    names = [f"w{number}" for number in range(50)]
    assert await apply(_apply(*names, dry_run=True)) == ["created"] * 50
    assert not c.state.workloads, "a dry run writes nothing"
    assert await apply(_apply(*names)) == ["created"] * 50
    index = c.store.snapshot.index
    revisions = {key: record.revision for key, record in c.state.workloads.items()}
    assert await apply(_apply(*names)) == ["unchanged"] * 50
    assert {key: record.revision for key, record in c.state.workloads.items()} == revisions
    assert await apply(_apply("w1", "new", image="web:2", dry_run=True)) == ["updated", "created"]
    assert c.store.snapshot.index >= index
    assert await apply(_apply("w1", "w2", image="web:2")) == ["updated", "updated"]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_apply_says_why_one_was_refused_and_what_to_do(
    c: RunningCoordinator, workloads: Any, dry_run: bool
) -> None:
    await c.node("n1")
    watch = c.store.watch()
    await c.store.propose(ReportNode("n1", NodeState.READY, "connected", device()), actor="node/n1")
    await c.put_workload("held")
    async with asyncio.timeout(10):
        while not c.state.replicas_on("n1"):
            await anext(watch)
    watch.close()
    await workloads.DeleteWorkload(control_pb2.DeleteWorkloadRequest(name="held"))  # waits for its replica
    held, fine = (await workloads.ApplyWorkloads(_apply("held", "fine", dry_run=dry_run))).outcomes
    assert held == control_pb2.ApplyOutcome(
        namespace="default",
        name="held",
        error_code="failed_precondition",
        error_message="workload default/held is being deleted",
        error_reason="WorkloadDeleting",
        error_remedy="wait until its replicas have stopped, then create it again",
    )
    assert (fine.changed, fine.error_code, fine.error_reason, fine.error_remedy) == ("created", "", "", "")


async def test_one_bad_workload_refuses_the_batch_before_anything_is_written(
    c: RunningCoordinator, workloads: Any
) -> None:
    request = _apply("good")
    _put(request.workloads.add(), "bad", replicas=-1)
    _put(request.workloads.add(), "good")
    error = await failure_of(workloads.ApplyWorkloads(request))
    assert "workloads[1].spec.replicas" in error.message
    assert "default/good is given 2 times" in error.message
    assert not c.state.workloads
    too_many = await failure_of(workloads.ApplyWorkloads(_apply(*(f"w{n}" for n in range(501)))))
    assert too_many.reason == "BatchTooLarge"


async def test_a_workload_has_a_size_that_its_nodes_can_be_told(c: RunningCoordinator, workloads: Any) -> None:
    create = _put(control_pb2.CreateWorkloadRequest(), "web")
    for number in range(3):
        create.spec.containers[0].env.add(name=f"V{number}", value="x" * 100_000)
    error = await failure_of(workloads.CreateWorkload(create))
    assert error.reason == "InvalidSpec"
    assert "spec: the workload has 300" in error.message
    del create.spec.containers[0].env[2]
    await workloads.CreateWorkload(create)


async def test_a_text_that_is_no_name_does_not_get_into_the_log(c: RunningCoordinator, workloads: Any) -> None:
    index = c.store.snapshot.index
    for request in (
        control_pb2.DeleteWorkloadRequest(name="x" * 100_000),
        control_pb2.DeleteWorkloadRequest(name="web", namespace="y" * 100_000),
    ):
        error = await failure_of(workloads.DeleteWorkload(request))
        assert (error.code, error.reason) == ("not_found", "WorkloadNotFound")
        assert len(error.message) < 200
    assert c.store.snapshot.index == index


async def test_a_repeated_write_has_one_effect(c: RunningCoordinator, workloads: Any) -> None:
    metadata = (("cloudless-request-id", "once"),)
    create = _put(control_pb2.CreateWorkloadRequest(), "web")
    first = await workloads.CreateWorkload(create, metadata=metadata)
    second = await workloads.CreateWorkload(create, metadata=metadata)  # not AlreadyExists
    assert second.workload.generation == first.workload.generation == 1
    batch = (("cloudless-request-id", "batch"),)
    one = await workloads.ApplyWorkloads(_apply("a", "b"), metadata=batch)
    two = await workloads.ApplyWorkloads(_apply("a", "b"), metadata=batch)
    assert one == two
    assert [outcome.changed for outcome in two.outcomes] == ["created", "created"]
    ids = {event.request_id for event in c.state.events if event.type == "workload.created"}
    assert {"user/admin/once", "user/admin/batch/0", "user/admin/batch/1"} <= ids


async def test_two_callers_with_one_request_id_get_answers_of_their_own(c: RunningCoordinator) -> None:
    metadata = (("cloudless-request-id", "same"),)
    mine, theirs = await c.user("mine", (Role.OPERATOR, "default")), await c.user("theirs", (Role.OPERATOR, "default"))
    for who, name in ((mine, "a"), (theirs, "b")):
        async with c.channel(who) as channel:
            create = _put(control_pb2.CreateWorkloadRequest(), name)
            await control_pb2_grpc.WorkloadServiceStub(channel).CreateWorkload(create, metadata=metadata)
    assert {name for _, name in c.state.workloads} == {"a", "b"}


async def test_lists_have_pages_and_watches_go_on_from_them(c: RunningCoordinator, workloads: Any) -> None:
    await workloads.ApplyWorkloads(_apply(*(f"w{number}" for number in range(7))))
    options = control_pb2.ListOptions(page_size=3)
    names: list[str] = []
    revision = 0
    while True:
        page = await workloads.ListWorkloads(control_pb2.ListWorkloadsRequest(options=options))
        names += [workload.metadata.name for workload in page.workloads]
        revision = revision or page.revision
        assert page.revision == revision
        options.page_token = page.next_page_token
        if not options.page_token:
            break
    assert names == [f"w{number}" for number in range(7)]
    await workloads.DeleteWorkload(control_pb2.DeleteWorkloadRequest(name="w3"))
    watch = workloads.WatchWorkloads(control_pb2.WatchWorkloadsRequest(from_revision=revision, name="w3"))
    while True:
        change = await asyncio.wait_for(watch.read(), 10)
        if change.deleted_name == "w3":
            break
    watch.cancel()


async def test_a_watch_shows_the_present_then_changes(c: RunningCoordinator, workloads: Any) -> None:
    await c.put_workload("web", replicas=0, app="web")
    await c.put_workload("db", replicas=0, app="db")
    options = control_pb2.ListOptions(label_selector="app=web")
    watch = workloads.WatchWorkloads(control_pb2.WatchWorkloadsRequest(options=options))
    first, second = await watch.read(), await watch.read()
    assert first.workload.metadata.name == "web"
    assert second.synced
    await workloads.ScaleWorkload(control_pb2.ScaleWorkloadRequest(name="db", replicas=1))
    await workloads.ScaleWorkload(control_pb2.ScaleWorkloadRequest(name="web", replicas=2))
    change = await watch.read()
    assert (change.workload.metadata.name, change.workload.spec.replicas) == ("web", 2)
    while change.workload.status.pending != 2:  # replicas show through their workload
        change = await asyncio.wait_for(watch.read(), 10)
    watch.cancel()


async def test_a_watch_from_a_revision_that_is_not_kept_is_out_of_range(workloads: Any) -> None:
    watch = workloads.WatchWorkloads(control_pb2.WatchWorkloadsRequest(from_revision=10_000))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    error = error_from_rpc(caught.value)
    assert error.code == "compacted"
    assert "list again" in error.remedy


async def test_replicas_are_listed_by_workload_and_found_by_prefix(c: RunningCoordinator, workloads: Any) -> None:
    await c.put_workload("web", replicas=2, app="web")
    await c.put_workload("db", replicas=1)
    watch = workloads.WatchReplicas(control_pb2.WatchReplicasRequest())
    ids: set[str] = set()
    while len(ids) < 3:
        message = await asyncio.wait_for(watch.read(), 10)
        if message.HasField("replica"):
            ids.add(message.replica.id)
    watch.cancel()
    listed = await workloads.ListReplicas(control_pb2.ListReplicasRequest(workload="web"))
    assert len(listed.replicas) == 2
    selected = await workloads.ListReplicas(
        control_pb2.ListReplicasRequest(options=control_pb2.ListOptions(label_selector="app=web"))
    )
    assert selected.replicas == listed.replicas
    one = listed.replicas[0]
    assert one.placement.summary, "it says why it is nowhere"
    got = await workloads.GetReplica(control_pb2.GetReplicaRequest(id=one.id))
    assert got.replica == one
    assert (
        await failure_of(workloads.GetReplica(control_pb2.GetReplicaRequest(id="web-")))
    ).reason == "AmbiguousPrefix"
    elsewhere = control_pb2.GetReplicaRequest(id=one.id, namespace="other")
    assert (await failure_of(workloads.GetReplica(elsewhere))).code == "not_found"


async def test_nodes_are_shown_changed_and_removed(c: RunningCoordinator, channel: grpc.aio.Channel) -> None:
    await c.node("alpha-1")
    await c.node("beta-1")
    nodes: Any = control_pb2_grpc.NodeServiceStub(channel)
    view = (await nodes.GetNode(control_pb2.GetNodeRequest(id="alp"))).node
    assert (view.node.id, view.heartbeat_age_ms, view.HasField("usage")) == ("alpha-1", -1, False)
    watch = nodes.WatchNodes(control_pb2.WatchNodesRequest())
    assert [(await watch.read()).node.node.id for _ in range(2)] == ["alpha-1", "beta-1"]
    assert (await watch.read()).synced
    update = control_pb2.UpdateNodeRequest(id="alpha-1", cordoned=True, set_labels={"disk": "ssd"})
    changed = (await nodes.UpdateNode(update)).node.node
    assert changed.cordoned
    assert changed.labels == {"disk": "ssd"}
    assert (await watch.read()).node.node.cordoned
    selected = await nodes.ListNodes(
        control_pb2.ListNodesRequest(options=control_pb2.ListOptions(label_selector="disk"))
    )
    assert [row.node.id for row in selected.nodes] == ["alpha-1"]
    bad = control_pb2.UpdateNodeRequest(id="alpha-1", set_labels={"no good": "x"})
    assert (await failure_of(nodes.UpdateNode(bad))).reason == "InvalidSpec"
    await nodes.RemoveNode(control_pb2.RemoveNodeRequest(id="beta-1"))
    assert (await watch.read()).deleted_id == "beta-1"
    assert (await failure_of(nodes.GetNode(control_pb2.GetNodeRequest(id="beta-1")))).code == "not_found"
    watch.cancel()


async def test_events_are_listed_filtered_watched_and_resumed(c: RunningCoordinator, channel: grpc.aio.Channel) -> None:
    events: Any = control_pb2_grpc.EventServiceStub(channel)
    live = events.WatchEvents(control_pb2.WatchEventsRequest(all_namespaces=True, type_prefix="workload."))
    await live.initial_metadata()
    await c.put_workload("web", replicas=0)
    await c.put_workload("db", replicas=0, namespace="other")
    seen = [(await asyncio.wait_for(live.read(), 10)).event for _ in range(2)]
    assert [event.resource for event in seen] == ["workload/default/web", "workload/other/db"]
    assert seen[0].actor == "user/admin"
    live.cancel()

    async def listed(**filters: Any) -> list[str]:
        answer = await events.ListEvents(control_pb2.ListEventsRequest(**filters))
        return [event.resource for event in answer.events]

    assert await listed(type_prefix="workload.created") == ["workload/default/web"]
    assert await listed(namespace="other") == ["workload/other/db"]
    assert await listed(all_namespaces=True, resource="workload/other/db") == ["workload/other/db"]
    assert await listed(all_namespaces=True, resource="workload/", limit=1) == ["workload/other/db"]
    resumed = events.WatchEvents(
        control_pb2.WatchEventsRequest(all_namespaces=True, type_prefix="workload.", from_index=seen[0].index)
    )
    assert (await resumed.read()).event == seen[1], "neither twice nor missed"
    await c.put_workload("late", replicas=0)
    assert (await resumed.read()).event.resource == "workload/default/late"
    resumed.cancel()
    vera = await c.user("vera", (Role.VIEWER, "other"))
    async with c.channel(vera) as own:
        answer = await control_pb2_grpc.EventServiceStub(own).ListEvents(
            control_pb2.ListEventsRequest(all_namespaces=True)
        )
        assert {event.namespace for event in answer.events} == {"other"}, "only what she may see"


async def test_status_counts_what_there_is(c: RunningCoordinator, channel: grpc.aio.Channel) -> None:
    await c.node("n1")
    await c.put_workload("web", replicas=2)
    stub = control_pb2_grpc.ClusterServiceStub(channel)
    status = await stub.GetStatus(control_pb2.GetStatusRequest())
    assert (status.nodes_total, status.nodes_ready, status.workloads, status.replicas_desired) == (1, 0, 1, 2)
    assert status.trust_domain == c.trust_domain
    assert len(status.state_hash) == 64
    assert status.score_weights["locality"] == pytest.approx(0.30)


async def test_users_and_tokens_are_listed_and_revoked(c: RunningCoordinator, channel: grpc.aio.Channel) -> None:
    await c.user("vera", (Role.VIEWER, "default"))
    users: Any = control_pb2_grpc.UserServiceStub(channel)
    assert [user.name for user in (await users.ListUsers(control_pb2.ListUsersRequest())).users] == ["admin", "vera"]
    bad = control_pb2.PutUserRequest(name="No Name")
    bad.bindings.add(namespace="default")
    error = await failure_of(users.PutUser(bad))
    assert "name:" in error.message
    assert "bindings[0].role" in error.message
    tokens: Any = control_pb2_grpc.TokenServiceStub(channel)
    made = [await tokens.CreateToken(control_pb2.CreateTokenRequest(max_uses=2)) for _ in range(3)]
    first = await tokens.ListTokens(control_pb2.ListTokensRequest(page_size=2))
    rest = await tokens.ListTokens(control_pb2.ListTokensRequest(page_size=2, page_token=first.next_page_token))
    ids = [token.id for token in (*first.tokens, *rest.tokens)]
    assert ids == sorted(answer.token.id for answer in made)
    assert made[0].jwt not in str(first)
    await tokens.RevokeToken(control_pb2.RevokeTokenRequest(id=ids[0]))
    assert c.state.tokens[ids[0]].revoked
    bad_token = control_pb2.CreateTokenRequest(node_pattern="UPPER", ttl_ms=-5, max_uses=-1)
    message = (await failure_of(tokens.CreateToken(bad_token))).message
    assert all(field in message for field in ("node_pattern", "ttl", "max_uses"))


async def test_stopping_ends_watches_with_a_reason_and_finishes_calls(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as c:
        channel = c.channel()
        watch = control_pb2_grpc.WorkloadServiceStub(channel).WatchWorkloads(control_pb2.WatchWorkloadsRequest())
        assert (await watch.read()).synced
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(watch.read(), 10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error_from_rpc(caught.value).reason == "ShuttingDown"
    await channel.close()
