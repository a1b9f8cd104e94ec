"""Tokens, enrolment, certificates, settings and transitions of nodes."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core import snapshot
from cloudless.coordinator.core.apply_tokens import RETENTION_MS, pattern_admits
from cloudless.coordinator.core.scheduler import topology
from cloudless.core.model import JoinToken, NodeState, Taint
from cloudless.core.spec import TaintEffect
from cloudless.testing.fabric_model import START_MS, Fabric, device, refusal, service

DAY_MS = 24 * 3_600_000
TOKEN = JoinToken("t", "edge-*", "eu", "z1", {"rack": "r1"}, max_uses=2, expires_at_ms=START_MS + 60_000)
ENROL = c.EnrollNode("t", "edge-1", "key-1", "serial-1", START_MS + 10**6)


@pytest.fixture
def fabric():
    fabric = Fabric()
    assert fabric.apply(c.CreateToken(TOKEN)).result.accepted
    return fabric


def test_a_token_admits_a_node_with_its_place_and_labels(fabric):
    applied = fabric.apply(ENROL, actor="node/edge-1", request_id="r1")
    assert applied.result.accepted
    assert applied.result.changed == "created"
    node = fabric.state.nodes["edge-1"]
    assert (node.region, node.zone, dict(node.labels)) == ("eu", "z1", {"rack": "r1"})
    assert (node.state, node.public_key_sha256, node.token_id) == (NodeState.ENROLLING, "key-1", "t")
    assert node.revision == applied.result.revision == 2
    token = fabric.state.tokens["t"]
    assert (token.uses, token.used_by) == (1, ("edge-1",))
    assert [e.type for e in applied.events] == ["security.token_used", "security.cert_issued", "node.enrolled"]
    assert [(e.index, e.sequence, e.request_id, e.actor) for e in applied.events] == [
        (2, n, "r1", "node/edge-1") for n in range(3)
    ]
    assert [(ch.kind, ch.key) for ch in applied.changes] == [("token", "t"), ("node", "edge-1")]


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"token_id": "other"}, "token_refused", "TokenUnknown"),
        ({"node_id": "core-1"}, "token_refused", "NodeNameNotAllowed"),
        ({"node_id": "Edge_1"}, "invalid_argument", "BadNodeName"),
        ({"node_id": ""}, "invalid_argument", "BadNodeName"),
        ({"public_key_sha256": ""}, "invalid_argument", "NodeKeyMissing"),
    ],
)
def test_enrolment_is_refused_with_its_reason(fabric, change, code, reason):
    assert refusal(fabric.apply(dataclasses.replace(ENROL, **change))) == (code, reason)
    assert fabric.state.tokens["t"].uses == 0


def test_a_token_ends_by_revocation_expiry_and_use(fabric):
    fabric.apply(c.RevokeToken("t"))
    assert refusal(fabric.apply(ENROL)) == ("token_refused", "TokenRevoked")
    fabric.apply(c.CreateToken(dataclasses.replace(TOKEN, id="u", max_uses=1)))
    enrol = dataclasses.replace(ENROL, token_id="u")
    assert fabric.apply(enrol).result.accepted
    assert refusal(fabric.apply(dataclasses.replace(enrol, node_id="edge-2"))) == ("token_refused", "TokenUsedUp")
    fabric.apply(c.CreateToken(dataclasses.replace(TOKEN, id="v")))
    fabric.now_ms = TOKEN.expires_at_ms
    assert refusal(fabric.apply(dataclasses.replace(ENROL, token_id="v"))) == ("token_refused", "TokenExpired")


def test_a_name_belongs_to_its_key(fabric):
    assert fabric.apply(ENROL).result.accepted
    other = dataclasses.replace(ENROL, public_key_sha256="key-2")
    assert refusal(fabric.apply(other)) == ("already_exists", "NodeKeyMismatch")
    assert fabric.state.tokens["t"].uses == 1
    again = fabric.apply(dataclasses.replace(ENROL, certificate_serial="serial-2"))
    assert (again.result.changed, fabric.state.tokens["t"].uses) == ("updated", 2)
    assert fabric.state.nodes["edge-1"].certificate_serial == "serial-2"
    assert fabric.state.tokens["t"].used_by == ("edge-1",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ""}, "TokenIdMissing"),
        ({"node_pattern": ""}, "BadNodePattern"),
        ({"node_pattern": "[a-z]*"}, "BadNodePattern"),
        ({"max_uses": 0}, "BadMaxUses"),
        ({"expires_at_ms": START_MS}, "BadExpiry"),
        ({"id": "t"}, "TokenExists"),
    ],
)
def test_a_bad_token_is_refused(fabric, change, reason):
    assert refusal(fabric.apply(c.CreateToken(dataclasses.replace(TOKEN, **({"id": "n"} | change)))))[1] == reason


def test_a_new_token_starts_unused_whatever_it_says(fabric):
    fabric.apply(c.CreateToken(dataclasses.replace(TOKEN, id="n", uses=9, used_by=("x",), revoked=True)))
    token = fabric.state.tokens["n"]
    assert (token.uses, token.used_by, token.revoked, token.created_by) == (0, (), False, "user/test")


def test_tokens_that_ended_long_ago_are_forgotten_day_by_day(fabric):
    def create(token_id, *, at_ms):
        fabric.now_ms = at_ms
        return fabric.apply(c.CreateToken(dataclasses.replace(TOKEN, id=token_id, expires_at_ms=at_ms + 1)))

    next_day_ms = (TOKEN.expires_at_ms // DAY_MS + 1) * DAY_MS
    create("a", at_ms=next_day_ms - 2)
    create("b", at_ms=next_day_ms + RETENTION_MS - 1)
    assert set(fabric.state.tokens) == {"t", "a", "b"}
    applied = create("c", at_ms=next_day_ms + RETENTION_MS)
    assert set(fabric.state.tokens) == {"b", "c"}
    assert [(change.key, change.deleted) for change in applied.changes] == [("a", True), ("t", True), ("c", False)]
    fabric.state.validate()
    restored, _, _ = snapshot.decode(snapshot.encode(fabric.state, index=1, term=1))
    assert restored.first_token_end_ms == fabric.state.first_token_end_ms == next_day_ms + RETENTION_MS


def test_a_device_states_labels_of_its_own(fabric):
    fabric.apply(ENROL)
    device_info = dataclasses.replace(device(), labels={"gpu": "a10", "zone": "elsewhere", "rack": "r9", "arch": "z80"})
    assert fabric.apply(c.ReportNode("edge-1", NodeState.READY, "", device_info)).result.accepted
    node = fabric.state.nodes["edge-1"]
    keys = ("gpu", "zone", "rack", "arch", "none")
    assert [topology.value_of(node, key) for key in keys] == ["a10", "z1", "r1", device().arch, None]
    assert topology.labels_of(node) == {"gpu": "a10", "zone": "elsewhere", "rack": "r1", "arch": "z80"}
    bad = dataclasses.replace(device(), labels={"no label": "x"})
    assert refusal(fabric.apply(c.ReportNode("edge-1", None, "", bad))) == ("invalid_argument", "BadLabel")


def test_what_a_node_says_cannot_fill_the_memory_with_events(fabric):
    fabric.apply(ENROL)
    applied = fabric.apply(c.ReportNode("edge-1", NodeState.READY, "x" * 100_000))
    assert [len(event.description) for event in applied.events] == [1024]


def test_revoking_a_token_twice_changes_nothing(fabric):
    assert fabric.apply(c.RevokeToken("t")).result.changed == "updated"
    again = fabric.apply(c.RevokeToken("t"))
    assert (again.result.changed, again.result.revision, again.changes) == ("unchanged", 2, ())
    assert refusal(fabric.apply(c.RevokeToken("x"))) == ("not_found", "TokenUnknown")


@pytest.mark.parametrize(
    ("pattern", "name", "admits"),
    [
        ("*", "anything", True), ("edge-*", "edge-", True), ("edge-*", "edg", False), ("n?", "n1", True),
        ("n?", "n", False), ("*-1", "edge-1", True), ("*-1", "edge-12", False), ("a*b*c", "axxbyyc", True),
        ("a*b*c", "axxcyyb", False), ("", "", True), ("**", "", True), ("n.", "n1", False),
        ("*a" * 20, "a" * 62 + "b", False),
    ],
)  # fmt: skip
def test_patterns(pattern, name, admits):
    assert pattern_admits(pattern, name) is admits


# -- settings ---------------------------------------------------------------------------------------------


def test_draining_cordons_and_uncordoning_ends_the_drain():
    fabric = Fabric()
    fabric.join("a")
    applied = fabric.apply(c.UpdateNode("a", draining=True))
    assert [e.type for e in applied.events] == ["node.cordoned", "node.draining", "node.drained"]
    assert fabric.state.nodes["a"].cordoned
    applied = fabric.apply(c.UpdateNode("a", cordoned=False))
    assert [e.type for e in applied.events] == ["node.uncordoned"]
    assert not fabric.state.nodes["a"].draining
    revision = fabric.state.nodes["a"].revision
    again = fabric.apply(c.UpdateNode("a", cordoned=False))
    assert (again.result.changed, again.result.revision, again.events) == ("unchanged", revision, ())


def test_labels_and_taints():
    fabric = Fabric()
    fabric.join("a")
    low = Taint("battery", "low", TaintEffect.NO_SCHEDULE)
    fabric.apply(c.UpdateNode("a", set_labels={"x": "1", "y": "2"}, set_taints=(low,)))
    fabric.apply(c.UpdateNode("a", remove_labels=("x",), set_taints=(dataclasses.replace(low, value="empty"),)))
    node = fabric.state.nodes["a"]
    assert dict(node.labels) == {"y": "2"}
    assert [(t.key, t.value) for t in node.taints] == [("battery", "empty")]
    fabric.apply(c.UpdateNode("a", remove_taints=("battery",)))
    assert fabric.state.nodes["a"].taints == ()
    for bad in (c.UpdateNode("a", set_labels={"a b": "1"}), c.UpdateNode("a", set_labels={"a": "b c"})):
        assert refusal(fabric.apply(bad)) == ("invalid_argument", "BadLabel")
    assert refusal(fabric.apply(c.UpdateNode("a", set_taints=(Taint("k"),)))) == ("invalid_argument", "BadTaint")
    assert refusal(fabric.apply(c.UpdateNode("b"))) == ("not_found", "NodeUnknown")


# -- transitions ------------------------------------------------------------------------------------------

S = NodeState


@pytest.mark.parametrize(
    ("path", "events"),
    [
        ([S.READY], ["node.ready"]),
        ([S.READY, S.UNREACHABLE], ["node.unreachable"]),
        ([S.READY, S.UNREACHABLE, S.READY], ["node.returned", "node.ready"]),
        ([S.READY, S.UNREACHABLE, S.LOST], ["node.lost"]),
        ([S.READY, S.LOST], ["node.lost"]),
        ([S.READY, S.LOST, S.READY], ["node.returned", "node.ready"]),
        ([S.READY, S.READY], []),
        ([S.UNREACHABLE], None),
        ([S.LOST], None),
        ([S.READY, S.ENROLLING], None),
        ([S.READY, S.LOST, S.UNREACHABLE], None),
    ],
)
def test_node_transitions(fabric, path, events):
    fabric.apply(ENROL)
    for state in path:
        fabric.now_ms += 10
        applied = fabric.apply(c.ReportNode("edge-1", state, "because"))
    if events is None:
        assert refusal(applied) == ("failed_precondition", "IllegalTransition")
        return
    assert [e.type for e in applied.events] == events
    if events:
        node = fabric.state.nodes["edge-1"]
        assert (node.state, node.state_reason, node.state_since_ms) == (path[-1], "because", fabric.now_ms)


def test_a_device_report_alone_keeps_the_state():
    fabric = Fabric()
    fabric.join("a")
    since = fabric.state.nodes["a"].state_since_ms
    fabric.now_ms += 10
    assert fabric.apply(c.ReportNode("a", device=device(cpu_millis=7))).result.changed == "updated"
    assert fabric.apply(c.ReportNode("a", device=device(cpu_millis=7))).result.changed == "unchanged"
    node = fabric.state.nodes["a"]
    assert (node.state, node.state_since_ms, node.device.capacity.cpu_millis) == (NodeState.READY, since, 7)
    assert refusal(fabric.apply(c.ReportNode("a", device=device(cpu_millis=-1))))[1] == "BadCapacity"


def test_a_device_that_shrinks_evicts_the_least_important_and_newest():
    fabric = Fabric()
    fabric.join("a")
    fabric.put("high", dataclasses.replace(service(replicas=1, cpu_millis=1000), priority=90))
    fabric.put("low", dataclasses.replace(service(replicas=2, cpu_millis=1000), priority=10))
    fabric.settle()
    assert len(fabric.places("low")) == 2
    fabric.apply(c.ReportNode("a", device=device(cpu_millis=2500)))
    assert len(fabric.places("low")) == 1
    applied = fabric.apply(c.ReportNode("a", device=device(cpu_millis=1000)))
    assert fabric.places("low") == []
    assert fabric.places("high") == ["a"]
    assert [e.metadata["reason"] for e in applied.events] == ["CapacityReduced"]


def test_removal_needs_an_empty_node_or_force():
    fabric = Fabric()
    fabric.join("a")
    fabric.put("web", service(replicas=2))
    fabric.settle()
    refused = fabric.apply(c.RemoveNode("a"))
    assert refusal(refused) == ("failed_precondition", "NodeNotEmpty")
    assert refused.result.message == "2 replica(s) are still on node a", "the cause alone"
    assert refused.result.remedy.startswith("drain it first (cloudlessctl node drain a), or ")
    applied = fabric.apply(c.RemoveNode("a", force=True))
    assert applied.result.changed == "deleted"
    assert fabric.replicas("web") == []
    assert "a" not in fabric.state.nodes
    assert refusal(fabric.apply(c.RemoveNode("a"))) == ("not_found", "NodeUnknown")


def test_a_renewed_certificate_is_recorded(fabric):
    fabric.apply(ENROL)
    applied = fabric.apply(c.RenewCertificate("edge-1", "key-9", "serial-9", 99))
    assert [e.type for e in applied.events] == ["security.cert_issued"]
    node = fabric.state.nodes["edge-1"]
    assert (node.public_key_sha256, node.certificate_serial, node.certificate_expires_at_ms) == (
        "key-9",
        "serial-9",
        99,
    )
    assert refusal(fabric.apply(c.RenewCertificate("edge-9", "k", "s", 1))) == ("not_found", "NodeUnknown")
