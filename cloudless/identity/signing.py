"""Signatures of coordinators over what members keep: made with the key of a coordinator's own certificate, checked
against the fabric's root by whoever has it, at any time later.

A signature is ECDSA with SHA-256 over a context (a constant of each use, so that a signature is good for one purpose)
and the bytes. It travels with its chain: the coordinator's certificate and the issuing one. Checked is that the chain
leads to the fabric's root and was valid when the signature says it was made; that it has expired since is no fault.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from cloudless.errors import Unauthenticated
from cloudless.identity import spiffe
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.credentials import Credentials
from cloudless.identity.keys import PrivateKey, load_key_pem
from cloudless.identity.spiffe import SpiffeId

ASSIGNMENT_LEASE: Final = b"cloudless assignment lease v1\n"  # a context

CERTIFICATES_MAX: Final = 4
CERTIFICATE_BYTES_MAX: Final = 16 * 1024
_CHAINS_KEPT: Final = 16
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Signature:
    """`certificates` is DER: the signer's, then those between it and the root."""

    signature: bytes
    certificates: tuple[bytes, ...]


class Signer:
    """Signs with the certificate that a coordinator presents now; a renewed one is taken up by itself."""

    def __init__(self, certificate: ServerCertificate) -> None:
        self._certificate = certificate
        self._loaded: Credentials | None = None
        self._key: PrivateKey
        self._chain: tuple[bytes, ...] = ()

    @property
    def who(self) -> SpiffeId:
        return self._certificate.current.spiffe_id

    def moment(self, now_ms: int) -> int:
        """The time to sign under: now, or the nearest at which the certificate is valid. A host's clock may be set back
        behind the beginning of its certificate; what it signs then shall hold all the same."""
        current = self._certificate.current
        return min(max(now_ms, current.not_before_ms), max(current.expires_at_ms, current.not_before_ms))

    def sign(self, context: bytes, data: bytes) -> Signature:
        """Takes some 50 us. Raises Corrupt for credentials that cannot be used."""
        current = self._certificate.current
        if current is not self._loaded:
            self._key = load_key_pem(current.key_pem)
            chain = x509.load_pem_x509_certificates(current.chain_pem)
            self._chain = tuple(each.public_bytes(serialization.Encoding.DER) for each in chain)
            self._loaded = current
        return Signature(self._key.sign(context + data, _ALGORITHM), self._chain)


@dataclass(frozen=True, slots=True)
class _Trusted:
    who: SpiffeId
    key: ec.EllipticCurvePublicKey
    not_before_ms: int
    expires_at_ms: int


class Verifier:
    """Checks signatures against one fabric's root certificates. Chains that were found good are remembered."""

    def __init__(self, bundle_pem: bytes, trust_domain: str) -> None:
        roots = x509.load_pem_x509_certificates(bundle_pem)
        self._store = verification.Store(roots)
        self._trust_domain = trust_domain
        self._chains: dict[bytes, _Trusted] = {}

    def verify(self, context: bytes, data: bytes, signature: Signature, *, kind: str, at_ms: int) -> SpiffeId:
        """Who signed: a member of this `kind`, whose certificate was valid at `at_ms` (wall clock).

        Raises Unauthenticated with reason `SignatureInvalid` (altered, or of another key), `SignerNotTrusted` (of
        another authority, trust domain or kind), `SignerExpired` (not valid at that time), `SignerMissing` (no
        certificates).
        """
        signer = self._trusted(signature.certificates, at_ms=at_ms)
        if not signer.not_before_ms <= at_ms <= signer.expires_at_ms:
            raise _expired(signer.who)
        if signer.who.kind != kind or signer.who.trust_domain != self._trust_domain:
            raise Unauthenticated(
                f"{signer.who} may not sign this: a {kind} of {self._trust_domain} has to", reason="SignerNotTrusted"
            )
        try:
            signer.key.verify(signature.signature, context + data, _ALGORITHM)
        except InvalidSignature:
            raise Unauthenticated(f"the signature is not one of {signer.who}", reason="SignatureInvalid") from None
        return signer.who

    def _trusted(self, certificates: Sequence[bytes], *, at_ms: int) -> _Trusted:
        if not certificates:
            raise Unauthenticated("the signature comes without its signer's certificate", reason="SignerMissing")
        if len(certificates) > CERTIFICATES_MAX or any(len(each) > CERTIFICATE_BYTES_MAX for each in certificates):
            raise Unauthenticated("the signer's certificates are too long", reason="SignerNotTrusted")
        name = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in certificates)).digest()
        known = self._chains.get(name)
        if known is None:
            known = self._check(certificates, at_ms=at_ms)
            if len(self._chains) >= _CHAINS_KEPT:
                del self._chains[next(iter(self._chains))]
            self._chains[name] = known
        return known

    def _check(self, certificates: Sequence[bytes], *, at_ms: int) -> _Trusted:
        try:
            chain = [x509.load_der_x509_certificate(each) for each in certificates]
            names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
            who, key = spiffe.parse(uri), chain[0].public_key()
            in_time = all(_ms(c.not_valid_before_utc) <= at_ms <= _ms(c.not_valid_after_utc) for c in chain)
        except Exception as error:
            # The parsers raise a dozen types on hostile bytes; for the caller they are one case.
            raise Unauthenticated(
                f"the signer's certificate is not one of a member: {error}", reason="SignerNotTrusted"
            ) from None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise Unauthenticated(f"the key of {who} is not an elliptic curve key", reason="SignerNotTrusted")
        try:
            moment = datetime.datetime.fromtimestamp(at_ms / 1000, tz=datetime.UTC)
            policy = verification.PolicyBuilder().store(self._store).time(moment).build_client_verifier()
            path = policy.verify(chain[0], chain[1:]).chain
        except Exception as error:  # here too: of the path, of a time that is none, of what a certificate holds
            if not in_time:
                raise _expired(who) from None
            raise Unauthenticated(
                f"the certificate of {who} does not lead to this fabric's root: {error}", reason="SignerNotTrusted"
            ) from None
        return _Trusted(
            who,
            key,
            not_before_ms=max(_ms(each.not_valid_before_utc) for each in path),
            expires_at_ms=min(_ms(each.not_valid_after_utc) for each in path),
        )


def _expired(who: SpiffeId) -> Unauthenticated:
    return Unauthenticated(f"the certificate of {who} was not valid when this was signed", reason="SignerExpired")


def _ms(moment: datetime.datetime) -> int:
    return int(moment.timestamp() * 1000)
