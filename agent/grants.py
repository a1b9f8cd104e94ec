"""What a node makes of signed assignments: whether they are a coordinator's word, and meant for it.

Checked when they arrive, and again when they are read from the journal: whoever can write to the node's disk, and has
no coordinator's key, can neither alter what the node starts, nor use another node's set, nor make a lease last longer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from prometheus_client import Counter

from cloudless.agent.core.tenure import Lease
from cloudless.api.v1 import session_pb2 as pb
from cloudless.api.v1.convert import from_proto
from cloudless.core.model import Assignment
from cloudless.errors import Corrupt, Unauthenticated
from cloudless.identity.signing import ASSIGNMENT_LEASE, Signature, Verifier
from cloudless.identity.spiffe import COORDINATOR, SpiffeId

_TIME_MS_MAX: Final = 2**53

REFUSED = Counter(
    "cloudless_assignments_refused_total", "Signed assignments and renewals that were refused.", ["reason"]
)


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease whose signature was checked; `message` is what to keep, with its certificates."""

    lease: Lease
    message: pb.SignedLease


@dataclass(frozen=True, slots=True)
class Granted:
    """A set that a coordinator signed for this node; `message` is what to keep, with its certificates."""

    lease: Lease
    assignments: tuple[Assignment, ...]
    message: pb.SignedAssignments


class Grants:
    """Checks what is said to be signed for `node`, against the fabric's root certificates."""

    def __init__(self, bundle_pem: bytes, node: SpiffeId) -> None:
        self._node = node
        self._verifier = Verifier(bundle_pem, node.trust_domain)

    def renewal(self, message: pb.SignedLease) -> Renewal:
        """Raises Unauthenticated (see `identity.signing`; and `OtherNode`: it is not for this one), Corrupt
        (`LeaseMalformed`)."""
        try:
            lease = pb.AssignmentLease.FromString(message.lease)
        except DecodeError:
            raise Corrupt("not an assignment lease", reason="LeaseMalformed") from None
        if not 0 < lease.issued_at_ms <= lease.expires_at_ms < _TIME_MS_MAX or lease.revision < 0:
            raise Corrupt("the times of the lease make no sense", reason="LeaseMalformed")
        signature = Signature(message.signature, tuple(message.certificates))
        self._verifier.verify(ASSIGNMENT_LEASE, message.lease, signature, kind=COORDINATOR, at_ms=lease.issued_at_ms)
        if (lease.trust_domain, lease.node_id) != (self._node.trust_domain, self._node.name):
            raise Unauthenticated(
                f"these assignments are for {lease.node_id} of {lease.trust_domain}", reason="OtherNode"
            )
        return Renewal(
            Lease(lease.revision, lease.assignments_sha256, lease.issued_at_ms, lease.expires_at_ms), message
        )

    def granted(self, message: pb.SignedAssignments) -> Granted:
        """As `renewal`, for a whole set. Raises Unauthenticated with reason `AssignmentsAltered`, too."""
        lease = self.renewal(message.lease).lease
        if hashlib.sha256(message.assignments).digest() != lease.digest:
            raise Unauthenticated("these are not the assignments that were signed", reason="AssignmentsAltered")
        try:
            listed = pb.AssignmentList.FromString(message.assignments)
            assignments = tuple(from_proto(each, Assignment) for each in listed.assignments)
        except (DecodeError, ValueError, TypeError) as error:
            raise Corrupt(f"not a list of assignments: {error}", reason="AssignmentsMalformed") from None
        return Granted(lease, assignments, message)
