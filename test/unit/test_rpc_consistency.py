"""Which calls wait until the state is current, which are looked at again, and what callers are told of coordinators."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cloudless.coordinator.rpc.access import API, TABLE
from cloudless.coordinator.rpc.call import Call, Principal
from cloudless.coordinator.rpc.consistency import READS, Consistency
from cloudless.coordinator.rpc.learning import Learning
from cloudless.errors import (
    CloudlessError,
    Conflict,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from cloudless.identity.channel import COORDINATORS_NOW_TRAILER, addresses_digest

GET = "/cloudless.api.v1.NodeService/GetNode"
UPDATE = "/cloudless.api.v1.NodeService/UpdateNode"
CONNECT = "/cloudless.api.v1.SessionService/Connect"


class FakeStore:
    def __init__(self, *, leading: bool = False, leader: bool = True) -> None:
        self.leading = leading
        self.leader = leader
        self.barriers = 0

    async def read_barrier(self) -> int:
        if not self.leader:
            raise Unavailable("no leader", reason="NoLeader")
        self.barriers += 1
        return 1


def call(method: str, *, streaming: bool = False, **metadata: str) -> Call:
    return Call(
        method=method,
        context=None,
        request_streaming=streaming,
        response_streaming=streaming,
        metadata={key.replace("_", "-"): value for key, value in metadata.items()},
    )


async def ask(store: FakeStore, made: Call, *failures: CloudlessError, authenticated: bool = True) -> tuple[str, int]:
    """The answer, and how often the handler was asked; the first asks fail."""
    asked = 0
    waiting = list(failures)

    async def proceed(passed: Call, request: Any) -> str:
        nonlocal asked
        asked += 1
        if authenticated:
            passed.principal = Principal("user", "alice", "", 0)
        if waiting:
            raise waiting.pop(0)
        return "answer"

    return await Consistency(store)(made, None, proceed), asked


async def test_reads_wait_and_writes_do_not() -> None:
    for leading in (True, False):
        store = FakeStore(leading=leading)
        assert await ask(store, call(GET)) == ("answer", 1)
        assert store.barriers == 1
        assert await ask(store, call(UPDATE)) == ("answer", 1)
        assert store.barriers == 1


async def test_stale_reads_need_no_leader() -> None:
    store = FakeStore(leader=False)
    assert await ask(store, call(GET, cloudless_consistency="stale")) == ("answer", 1)
    for given in ({}, {"cloudless_consistency": "linearizable"}):
        with pytest.raises(Unavailable) as caught:
            await ask(store, call(GET, **given))
        assert caught.value.reason == "NoLeader"
        assert "--stale" in caught.value.remedy
    with pytest.raises(InvalidArgument) as wrong:
        await ask(store, call(GET, cloudless_consistency="newest"))
    assert wrong.value.reason == "BadConsistency"


@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        (NotFound("no such workload"), True),
        (Unauthenticated("who?", reason="UserUnknown"), True),
        (Unauthenticated("who?", reason="NodeRemoved"), True),
        (PermissionDenied("no", reason="RoleRequired"), True),
        (Unauthenticated("too old", reason="CertificateExpired"), False),
        (PermissionDenied("no", reason="NotForThisCaller"), False),
        (Conflict("it changed"), False),
    ],
)
async def test_a_follower_looks_again_before_it_refuses_what_it_may_not_know_yet(
    refusal: CloudlessError, again: bool
) -> None:
    store = FakeStore()
    if again:
        assert await ask(store, call(UPDATE), refusal) == ("answer", 2)
        assert store.barriers == 1
        with pytest.raises(type(refusal)):
            await ask(store, call(UPDATE), refusal, refusal)
    else:
        with pytest.raises(type(refusal)):
            await ask(store, call(UPDATE), refusal)
        assert store.barriers == 0
    with pytest.raises(type(refusal)):
        await ask(FakeStore(leading=True), call(UPDATE), refusal)


async def test_a_stream_is_looked_at_again_only_before_it_began() -> None:
    unknown = Unauthenticated("who?", reason="NodeRemoved")
    assert await ask(FakeStore(), call(CONNECT, streaming=True), unknown, authenticated=False) == ("answer", 2)
    with pytest.raises(NotFound):
        await ask(FakeStore(), call(CONNECT, streaming=True), NotFound("gone"))


def test_every_read_is_a_call_that_there_is() -> None:
    assert set(TABLE) >= READS
    ours = {method for method in TABLE if method.startswith(API)}
    silent = {method for method in ours if method.rpartition("/")[2].startswith(("Get", "List", "Watch"))} - READS
    # Answered without a leader: they say how it stands with the coordinators.
    assert silent == {
        "/cloudless.api.v1.ClusterService/GetStatus",
        "/cloudless.api.v1.ClusterService/ListCoordinators",
    }


class Context:
    def __init__(self) -> None:
        self.trailers: Any = None

    def set_trailing_metadata(self, trailers: Any) -> None:
        self.trailers = trailers


async def test_who_knows_other_coordinators_is_told_those_that_are() -> None:
    there = SimpleNamespace(addresses=("a:1", "b:2"))
    learning = Learning(lambda: there.addresses)

    async def told(known: str | None) -> Any:
        context = Context()
        made = call(GET, **({} if known is None else {"cloudless_coordinators": known}))
        made.context = context

        async def proceed(passed: Call, request: Any) -> str:
            return "answer"

        assert await learning(made, None, proceed) == "answer"
        return context.trailers

    assert await told(None) is None
    assert await told(addresses_digest(["b:2", "a:1"])) is None
    assert await told(addresses_digest(["a:1"])) == ((COORDINATORS_NOW_TRAILER, "a:1,b:2"),)
    there.addresses = ("a:1", "c:3")
    assert await told(addresses_digest(["b:2", "a:1"])) == ((COORDINATORS_NOW_TRAILER, "a:1,c:3"),)
    there.addresses = ()
    assert await told("other") is None
