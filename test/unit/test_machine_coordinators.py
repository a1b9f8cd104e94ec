"""Coordinators as the log knows them: admission, announcements, removal, events of theirs; and mixed versions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cloudless.clock import SystemClock
from cloudless.config import StoreConfig
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import snapshot, versions
from cloudless.coordinator.core.machine import Applied
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import Coordinator, JoinToken, Severity
from cloudless.errors import FailedPrecondition
from cloudless.testing.fabric_model import Fabric, refusal

ALICE = "user/alice"


def token(fabric: Fabric, name: str, **fields: Any) -> JoinToken:
    """A live token for the coordinator `name`."""
    made = JoinToken(f"j-{name}", max_uses=1, expires_at_ms=fabric.now_ms + 1000, coordinator_id=name)
    made = dataclasses.replace(made, **fields)
    assert fabric.apply(c.CreateToken(made)).result.accepted
    return made


def enroll(name: str, *, token_id: str = "", key: str = "", schema: int = 2) -> c.EnrollCoordinator:
    return c.EnrollCoordinator(token_id or f"j-{name}", name, key or f"key-{name}", f"serial-{name}", "1.0", schema)


def announce(name: str, *, version: str = "1.0", schema: int = 2, address: str = "") -> c.AnnounceCoordinator:
    return c.AnnounceCoordinator(name, version, schema, (address or f"{name}:8443",), (f"{name}:8442",), f"{name}:8444")


def types(applied: Applied) -> list[str]:
    return [event.type for event in applied.events]


def test_a_token_admits_its_coordinator_once() -> None:
    fabric = Fabric()
    token(fabric, "c2")
    applied = fabric.apply(enroll("c2"))
    assert applied.result.changed == "created"
    assert types(applied) == ["security.token_used", "security.cert_issued", "coordinator.joined"]
    assert {change.kind for change in applied.changes} == {"token", "coordinator"}
    record = fabric.state.coordinators["c2"]
    assert record == Coordinator(
        "c2", "1.0", 2, public_key_sha256="key-c2", certificate_serial="serial-c2", joined_at_ms=fabric.now_ms,
        revision=len(fabric.log),
    )  # fmt: skip
    assert (fabric.state.tokens["j-c2"].uses, fabric.state.tokens["j-c2"].used_by) == (1, ("c2",))


def test_a_repeated_admission_changes_nothing() -> None:
    fabric = Fabric()
    token(fabric, "c2")
    fabric.apply(enroll("c2"))
    before = fabric.state
    again = fabric.apply(dataclasses.replace(enroll("c2"), certificate_serial="another"))
    assert (again.result.accepted, again.result.changed, again.events) == (True, "unchanged", ())
    assert fabric.state is before


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (enroll("c2", token_id="j-c3"), ("token_refused", "CoordinatorNotAllowed")),
        (enroll("c2", token_id="nodes"), ("token_refused", "TokenForNodes")),
        (enroll("c2", token_id="revoked"), ("token_refused", "TokenRevoked")),
        (enroll("c2", token_id="expired"), ("token_refused", "TokenExpired")),
        (enroll("c2", token_id="none"), ("token_refused", "TokenUnknown")),
        (enroll("c1", token_id="j-c2"), ("conflict", "CoordinatorIdUsed")),
        (enroll("gone", token_id="j-c2"), ("conflict", "CoordinatorIdUsed")),
        (enroll("joined", key="another"), ("conflict", "CoordinatorIdUsed")),
        (enroll("joined", token_id="j-c2"), ("conflict", "CoordinatorIdUsed")),
        (enroll("c2", schema=1), ("failed_precondition", "CoordinatorTooOld")),
        (enroll("c2", schema=0), ("invalid_argument", "BadCoordinator")),
        (enroll("no name", token_id="j-c2"), ("invalid_argument", "BadCoordinatorId")),
        (dataclasses.replace(enroll("c2"), public_key_sha256=""), ("invalid_argument", "CoordinatorKeyMissing")),
        (dataclasses.replace(enroll("c2"), certificate_serial="1" * 257), ("invalid_argument", "BadCoordinator")),
        (dataclasses.replace(enroll("c2"), version="1" * 65), ("invalid_argument", "BadCoordinator")),
    ],
)
def test_who_is_not_admitted(command: c.EnrollCoordinator, expected: tuple[str, str]) -> None:
    fabric = Fabric()
    fabric.apply(announce("c1"))
    for name in ("c2", "c3", "gone", "joined"):
        token(fabric, name, expires_at_ms=fabric.now_ms + 10_000)
    token(fabric, "c2", id="revoked")
    fabric.apply(c.RevokeToken("revoked"))
    token(fabric, "c2", id="expired")
    fabric.apply(c.CreateToken(JoinToken("nodes", "*", max_uses=1, expires_at_ms=fabric.now_ms + 10_000)))
    for name in ("gone", "joined"):
        assert fabric.apply(enroll(name)).result.accepted
    fabric.apply(c.RemoveCoordinator("gone"))
    fabric.now_ms += 5000
    assert refusal(fabric.apply(command)) == expected


def test_a_used_token_admits_nobody_else() -> None:
    fabric = Fabric()
    token(fabric, "c2")
    fabric.state = fabric.state.with_token(dataclasses.replace(fabric.state.tokens["j-c2"], uses=1))
    assert refusal(fabric.apply(enroll("c2"))) == ("token_refused", "TokenUsedUp")


def test_no_node_enrols_with_a_coordinators_token() -> None:
    fabric = Fabric()
    token(fabric, "c2")
    applied = fabric.apply(c.EnrollNode("j-c2", "c2", "key", "serial", fabric.now_ms + 1000))
    assert refusal(applied) == ("token_refused", "TokenForCoordinator")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"coordinator_id": "no name"}, ("invalid_argument", "BadCoordinatorId")),
        ({"node_pattern": "*"}, ("invalid_argument", "BadCoordinatorToken")),
        ({"max_uses": 2}, ("invalid_argument", "BadCoordinatorToken")),
        ({"labels": {"a": "b"}}, ("invalid_argument", "BadCoordinatorToken")),
        ({"coordinator_id": "c1"}, ("conflict", "CoordinatorIdUsed")),
        ({"coordinator_id": "gone"}, ("conflict", "CoordinatorIdUsed")),
    ],
)
def test_tokens_of_coordinators_that_are_not_made(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    fabric = Fabric()
    fabric.apply(announce("c1"))
    fabric.apply(announce("gone"))
    fabric.apply(c.RemoveCoordinator("gone"))
    made = JoinToken("j", max_uses=1, expires_at_ms=fabric.now_ms + 1000, coordinator_id="c2")
    assert refusal(fabric.apply(c.CreateToken(dataclasses.replace(made, **fields)))) == expected


def test_an_announcement_creates_updates_or_changes_nothing() -> None:
    fabric = Fabric()
    first = fabric.apply(announce("c1"))
    assert (first.result.changed, types(first)) == ("created", ["coordinator.announced"])
    revision = fabric.state.coordinators["c1"].revision
    same = fabric.apply(announce("c1"))
    assert (same.result.changed, same.result.revision, same.changes, same.events) == ("unchanged", revision, (), ())
    moved = fabric.apply(announce("c1", address="elsewhere:1"))
    assert (moved.result.changed, types(moved)) == ("updated", ["coordinator.updated"])
    newer = fabric.apply(announce("c1", version="1.1", address="elsewhere:1"))
    assert types(newer) == ["coordinator.updated"]
    assert fabric.state.coordinators["c1"].joined_at_ms == fabric.now_ms
    quiet = fabric.apply(announce("c1", version="1.1", schema=3, address="elsewhere:1"))
    assert (quiet.result.changed, types(quiet)) == ("updated", [])


def test_an_announcement_keeps_what_the_admission_said() -> None:
    fabric = Fabric()
    token(fabric, "c2")
    fabric.apply(enroll("c2"))
    fabric.now_ms += 10
    fabric.apply(announce("c2", version="2.0"))
    record = fabric.state.coordinators["c2"]
    assert (record.public_key_sha256, record.certificate_serial, record.joined_at_ms) == (
        "key-c2", "serial-c2", fabric.now_ms - 10,
    )  # fmt: skip
    assert (record.version, record.api_addresses, record.member_address) == ("2.0", ("c2:8443",), "c2:8444")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (announce("gone"), "CoordinatorRemoved"),
        (announce("c1", schema=1), "CoordinatorTooOld"),
        (announce("c3", schema=1), "CoordinatorTooOld"),
        (announce(""), "BadCoordinatorId"),
        (announce("c3", version="1" * 65), "BadCoordinator"),
        (announce("c3", address="h" * 301), "BadAddress"),
        (c.AnnounceCoordinator("c3", "1.0", 2, ("h:1",) * 17), "BadAddress"),
    ],
)
def test_announcements_that_are_refused(command: c.AnnounceCoordinator, reason: str) -> None:
    fabric = Fabric()
    for name in ("c1", "gone"):
        fabric.apply(announce(name))
    fabric.apply(c.RemoveCoordinator("gone"))
    assert refusal(fabric.apply(command))[1] == reason


def test_a_lower_schema_than_anothers_is_fine() -> None:
    fabric = Fabric()
    fabric.apply(announce("c1", schema=2))
    fabric.apply(announce("c2", schema=3))
    assert fabric.apply(announce("c3", schema=2)).result.accepted
    assert fabric.apply(announce("c2", schema=2)).result.accepted, "back to what the others run"


def test_a_removed_coordinator_leaves_its_id_behind() -> None:
    fabric = Fabric()
    for name in ("c1", "c2"):
        fabric.apply(announce(name))
    gone = fabric.apply(c.RemoveCoordinator("c2"))
    assert (gone.result.changed, [(e.type, e.severity) for e in gone.events]) == (
        "deleted", [("coordinator.removed", Severity.WARNING)],
    )  # fmt: skip
    assert fabric.state.coordinators["c2"].removed
    again = fabric.apply(c.RemoveCoordinator("c2"))
    assert (again.result.accepted, again.result.changed, again.events) == (True, "unchanged", ())
    assert refusal(fabric.apply(c.RemoveCoordinator("c9"))) == ("not_found", "CoordinatorUnknown")
    assert refusal(fabric.apply(c.RemoveCoordinator("c1"))) == ("failed_precondition", "LastCoordinator")


def test_an_event_from_outside_the_log() -> None:
    fabric = Fabric()
    command = c.RecordEvent(
        "security.member_refused", Severity.WARNING, "coordinator/c9", "", "a stranger", {"peer": "192.0.2.1"}
    )
    (event,) = fabric.apply(command, actor="coordinator/c1").events
    assert (event.type, event.severity, event.actor) == ("security.member_refused", Severity.WARNING, "coordinator/c1")
    assert (event.resource, event.description, event.metadata) == (
        "coordinator/c9", "a stranger", {"peer": "192.0.2.1"},
    )  # fmt: skip
    assert (event.index, event.sequence, event.time_ms) == (1, 0, fabric.now_ms)
    (plain,) = fabric.apply(c.RecordEvent("cluster.restored")).events
    assert plain.severity is Severity.INFO


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (c.RecordEvent(""), "BadEventType"),
        (c.RecordEvent("node.lost"), "BadEventType"),
        (c.RecordEvent("security."), "BadEventType"),
        (c.RecordEvent("security.x\n"), "BadEventType"),
        (c.RecordEvent("security." + "x" * 60), "BadEventType"),
        (c.RecordEvent("cluster.x", resource="r" * 257), "BadEvent"),
        (c.RecordEvent("cluster.x", namespace="No"), "BadEvent"),
        (c.RecordEvent("cluster.x", description="d" * 1025), "BadEvent"),
        (c.RecordEvent("cluster.x", metadata={"k": "v" * 257}), "BadEvent"),
        (c.RecordEvent("cluster.x", metadata={str(i): "" for i in range(17)}), "BadEvent"),
    ],
)
def test_events_that_are_not_recorded(command: c.RecordEvent, reason: str) -> None:
    assert refusal(Fabric().apply(command)) == ("invalid_argument", reason)


def test_a_state_without_coordinators_is_written_as_the_schema_before_wrote_it() -> None:
    fabric = Fabric()
    fabric.join("n1")
    assert snapshot.encode(fabric.state, index=1, term=1)[:2] == b"\x08\x01"
    token(fabric, "c2")
    assert snapshot.encode(fabric.state, index=1, term=1)[:2] == b"\x08\x02"
    fabric.apply(announce("c1"))
    assert snapshot.decode(snapshot.encode(fabric.state, index=7, term=2)) == (fabric.state, 7, 2)


# -- mixed versions ---------------------------------------------------------------------------------------

EVENT = c.RecordEvent("cluster.tested")


def fabric_of(**schemas: int) -> State:
    """A state with a coordinator of each schema."""
    state = State.empty("test.local")
    for name in sorted(schemas):
        state = state.with_coordinator(Coordinator(name, version=f"1.{schemas[name]}", schema=schemas[name]))
    return state


def removed(state: State, name: str) -> State:
    return state.with_coordinator(dataclasses.replace(state.coordinators[name], removed=True))


@pytest.mark.parametrize(
    ("state", "known", "level", "schema"),
    [
        (fabric_of(), 2, 0, 2),
        (fabric_of(), 1, 0, 1),
        (fabric_of(c1=2), 2, 2, 2),
        (fabric_of(c1=2, c2=1, c3=2), 2, 1, 1),
        (removed(fabric_of(c1=2, c2=1, c3=2), "c2"), 2, 2, 2),
        (fabric_of(c1=3, c2=3), 2, 3, 2),
    ],
)
def test_what_all_understand(state: State, known: int, level: int, schema: int) -> None:
    assert versions.level(state) == level
    assert versions.schema_of_all(state, known=known) == schema
    assert (versions.refusal(EVENT, state, known=known) is None) is (schema >= 2)
    assert versions.refusal(c.NoOp(), state, known=known) is None


def test_the_refusal_names_who_is_behind() -> None:
    refused = versions.refusal(EVENT, fabric_of(c1=2, c2=1, c3=1))
    assert refused is not None
    assert refused.reason == "UpgradeNotFinished"
    assert "coordinator c2 still runs version 1.1" in refused.message
    assert "upgrade coordinator c2" in refused.remedy
    own = versions.refusal(EVENT, fabric_of(c1=2), known=1)
    assert own is not None
    assert "this coordinator" in own.message


def test_what_the_gate_stands_on_is_never_held_back() -> None:
    state = fabric_of(c1=1, c2=1)
    made = c.CreateToken(JoinToken("j", coordinator_id="c3", max_uses=1))
    for command in (announce("c1"), enroll("c3"), c.RemoveCoordinator("c2"), made):
        assert versions.refusal(command, state, known=1) is None


class Member:
    """One coordinator's machine and state."""

    def __init__(self, name: str, schema: int) -> None:
        self.name = name
        self.state = State.empty("test.local")
        self.index = 0
        self.restart(schema)

    def restart(self, schema: int) -> None:
        self.machine = FabricMachine("test.local", schema=schema)

    def entry(self, command: c.Command) -> bytes:
        return self.machine.entry(command, state=self.state, actor=self.name, request_id="", issued_at_ms=1)

    def announcement(self) -> c.AnnounceCoordinator:
        return announce(self.name, version=f"1.{self.machine.schema}", schema=self.machine.schema)

    def apply(self, data: bytes) -> Applied:
        self.index += 1
        applied = self.machine.apply(self.state, data, index=self.index, term=1)
        self.state = applied.state
        return applied


