"""The event log: bounded, the same on every coordinator, and resumed anywhere without a gap or a repetition."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import control_pb2, control_pb2_grpc
from cloudless.coordinator.core import state as states
from cloudless.coordinator.core.commands import CreateToken, EnrollNode, PutUser
from cloudless.core.model import JoinToken, Role, RoleBinding, User
from cloudless.errors import CloudlessError, Compacted
from cloudless.testing.coordinator import RunningCoordinator, failure_of, running_coordinator, running_coordinators

KEPT = 40


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for coordinators that keep few events."""
    monkeypatch.setattr(states, "EVENTS_MAX", KEPT)
    return tmp_path


async def happen(running: RunningCoordinator, count: int, *, first: int = 0) -> None:
    """One event each."""
    for number in range(first, first + count):
        user = User(f"u{number}", (RoleBinding(Role.VIEWER, "default"),))
        await running.store.propose(PutUser(user), actor="user/test")


class Stub:
    """EventService at one coordinator, as the admin."""

    def __init__(self, running: RunningCoordinator) -> None:
        self._channel = running.channel()
        self._stub: Any = control_pb2_grpc.EventServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Stub:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def list(self) -> Any:
        return await self._stub.ListEvents(control_pb2.ListEventsRequest(all_namespaces=True, limit=5000))

    def watch(self, index: int, sequence: int | None = None) -> Any:
        request = control_pb2.WatchEventsRequest(all_namespaces=True, from_index=index)
        if sequence is not None:
            request.from_sequence = sequence
        return self._stub.WatchEvents(request)

    async def after(self, index: int, sequence: int | None = None, *, count: int) -> list[tuple[int, int, str]]:
        """The next `count` events behind a place."""
        call = self.watch(index, sequence)
        found = [(await asyncio.wait_for(call.read(), 10)).event for _ in range(count)]
        call.cancel()
        return [place(event) for event in found]

    async def refusal(self, index: int, sequence: int | None = None) -> CloudlessError:
        return await failure_of(self.watch(index, sequence).read())


def place(event: Any) -> tuple[int, int, str]:
    return event.index, event.sequence, event.type


async def test_old_events_leave_and_whoever_missed_them_is_told(small: Path) -> None:
    async with running_coordinator(small, store__engine="single") as c:
        early = c.store.snapshot.index
        await happen(c, KEPT + 10)
        async with Stub(c) as events:
            answer = await events.list()
            assert len(answer.events) == len(c.state.events) == KEPT
            too_old = await events.refusal(early)
            assert (type(too_old), too_old.reason) == (Compacted, "EventsCompacted")
            assert "list the events" in too_old.remedy
            oldest = answer.events[0]
            assert await events.after(oldest.index, count=KEPT - 1) == [place(e) for e in answer.events[1:]]
            assert (await events.refusal(oldest.index - 1)).reason == "EventsCompacted"
            ahead = await events.refusal(answer.revision + 1000)
            assert type(ahead) is Compacted
            live = events.watch(answer.revision)
            await live.initial_metadata()
            await happen(c, 1, first=1000)
            assert (await asyncio.wait_for(live.read(), 10)).event.resource == "user/u1000"
            live.cancel()
    async with running_coordinator(small, store__engine="single") as c, Stub(c) as events:
        again = (await events.list()).events
        assert len(again) == KEPT, "a restart keeps neither more nor fewer"
        assert (await events.refusal(early)).reason == "EventsCompacted"
        assert await events.after(again[0].index, count=KEPT - 1) == [place(e) for e in again[1:]]


async def test_a_watch_is_resumed_within_an_entry(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path, store__engine="single") as c, Stub(c) as events:
        token = JoinToken("t", "*", max_uses=1, expires_at_ms=2**60)
        await c.store.propose(CreateToken(token), actor="user/test")
        before = c.store.snapshot.index
        await c.store.propose(EnrollNode("t", "n1", "key", "serial", 2**60), actor="node/n1")
        await happen(c, 1)
        seen = await events.after(before, count=4)
        entry = before + 1
        assert seen == [
            (entry, 0, "security.token_used"),
            (entry, 1, "security.cert_issued"),
            (entry, 2, "node.enrolled"),
            (entry + 1, 0, "security.user_created"),
        ]
        for position, (index, sequence, _) in enumerate(seen[:3]):
            assert await events.after(index, sequence, count=3 - position) == seen[position + 1 :]
        assert await events.after(entry, count=1) == seen[3:], "without a sequence: behind the whole entry"


async def test_an_entry_of_which_a_part_was_dropped_cannot_be_resumed_before_it(small: Path) -> None:
    async with running_coordinator(small, store__engine="single") as c, Stub(c) as events:
        await c.store.propose(CreateToken(JoinToken("t", "*", max_uses=1, expires_at_ms=2**60)), actor="user/test")
        await c.store.propose(EnrollNode("t", "n1", "key", "serial", 2**60), actor="node/n1")
        entry = c.store.snapshot.index
        await happen(c, KEPT - 2)
        oldest = (await events.list()).events[0]
        assert place(oldest) == (entry, 1, "security.cert_issued")
        assert (await events.refusal(entry, 0)).reason == "EventsCompacted"
        assert (await events.after(entry, 1, count=1)) == [(entry, 2, "node.enrolled")]
        assert (await events.after(entry, count=1))[0][0] == entry + 1


async def test_another_coordinator_goes_on_where_one_ended(tmp_path: Path) -> None:
    async with running_coordinators(tmp_path, 3) as cluster:
        first = cluster.members["c2"]
        start = (await cluster.leader()).store.snapshot.index
        seen: list[tuple[int, int, str]] = []
        async with Stub(first) as events:
            call = events.watch(start)
            await happen(first, 5)
            for _ in range(3):
                seen.append(place((await asyncio.wait_for(call.read(), 10)).event))
            await cluster.kill("c2")
        leader = await cluster.leader()
        await happen(leader, 5, first=5)
        for name in sorted(cluster.members):
            async with Stub(cluster.members[name]) as events:
                rest = await events.after(seen[-1][0], seen[-1][1], count=7)
                assert await events.after(start, count=10) == [*seen, *rest]
        kept = [list(member.state.events) for member in cluster.members.values()]
        assert kept[0] == kept[1]
