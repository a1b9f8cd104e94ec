"""Signed assignments, the coordinator's side: what a node may keep, and for how long, renewed while it is in contact.

One `Granting` per session. A set is signed once, when it is sent; from then on a renewal goes out now and then
(`leases.renewal_ms`), on the heels of a heartbeat, so that only a node that is heard is renewed, and never with the
specs. A coordinator that knows no leader renews nothing: a fabric that has lost its majority is one that nodes have no
contact with. Each session's renewals have a phase of their own, so that those of nodes that came together drift apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter

from cloudless.api.v1 import session_pb2
from cloudless.api.v1.convert import fill
from cloudless.clock import Clock
from cloudless.core.leases import lease_ms, renewal_ms
from cloudless.core.model import Assignment
from cloudless.identity.signing import ASSIGNMENT_LEASE, Signer

_PHASE_MIN: Final = 0.75  # of the interval of renewals

RENEWALS = Counter("cloudless_assignment_leases_renewed_total", "Leases of assignments renewed for connected nodes.")


class Granting:
    """What one node was told last in this session, and when that has to be renewed. Event loop only."""

    def __init__(self, signer: Signer, node_id: str, clock: Clock) -> None:
        self._signer = signer
        self._node_id = node_id
        self._clock = clock
        self._lease: session_pb2.AssignmentLease | None = None
        self._longest_ms = 0
        self._interval_ms: int | None = None
        self._due_at_ms = 0
        self._shown: tuple[bytes, ...] = ()  # the certificates that the node has

    def grant(self, revision: int, assignments: Iterable[Assignment]) -> session_pb2.SignedAssignments:
        """The set to send now, in place of the one before."""
        assignments = tuple(assignments)
        listed = session_pb2.AssignmentList()
        for assignment in assignments:
            fill(assignment, listed.assignments.add())
        data = listed.SerializeToString(deterministic=True)
        self._longest_ms = max((lease_ms(each.spec) for each in assignments), default=0)
        self._interval_ms = renewal_ms(assignments)
        self._lease = session_pb2.AssignmentLease(
            trust_domain=self._signer.who.trust_domain,
            node_id=self._node_id,
            revision=revision,
            assignments_sha256=hashlib.sha256(data).digest(),
        )
        return session_pb2.SignedAssignments(assignments=data, lease=self._signed(self._lease))

    def renewal_due(self) -> bool:
        """Whether it is time for `renewal`."""
        due = self._lease is not None and self._interval_ms is not None
        return due and self._clock.monotonic_ms() >= self._due_at_ms

    def renewal(self) -> session_pb2.SignedLease:
        """The same set for longer. Only while `renewal_due`."""
        assert self._lease is not None, "nothing was granted yet"
        RENEWALS.inc()
        return self._signed(self._lease)

    def _signed(self, lease: session_pb2.AssignmentLease) -> session_pb2.SignedLease:
        lease.issued_at_ms = self._signer.moment(self._clock.now_ms())
        lease.expires_at_ms = lease.issued_at_ms + self._longest_ms
        data = lease.SerializeToString(deterministic=True)
        signature = self._signer.sign(ASSIGNMENT_LEASE, data)
        certificates = () if signature.certificates == self._shown else signature.certificates
        self._shown = signature.certificates
        if self._interval_ms is not None:
            wait_ms = round(self._interval_ms * (_PHASE_MIN + (1 - _PHASE_MIN) * self._phase(lease.issued_at_ms)))
            self._due_at_ms = self._clock.monotonic_ms() + wait_ms
        return session_pb2.SignedLease(lease=data, signature=signature.signature, certificates=certificates)

    def _phase(self, issued_at_ms: int) -> float:
        """In [0, 1): of this node and this renewal, the same in every run of a simulation."""
        digest = hashlib.sha256(f"{self._node_id}/{issued_at_ms}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32
