"""Pages, selectors, prefixes and watches over a replicated state; no gRPC involved."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.api.v1 import spec_pb2
from cloudless.api.v1.control_pb2 import ListOptions
from cloudless.api.v1.convert import to_proto
from cloudless.coordinator.core import commands, machine
from cloudless.coordinator.core.commands import CreateToken, DeleteWorkload, PutWorkload
from cloudless.coordinator.core.outcome import Change
from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc import listing, watching
from cloudless.coordinator.rpc.call import Call, Principal
from cloudless.coordinator.rpc.kinds import TOKENS, WORKLOADS
from cloudless.core import defaults
from cloudless.core.model import JoinToken, Role, RoleBinding
from cloudless.core.spec import Container, Metadata, WorkloadSpec
from cloudless.errors import CloudlessError, InvalidArgument, NotFound


@dataclass
class Batch:
    index: int
    changes: tuple[Change, ...]
    events: tuple[Any, ...]
    state: State


class History:
    """A state, the batches that led to it, and a watch over them that ends where the history ends."""

    def __init__(self) -> None:
        self.state = State.empty("fabric.example")
        self.index = 0
        self.batches: list[Batch] = []

    def do(self, command: Any) -> None:
        self.index += 1
        entry = commands.encode(commands.Entry(commands.SCHEMA, "", 1_000 + self.index, "user/a", command))
        applied = machine.apply(self.state, entry, index=self.index, term=1, strict=True)
        assert applied.result.accepted, applied.result
        self.state = applied.state
        self.batches.append(Batch(self.index, applied.changes, applied.events, applied.state))

    def put(self, namespace: str, name: str, **labels: str) -> None:
        metadata, spec = defaults.apply(
            Metadata(name, namespace, labels), WorkloadSpec(containers=(Container(name="c", image="i"),))
        )
        self.do(PutWorkload(metadata, spec))

    @property
    def snapshot(self) -> Any:
        @dataclass
        class Snapshot:
            state: State
            index: int

        return Snapshot(self.state, self.index)

    def watch(self, from_index: int) -> Any:
        return Watch(self, from_index)


class Watch:
    def __init__(self, history: History, from_index: int) -> None:
        self.history = history
        self.index = from_index
        self.closed = False

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Batch:
        later = [batch for batch in self.history.batches if batch.index > self.index]
        if not later:
            raise StopAsyncIteration
        self.index = later[0].index
        return later[0]

    def close(self) -> None:
        self.closed = True


def _call(*bindings: RoleBinding) -> Call:
    principal = Principal("user", "alice", "spiffe://f/user/alice", 0, bindings=bindings)
    return Call("/m", None, False, False, {}, principal=principal)


VIEWER = _call(RoleBinding(Role.VIEWER, "*"))


def _render(record: Any) -> Any:
    return to_proto(record.metadata, spec_pb2.Metadata)


def _keys(history: History, options: ListOptions, call: Call = VIEWER) -> list[str]:
    """All pages, one after the other."""
    found: list[str] = []
    token = ""
    while True:
        page = listing.page(
            WORKLOADS,
            history.state,
            index=history.index,
            query=listing.query(call, options),
            page_size=options.page_size,
            page_token=token,
            render=_render,
        )
        found += [f"{item.namespace}/{item.name}" for item in page.items]
        token = page.next_page_token
        if not token:
            return found
        assert len(page.items) == options.page_size


@given(names=st.sets(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 40)), max_size=40), size=st.integers(1, 9))
def test_pages_together_are_the_whole_list_in_order(names: set[tuple[str, int]], size: int) -> None:
    history = History()
    for namespace, number in names:
        history.put(namespace, f"w{number}")
    expected = ["/".join(key) for key in sorted((namespace, f"w{number}") for namespace, number in names)]
    assert _keys(history, ListOptions(all_namespaces=True, page_size=size)) == expected


def test_a_page_goes_on_after_the_last_key_whatever_changed_meanwhile() -> None:
    history = History()
    for name in ("a", "c", "e", "g"):
        history.put("default", name)
    query = listing.query(VIEWER, ListOptions())
    arguments: dict[str, Any] = {"query": query, "page_size": 2, "render": _render}
    first = listing.page(WORKLOADS, history.state, index=history.index, page_token="", **arguments)
    history.do(DeleteWorkload("default", "c"))  # the key that the token stands on
    history.put("default", "b")
    history.put("default", "f")
    second = listing.page(WORKLOADS, history.state, index=history.index, page_token=first.next_page_token, **arguments)
    assert [item.name for item in second.items] == ["e", "f"]
    assert second.revision == first.revision == 4, "a watch from it sees all that changed between the pages"


def test_a_page_token_is_good_for_its_question_only() -> None:
    history = History()
    for number in range(4):
        history.put("default", f"w{number}")
    page = listing.page(
        WORKLOADS,
        history.state,
        index=4,
        query=listing.query(VIEWER, ListOptions()),
        page_size=2,
        page_token="",
        render=_render,
    )
    other = listing.query(VIEWER, ListOptions(label_selector="app=web"))
    for query, token in [(other, page.next_page_token), (listing.query(VIEWER, ListOptions()), "AAAA"), (other, "é")]:
        with pytest.raises(InvalidArgument) as caught:
            listing.page(WORKLOADS, history.state, index=4, query=query, page_size=2, page_token=token, render=_render)
        assert caught.value.reason == "BadPageToken"


@given(st.text(max_size=60))
def test_no_page_token_breaks_the_decoder(token: str) -> None:
    reasons = []
    try:
        listing.decode_token(token, WORKLOADS, "")
    except CloudlessError as error:
        reasons.append(error.reason)
    assert set(reasons) <= {"BadPageToken"}


@pytest.mark.parametrize(
    "fields",
    [
        ["workload", "", 1, "a"],
        ["workload", "", 1, ["a"]],
        ["workload", "", 1, ["a", 2]],
        ["workload", "", 1, ["a", "b", "c"]],
        ["workload", "", 2**63, ["a", "b"]],
        ["workload", "", -1, ["a", "b"]],
        ["workload", "", True, ["a", "b"]],
        ["node", "", 1, "a"],
        ["workload", "other", 1, ["a", "b"]],
        {"workload": 1},
        "workload",
    ],
)
def test_a_page_token_that_somebody_made_up_is_refused(fields: Any) -> None:
    token = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
    with pytest.raises(InvalidArgument) as caught:
        listing.decode_token(token, WORKLOADS, "")
    assert caught.value.reason == "BadPageToken"


def test_large_objects_make_short_pages() -> None:
    history = History()
    for number in range(100):
        history.do(
            PutWorkload(
                Metadata(f"w{number:03}", "default", annotations={"note": "x" * 60_000}),
                WorkloadSpec(containers=(Container(name="c", image="i"),)),
            )
        )
    query = listing.query(VIEWER, ListOptions())
    token, sizes, names = "", [], []
    while True:
        page = listing.page(
            WORKLOADS,
            history.state,
            index=history.index,
            query=query,
            page_size=500,
            page_token=token,
            render=_render,
        )
        sizes.append(sum(item.ByteSize() for item in page.items))
        names += [item.name for item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"w{number:03}" for number in range(100)]
    assert len(sizes) == 2
    assert max(sizes) <= listing.PAGE_BYTES_MAX


@pytest.mark.parametrize("size", [-1, 1001])
def test_page_sizes_have_bounds(size: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        listing.page(
            TOKENS,
            State.empty("f"),
            index=0,
            query=listing.unfiltered(),
            page_size=size,
            page_token="",
            render=_render,
        )
    assert caught.value.reason == "BadPageSize"


def test_selectors_and_namespaces_filter() -> None:
    history = History()
    history.put("default", "a", app="web")
    history.put("default", "b", app="db")
    history.put("other", "c", app="web")
    assert _keys(history, ListOptions()) == ["default/a", "default/b"]
    assert _keys(history, ListOptions(namespace="other")) == ["other/c"]
    assert _keys(history, ListOptions(label_selector="app=web", all_namespaces=True)) == ["default/a", "other/c"]
    mine = _call(RoleBinding(Role.OPERATOR, "other"))
    assert _keys(history, ListOptions(all_namespaces=True), mine) == ["other/c"], "only what the caller may see"


def test_ids_by_unique_prefix() -> None:
    history = History()
    for name in ("jt-aa1", "jt-aa2", "jt-b"):
        history.do(CreateToken(JoinToken(id=name, node_pattern="*", max_uses=1, expires_at_ms=10**9)))
    assert listing.by_prefix(TOKENS, history.state, "jt-b").id == "jt-b"
    assert listing.by_prefix(TOKENS, history.state, "jt-aa1").id == "jt-aa1"
    with pytest.raises(InvalidArgument) as ambiguous:
        listing.by_prefix(TOKENS, history.state, "jt-a")
    assert ambiguous.value.reason == "AmbiguousPrefix"
    assert "jt-aa1, jt-aa2" in ambiguous.value.message
    for missing in ("x", ""):
        with pytest.raises(NotFound):
            listing.by_prefix(TOKENS, history.state, missing)


async def _watched(history: History, options: ListOptions, *, from_revision: int, until: int = 0) -> list[Any]:
    store: Any = history
    out: list[Any] = []
    query = listing.query(VIEWER, options)
    async for message in watching.watch(store, WORKLOADS, query, from_revision=from_revision):
        if isinstance(message, watching.Present):
            out.append((message.item.metadata.name, message.revision))
        elif isinstance(message, watching.Gone):
            out.append(("-" + message.key[1], message.revision))
        else:
            out.append(("synced", message.revision))
            for _ in range(until):  # what happens while the watch is open
                history.put("default", f"later{_}", app="web")
    return out


async def test_a_watch_from_zero_sends_what_there_is_then_changes() -> None:
    history = History()
    history.put("default", "b", app="web")
    history.put("default", "a", app="web")
    history.put("other", "x", app="web")
    assert await _watched(history, ListOptions(), from_revision=0, until=1) == [
        ("a", 3),
        ("b", 3),
        ("synced", 3),
        ("later0", 4),
    ]


async def test_a_resumed_watch_sends_the_changes_after_its_revision() -> None:
    history = History()
    history.put("default", "a", app="web")
    history.put("default", "b", app="web")
    history.do(DeleteWorkload("default", "a"))
    assert await _watched(history, ListOptions(), from_revision=1) == [("b", 2), ("-a", 3)]


async def test_what_ceases_to_match_is_reported_as_gone() -> None:
    history = History()
    history.put("default", "a", app="web")
    history.put("default", "b", app="web")
    history.put("default", "a", app="db")
    assert await _watched(history, ListOptions(label_selector="app=web"), from_revision=1) == [("b", 2), ("-a", 3)]


async def test_what_never_matched_is_not_reported() -> None:
    history = History()
    history.put("default", "a", app="db")
    history.put("default", "b", app="web")
    history.do(DeleteWorkload("default", "a"))
    history.put("other", "c", app="web")
    history.do(DeleteWorkload("other", "c"))
    seen = await _watched(history, ListOptions(label_selector="app=web"), from_revision=1)
    assert [name for name, _ in seen] == ["b"]


async def test_a_negative_revision_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        await _watched(History(), ListOptions(), from_revision=-1)
