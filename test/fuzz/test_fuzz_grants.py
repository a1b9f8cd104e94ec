"""Signed assignments, byte by byte: whatever a disk or a stream says, it is the coordinator's word or it is refused."""

from __future__ import annotations

import contextlib
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.agent import journal as j
from cloudless.agent.core import tenure
from cloudless.agent.core.tenure import Lease, TimePoint
from cloudless.agent.grants import Granted, Grants
from cloudless.api.v1 import session_pb2 as pb
from cloudless.core.leases import LEASE_MS_MAX, lease_ms, renewal_ms
from cloudless.core.model import Assignment
from cloudless.core.spec import Container, Disruption, WorkloadSpec
from cloudless.errors import Corrupt, Unauthenticated
from cloudless.identity.signing import ASSIGNMENT_LEASE
from cloudless.testing.identity import Fabric
from cloudless.testing.leased import Coordinator, grants

WANTED = Assignment("r1", "web", "default", 4, WorkloadSpec(containers=(Container("main", "image"),)))
TIMES = st.integers(-(2**63), 2**63 - 1)


@cache
def world() -> tuple[Coordinator, Grants]:
    with tempfile.TemporaryDirectory() as name:  # the authority is needed in memory alone
        fabric = Fabric(Path(name) / "ca")
        return Coordinator(fabric, fabric.clock), grants(fabric)


def read(message: pb.SignedAssignments) -> Granted | None:
    with contextlib.suppress(Corrupt, Unauthenticated):
        return world()[1].granted(message)
    return None


@settings(deadline=None)
@given(at=st.integers(0, 4000), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_what_is_said(at: int, bit: int) -> None:
    good = world()[0].grant(7, WANTED)
    data = bytearray(good.SerializeToString())
    data[at % len(data)] ^= 1 << bit
    try:
        message = pb.SignedAssignments.FromString(bytes(data))
    except Exception:  # the parser's own exception differs between protobuf's implementations
        return
    said = read(message)
    if said is not None:  # the bit was in what nobody reads, as an unknown field
        assert (said.assignments, said.lease) == ((WANTED,), world()[1].granted(good).lease)


@settings(deadline=None)
@given(
    lease=st.binary(max_size=80),
    signature=st.binary(max_size=80),
    certificates=st.lists(st.binary(max_size=80), max_size=6),
    assignments=st.binary(max_size=80),
)
def test_any_bytes_are_refused(lease: bytes, signature: bytes, certificates: list[bytes], assignments: bytes) -> None:
    inner = pb.SignedLease(lease=lease, signature=signature, certificates=certificates)
    assert read(pb.SignedAssignments(assignments=assignments, lease=inner)) is None


@settings(deadline=None)
@given(
    issued=TIMES,
    expires=TIMES,
    revision=TIMES,
    digest=st.binary(max_size=40),
    node=st.text(max_size=3),
    payload=st.binary(max_size=60),
)
def test_what_a_coordinator_signed_is_read_or_refused_and_never_breaks(
    issued: int, expires: int, revision: int, digest: bytes, node: str, payload: bytes
) -> None:
    """Even a coordinator that signs nonsense."""
    coordinator = world()[0]
    lease = pb.AssignmentLease(
        trust_domain="fabric.example",
        node_id=node or "n1",
        revision=revision,
        assignments_sha256=digest,
        issued_at_ms=issued,
        expires_at_ms=expires,
    ).SerializeToString()
    signature = coordinator.signer.sign(ASSIGNMENT_LEASE, lease)
    inner = pb.SignedLease(lease=lease, signature=signature.signature, certificates=signature.certificates)
    read(pb.SignedAssignments(assignments=payload, lease=inner))


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=300), version=st.sampled_from([1, 2]), framed=st.booleans())
def test_journals_of_any_bytes(data: bytes, version: int, framed: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file in (j.ASSIGNMENTS, j.LEASE, j.CLOCK, j.FACTS):
            (Path(name) / file).write_bytes(j.frame(data, fabric="f", version=version) if framed else data)
        found = j.Journal(Path(name), fabric="f", grants=world()[1]).load()
        assert (found.assignments, found.lease) == (None, None)


@given(payload=st.binary(max_size=60))
def test_times_of_any_bytes(payload: bytes) -> None:
    with contextlib.suppress(Corrupt):
        j.decode_time(payload)


durations = st.integers(-(2**63), 2**63 - 1)
replicas = st.lists(
    st.builds(
        lambda n, lease, stopping: Assignment(
            f"r{n}", spec=WorkloadSpec(disruption=Disruption(lease_duration_ms=lease)), stopping=stopping
        ),
        st.integers(0, 9),
        durations,
        st.booleans(),
    ),
    max_size=5,
)


@given(assignments=replicas, issued=st.integers(1, 2**50), longest=st.integers(0, 2**50), later=st.integers(0, 2**51))
def test_every_lease_ends_and_is_renewed_well_before(
    assignments: list[Assignment], issued: int, longest: int, later: int
) -> None:
    lease = Lease(1, b"", issued, issued + longest)
    now_ms = issued + later
    ends = tenure.next_end_ms(lease, assignments, now_ms=now_ms)
    assert ends is None or now_ms < ends <= issued + LEASE_MS_MAX
    for each in assignments:
        expired = tenure.expired(lease, each, now_ms=now_ms)
        assert expired == (not each.stopping and later >= min(longest, lease_ms(each.spec)))
        assert tenure.expired(lease, each, now_ms=now_ms + LEASE_MS_MAX) == (not each.stopping)
    interval = renewal_ms(assignments)
    assert (interval is None) == all(each.stopping for each in assignments)
    if interval is not None:
        assert 0 < 3 * interval <= min(lease_ms(each.spec) for each in assignments if not each.stopping)


@given(
    saved=st.none()
    | st.builds(TimePoint, st.integers(0, 2**50), st.integers(0, 2**45), st.sampled_from(["", "a", "b"])),
    wall=st.integers(-(2**50), 2**50),
    boottime=st.integers(0, 2**45),
    boot=st.sampled_from(["", "a"]),
)
def test_time_never_goes_back_behind_what_is_known(
    saved: TimePoint | None, wall: int, boottime: int, boot: str
) -> None:
    lease = Lease(1, b"", 1_000_000, 2_000_000)
    found = tenure.resumed(lease, saved, wall_ms=wall, boottime_ms=boottime, boot_id=boot)
    assert found.trusted_ms >= max(lease.issued_at_ms, saved.trusted_ms if saved else 0)
    same_boot = saved is not None and boot != "" and saved.boot_id == boot
    if not same_boot:
        assert found.trusted_ms >= wall
    assert found.at(boottime + 5) == found.trusted_ms + 5
