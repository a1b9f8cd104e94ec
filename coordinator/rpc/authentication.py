"""Who calls: the SPIFFE id of the certificate that TLS verified, checked against the replicated state."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter

from cloudless.clock import Clock
from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc.call import Call, Principal
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.core.model import RoleBinding
from cloudless.errors import CloudlessError, Unauthenticated
from cloudless.identity.ca import BACKDATE_MS_MAX
from cloudless.identity.csr import CertificateInfo, read_certificate
from cloudless.identity.spiffe import COORDINATOR, NODE, USER

REFUSED = Counter("cloudless_auth_failed_total", "Calls and enrolments whose caller was refused.", ["reason"])

_CACHE_SIZE = 20_000
# Certificates have whole seconds, entries have milliseconds.
_ROUNDING_MS = 2000


class Authentication:
    """Sets `call.principal`. Raises Unauthenticated with a reason: CertificateMissing, CertificateInvalid,
    CertificateExpired (TLS checks it at the handshake only), WrongTrustDomain, UserRevoked, UserUnknown,
    NodeRemoved, CertificateSuperseded, CoordinatorRemoved.

    Certificates are parsed once: what each said is kept by its bytes, and with it the principal that it stood for last.
    """

    def __init__(self, *, trust_domain: str, state: Callable[[], State], clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._state = state
        self._clock = clock
        self._known: OrderedDict[bytes, CertificateInfo] = OrderedDict()
        self._principals: dict[CertificateInfo, Principal] = {}  # of the known ones

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        call.principal = self.principal(self._certificate(call.context))
        return await proceed(call, request)

    def principal(self, certificate: CertificateInfo) -> Principal:
        """The caller that a verified certificate stands for, at this moment."""
        try:
            return self._principal(certificate)
        except CloudlessError as error:
            REFUSED.labels(error.reason).inc()
            raise

    def current_until_ms(self, principal: Principal) -> int:
        """Until when a stream that `principal` opened may go on, as things stand now: a node's certificate may
        have been renewed since. Raises Unauthenticated when it may not go on at all."""
        state = self._state()
        if principal.kind == NODE:
            node = state.nodes.get(principal.name)
            if node is None:
                raise _removed(principal.name)
            return max(principal.certificate_expires_at_ms, node.certificate_expires_at_ms)
        if principal.kind == USER:
            self._user_bindings(state, principal.name)
        elif principal.kind == COORDINATOR:
            _check_coordinator(state, principal.name)
        return principal.certificate_expires_at_ms

    def refreshed(self, principal: Principal) -> Principal:
        """The principal with the bindings that it has now. Raises Unauthenticated for a revoked user."""
        if principal.kind != USER:
            return principal
        return dataclasses.replace(principal, bindings=self._user_bindings(self._state(), principal.name))

    def _certificate(self, context: Any) -> CertificateInfo:
        pems = context.auth_context().get("x509_pem_cert")
        if not pems:
            REFUSED.labels("CertificateMissing").inc()
            raise Unauthenticated(
                "the call carries no client certificate",
                reason="CertificateMissing",
                remedy="use the certificate that enrolment or an administrator gave you",
            )
        pem: bytes = pems[0]
        info = self._known.get(pem)
        if info is None:
            info = self._known[pem] = read_certificate(pem)
            if len(self._known) > _CACHE_SIZE:
                _, oldest = self._known.popitem(last=False)
                self._principals.pop(oldest, None)
        return info

    def _principal(self, certificate: CertificateInfo) -> Principal:
        who = certificate.spiffe_id
        if certificate.expires_at_ms <= self._clock.now_ms():
            raise expired(who.kind)
        if who.trust_domain != self._trust_domain:
            raise Unauthenticated(f"{who} is not of the trust domain {self._trust_domain}", reason="WrongTrustDomain")
        bindings: tuple[RoleBinding, ...] = ()
        if who.kind == NODE:
            self._check_node(certificate)
        elif who.kind == USER:
            bindings = self._user_bindings(self._state(), who.name)
        elif who.kind == COORDINATOR:
            _check_coordinator(self._state(), who.name)
        principal = self._principals.get(certificate)
        if principal is None or principal.bindings is not bindings:
            principal = self._principals[certificate] = Principal(
                kind=who.kind,
                name=who.name,
                spiffe_id=str(who),
                certificate_expires_at_ms=certificate.expires_at_ms,
                certificate_ttl_ms=certificate.expires_at_ms - issued_at_ms(certificate),
                bindings=bindings,
            )
        return principal

    def _check_node(self, certificate: CertificateInfo) -> None:
        name = certificate.spiffe_id.name
        node = self._state().nodes.get(name)
        if node is None:
            raise _removed(name)
        # A device that was enrolled anew under this name has another key; the old device's certificate may
        # still be within its life. A key that was rotated by renewal has a later certificate than the enrolment.
        superseded = issued_at_ms(certificate) + _ROUNDING_MS < node.enrolled_at_ms
        if superseded and certificate.public_key_sha256 != node.public_key_sha256:
            raise Unauthenticated(
                f"node {name} was enrolled again with another key; this certificate is of the earlier device",
                reason="CertificateSuperseded",
                remedy="enrol this device under a name of its own with a new join token",
            )

    @staticmethod
    def _user_bindings(state: State, name: str) -> tuple[RoleBinding, ...]:
        user = state.users.get(name)
        if user is None:
            raise Unauthenticated(
                f"user {name} is not known here", reason="UserUnknown", remedy="ask an administrator for a context"
            )
        if user.revoked:
            raise Unauthenticated(f"user {name} has been revoked", reason="UserRevoked", remedy="ask an administrator")
        return user.bindings


def issued_at_ms(certificate: CertificateInfo) -> int:
    """When the authority signed it: it dates certificates back by a tenth of their life, at most five minutes."""
    life_ms = certificate.expires_at_ms - certificate.not_before_ms
    return certificate.not_before_ms + min(BACKDATE_MS_MAX, life_ms // 11)


def expired(kind: str) -> Unauthenticated:
    """The refusal of a certificate that has expired since the handshake."""
    remedy = "reconnect with the renewed certificate" if kind != USER else "ask an administrator for a new certificate"
    return Unauthenticated("the client certificate has expired", reason="CertificateExpired", remedy=remedy)


def _removed(name: str) -> Unauthenticated:
    return Unauthenticated(
        f"node {name} is not a member of this fabric",
        reason="NodeRemoved",
        remedy="to enrol it again, remove identity/ from its data folder and start it with a new join token",
    )


def _check_coordinator(state: State, name: str) -> None:
    """One that the state does not know (yet) may pass: it has a certificate of the fabric, and this coordinator may lag
    behind the log that admits it."""
    record = state.coordinators.get(name)
    if record is not None and record.removed:
        raise Unauthenticated(
            f"coordinator {name} was removed from this fabric",
            reason="CoordinatorRemoved",
            remedy="join again under another id and with an empty data folder",
        )