def commit(members: list[Member], data: bytes) -> None:
    answers = {member.apply(data).result for member in members}
    assert len(answers) == 1
    assert answers.pop().accepted


def test_an_upgrade_one_member_after_the_other() -> None:
    members = [Member(name, 1) for name in ("c1", "c2", "c3")]
    for member in members:
        commit(members, member.entry(member.announcement()))
    for member in members:
        for proposer in members:
            with pytest.raises(FailedPrecondition) as caught:
                proposer.entry(EVENT)
            assert caught.value.reason == "UpgradeNotFinished"
        member.restart(2)
        commit(members, member.entry(member.announcement()))
    for proposer in members:
        commit(members, proposer.entry(EVENT))
    assert len({snapshot.state_hash(member.state) for member in members}) == 1
    assert [event.type for event in members[0].state.events].count("cluster.tested") == 3
    members[2].restart(1)
    back = members[2].apply(members[2].entry(members[2].announcement()))
    assert back.result.reason == "CoordinatorTooOld", "its log holds what that version does not understand"


def test_without_the_gate_members_would_part() -> None:
    new, old = Member("c1", 2), Member("c2", 1)
    for member in (old, new):
        commit([new, old], member.entry(member.announcement()))
    data = c.encode(c.Entry(2, "", 1, "c1", EVENT))
    assert new.apply(data).result.accepted
    refused = old.apply(data).result
    assert (refused.code, refused.reason) == ("invalid_argument", "BadEntry")
    assert snapshot.state_hash(new.state) != snapshot.state_hash(old.state)


