"""Signed assignments that a node is given: those that are not for it, or not as they were signed, are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudless.agent import journal as j
from cloudless.agent.core.tenure import TimePoint
from cloudless.agent.grants import Grants, Renewal
from cloudless.api.v1 import session_pb2 as pb
from cloudless.core.model import Assignment
from cloudless.core.spec import Container, WorkloadSpec
from cloudless.errors import Corrupt, Unauthenticated
from cloudless.identity.spiffe import NODE, USER, SpiffeId
from cloudless.testing.identity import Fabric
from cloudless.testing.leased import Coordinator, grants

WANTED = Assignment("r1", "web", "default", 4, WorkloadSpec(containers=(Container("main", "image"),)))
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Fabric:
    return Fabric(tmp_path_factory.mktemp("ca"))


def refusal(checks: Grants, message: pb.SignedAssignments) -> str:
    try:
        checks.granted(message)
    except (Corrupt, Unauthenticated) as error:
        return error.reason
    return ""


def test_a_set_that_a_coordinator_signed_is_read(fabric: Fabric) -> None:
    said = grants(fabric).granted(Coordinator(fabric, fabric.clock).grant(7, WANTED))
    assert (said.assignments, said.lease.revision) == ((WANTED,), 7)
    assert said.lease.expires_at_ms - said.lease.issued_at_ms == 24 * HOUR_MS
    assert grants(fabric).granted(Coordinator(fabric, fabric.clock).grant(8)).assignments == ()


def test_the_lease_of_another_node_is_refused(fabric: Fabric) -> None:
    message = Coordinator(fabric, fabric.clock, node="n2").grant(7, WANTED)
    assert refusal(grants(fabric), message) == "OtherNode"
    assert refusal(grants(fabric, "n2"), message) == ""


def test_another_fabrics_is_refused(fabric: Fabric, tmp_path: Path) -> None:
    stranger = Fabric(tmp_path, trust_domain=fabric.trust_domain)
    assert refusal(grants(fabric), Coordinator(stranger, fabric.clock).grant(7, WANTED)) == "SignerNotTrusted"
    elsewhere = Grants(fabric.ca.trust_bundle_pem, SpiffeId("other.example", NODE, "n1"))
    assert refusal(elsewhere, Coordinator(fabric, fabric.clock).grant(7, WANTED)) == "SignerNotTrusted"


@pytest.mark.parametrize("kind", [NODE, USER])
def test_a_node_or_a_person_signs_nothing(fabric: Fabric, kind: str) -> None:
    message = Coordinator(fabric, fabric.clock, name="n1", kind=kind).grant(7, WANTED)
    assert refusal(grants(fabric), message) == "SignerNotTrusted"


def test_nobody_signs_with_a_certificate_that_has_expired(fabric: Fabric) -> None:
    late = Coordinator(fabric, fabric.clock, ttl_ms=10_000, issued_ago_ms=60_000)
    message = late.grant(7, WANTED)
    said = grants(fabric).granted(message).lease  # an honest one says that it signs for the end of its certificate
    assert said.issued_at_ms < fabric.clock.now_ms() - 40_000
    lease = pb.AssignmentLease.FromString(message.lease.lease)
    lease.issued_at_ms, lease.expires_at_ms = fabric.clock.now_ms(), fabric.clock.now_ms() + HOUR_MS
    message.lease.CopyFrom(signed_by(late, lease.SerializeToString()))
    assert refusal(grants(fabric), message) == "SignerExpired"


def _rewritten(change: Callable[[pb.AssignmentLease], None]) -> Callable[[pb.SignedAssignments], None]:
    def alter(message: pb.SignedAssignments) -> None:
        lease = pb.AssignmentLease.FromString(message.lease.lease)
        change(lease)
        message.lease.lease = lease.SerializeToString(deterministic=True)

    return alter


def _later(lease: pb.AssignmentLease) -> None:
    lease.expires_at_ms += 1


def _reissued(lease: pb.AssignmentLease) -> None:
    lease.issued_at_ms += 1000
    lease.expires_at_ms += 1000


def _renumbered(lease: pb.AssignmentLease) -> None:
    lease.revision += 1


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (_rewritten(_later), "SignatureInvalid"),
        (_rewritten(_reissued), "SignatureInvalid"),
        (_rewritten(_renumbered), "SignatureInvalid"),
        (lambda m: m.ClearField("assignments"), "AssignmentsAltered"),
        (lambda m: setattr(m, "assignments", m.assignments.replace(b"image", b"imagf")), "AssignmentsAltered"),
        (lambda m: m.ClearField("lease"), "LeaseMalformed"),
        (lambda m: m.lease.ClearField("signature"), "SignatureInvalid"),
        (lambda m: m.lease.ClearField("certificates"), "SignerMissing"),
        (lambda m: setattr(m.lease, "lease", b"\xff"), "LeaseMalformed"),
        (_rewritten(lambda lease: setattr(lease, "issued_at_ms", 2**62)), "LeaseMalformed"),
        (_rewritten(lambda lease: setattr(lease, "issued_at_ms", -1)), "LeaseMalformed"),
    ],
)
def test_whatever_is_altered_is_noticed(fabric: Fabric, alter: Callable[..., None], reason: str) -> None:
    message = Coordinator(fabric, fabric.clock).grant(7, WANTED)
    alter(message)
    assert refusal(grants(fabric), message) == reason


def test_assignments_of_one_set_under_the_lease_of_another(fabric: Fabric) -> None:
    coordinator = Coordinator(fabric, fabric.clock)
    one, two = coordinator.grant(7, WANTED), coordinator.grant(8)
    two.assignments = one.assignments
    assert refusal(grants(fabric), two) == "AssignmentsAltered"


# The journal ------------------------------------------------------------------------------------------------


def _journal(fabric: Fabric, directory: Path) -> j.Journal:
    return j.Journal(directory, fabric="f", grants=grants(fabric))


async def _kept(fabric: Fabric, directory: Path, message: pb.SignedAssignments) -> None:
    journal = _journal(fabric, directory)
    journal.load()
    said = grants(fabric).granted(message)
    await journal.save_assignments(said.lease.revision, said.assignments, said)


async def test_the_journal_keeps_the_set_and_its_newest_lease(fabric: Fabric, tmp_path: Path) -> None:
    coordinator = Coordinator(fabric, fabric.clock)
    await _kept(fabric, tmp_path, coordinator.grant(7, WANTED))
    first = _journal(fabric, tmp_path).load()
    assert first.assignments == (WANTED,)
    assert first.lease is not None
    issued_at_ms = first.lease.issued_at_ms
    later = pb.AssignmentLease(
        trust_domain=fabric.trust_domain,
        node_id="n1",
        revision=7,
        assignments_sha256=first.lease.digest,
        issued_at_ms=issued_at_ms + 5,
        expires_at_ms=first.lease.expires_at_ms + 5,
    ).SerializeToString()
    journal = _journal(fabric, tmp_path)
    await journal.save_lease(grants(fabric).renewal(signed_by(coordinator, later)))
    await journal.save_time(TimePoint(5, 6, "boot"))
    found = _journal(fabric, tmp_path).load()
    assert found.lease is not None
    assert found.lease.issued_at_ms == issued_at_ms + 5
    assert found.time == TimePoint(5, 6, "boot")
    # A set that came later is not covered by the renewal of an earlier one.
    await _kept(fabric, tmp_path, coordinator.grant(8))
    assert _journal(fabric, tmp_path).load().lease.revision == 8  # type: ignore[union-attr]


def signed_by(coordinator: Coordinator, lease: bytes) -> pb.SignedLease:
    from cloudless.identity.signing import ASSIGNMENT_LEASE

    signature = coordinator.signer.sign(ASSIGNMENT_LEASE, lease)
    return pb.SignedLease(lease=lease, signature=signature.signature, certificates=signature.certificates)


@pytest.mark.parametrize("unsigned", [True, False], ids=["unsigned", "another node's"])
async def test_a_set_that_nobody_signed_for_this_node_is_read_as_none(
    fabric: Fabric, tmp_path: Path, unsigned: bool
) -> None:
    if unsigned:
        await j.Journal(tmp_path, fabric="f").save_assignments(7, [WANTED])
    else:
        other = Coordinator(fabric, fabric.clock, node="n2").grant(7, WANTED)
        (tmp_path / j.ASSIGNMENTS).write_bytes(j.frame(other.SerializeToString(), fabric="f", version=2))
    found = _journal(fabric, tmp_path).load()
    assert (found.assignments, found.revision, found.lease) == (None, 0, None)
    assert (tmp_path / f"{j.ASSIGNMENTS}.broken-1").exists()


async def test_a_forged_renewal_is_set_aside_and_the_set_kept(fabric: Fabric, tmp_path: Path) -> None:
    coordinator = Coordinator(fabric, fabric.clock)
    await _kept(fabric, tmp_path, coordinator.grant(7, WANTED))
    forged = coordinator.renewal()
    lease = pb.AssignmentLease.FromString(forged.lease)
    lease.issued_at_ms += 365 * 24 * HOUR_MS
    lease.expires_at_ms += 365 * 24 * HOUR_MS
    forged.lease = lease.SerializeToString()
    (tmp_path / j.LEASE).write_bytes(j.frame(forged.SerializeToString(), fabric="f", version=2))
    found = _journal(fabric, tmp_path).load()
    assert found.assignments == (WANTED,)
    assert found.lease is not None
    assert found.lease.issued_at_ms <= fabric.clock.now_ms()
    assert (tmp_path / f"{j.LEASE}.broken-1").exists()


async def test_a_journal_without_checks_reads_no_signed_set(fabric: Fabric, tmp_path: Path) -> None:
    await _kept(fabric, tmp_path, Coordinator(fabric, fabric.clock).grant(7, WANTED))
    assert j.Journal(tmp_path, fabric="f").load().assignments is None


def test_a_renewal_is_a_lease_alone(fabric: Fabric) -> None:
    coordinator = Coordinator(fabric, fabric.clock)
    said = grants(fabric).granted(coordinator.grant(7, WANTED))
    renewal = grants(fabric).renewal(coordinator.renewal())
    assert isinstance(renewal, Renewal)
    assert renewal.lease.digest == said.lease.digest