def test_who_is_older_than_the_log_is_told_so() -> None:
    assert versions.too_old(fabric_of(c1=2, c2=1), "c2", schema=1) is None
    assert versions.too_old(fabric_of(), "c1", schema=1) is None
    refused = versions.too_old(fabric_of(c1=2, c2=2), "c2", schema=1)
    assert refused is not None
    assert refused.reason == "CoordinatorTooOld"


def test_a_machine_that_is_older_than_the_log_stops() -> None:
    def entry(command: c.Command) -> bytes:
        return c.encode(c.Entry(2, "", 1, ALICE, command))

    old, new = (FabricMachine("test.local", member="c1", schema=schema) for schema in (1, 2))
    state, both = old.empty(), [announce("c1", schema=1), announce("c2")]
    for index, command in enumerate(both, 1):
        state = old.apply(state, entry(command), index=index, term=1).state
    upgraded = entry(announce("c1", version="2.0"))
    with pytest.raises(FailedPrecondition) as caught:
        old.apply(state, upgraded, index=3, term=1)
    assert caught.value.reason == "CoordinatorTooOld"
    body = new.encode(new.apply(state, upgraded, index=3, term=1).state, index=3, term=1)
    assert new.decode(body)[1] == 3
    with pytest.raises(FailedPrecondition) as caught:
        old.decode(body)
    assert caught.value.reason == "CoordinatorTooOld"
    # Removed, it ends for that reason.
    removed = old.apply(state, entry(c.RemoveCoordinator("c1")), index=3, term=1)
    assert removed.result.accepted


async def test_the_store_asks_before_it_proposes(tmp_path: Path) -> None:
    store: Store[State] = await Store.open(
        tmp_path,
        machine=FabricMachine("test.local"),
        clock=SystemClock(),
        config=StoreConfig(engine="single"),
        member="c1",
    )
    try:
        for name, schema in (("c2", 1), ("c1", 2)):
            await store.propose(announce(name, schema=schema), actor=f"coordinator/{name}")
        before = store.snapshot.index
        with pytest.raises(FailedPrecondition) as caught:
            await store.propose(EVENT, actor=ALICE)
        assert (caught.value.reason, store.snapshot.index) == ("UpgradeNotFinished", before), "the log has none of it"
        assert "coordinator c2" in caught.value.message
        await store.propose(announce("c2", version="2.0"), actor="coordinator/c2")
        assert (await store.propose(EVENT, actor=ALICE)).accepted
    finally:
        await store.close()
