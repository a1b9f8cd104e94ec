"""The fabric's certificate authority: a root, and an issuing intermediate that signs members.

Its directory (mode 0700) holds `root.key`, `root.pem`, `issuing.key` and `issuing.pem`. `root.key` is needed only to
make a new intermediate: it may be moved to a safe place, and everything here goes on working.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudless.clock import Clock
from cloudless.errors import AlreadyExists, Corrupt, FailedPrecondition, InvalidArgument, NotFound
from cloudless.identity import csr as requests
from cloudless.identity.files import PRIVATE_DIRECTORY, make_private_directory, sync_directory, write_private
from cloudless.identity.keys import PrivateKey, key_pem, load_key_pem, new_private_key
from cloudless.identity.spiffe import COORDINATOR, SpiffeId, is_trust_domain

_YEAR_MS = 365 * 24 * 3_600_000
ROOT_TTL_MS = 10 * _YEAR_MS
ISSUING_TTL_MS = 2 * _YEAR_MS
BACKDATE_MS_MAX = 5 * 60_000
_FILES = ("root.pem", "issuing.key", "issuing.pem")


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A leaf and the intermediate that signed it (PEM, in this order). `serial` and `public_key_sha256` are hex."""

    chain_pem: bytes
    serial: str
    expires_at_ms: int
    public_key_sha256: str


def backdate_ms(ttl_ms: int) -> int:
    """How far before its issue a certificate becomes valid, for peers whose clock is behind: five minutes, but at
    most a tenth of its life, so that two thirds of the life still lie after the issue."""
    return min(BACKDATE_MS_MAX, ttl_ms // 10)


class CertificateAuthority:
    """Signs certificates for the members of one trust domain. Safe to use from several threads: it has no state
    that changes."""

    def __init__(
        self, *, root: x509.Certificate, issuing: x509.Certificate, issuing_key: PrivateKey, clock: Clock
    ) -> None:
        self._root = root
        self._issuing = issuing
        self._issuing_key = issuing_key
        self._clock = clock
        self.trust_bundle_pem: bytes = _pem(root)
        self.root_sha256: str = hashlib.sha256(root.public_bytes(serialization.Encoding.DER)).hexdigest()
        self.trust_domain: str = _trust_domain(root)
        self._issuing_begins_at_ms = _ms(issuing.not_valid_before_utc)
        self.issuing_expires_at_ms: int = _ms(issuing.not_valid_after_utc)

    @classmethod
    def create(cls, directory: Path, trust_domain: str, clock: Clock) -> CertificateAuthority:
        """Makes a new authority. All of it appears in one step: what a crash in the midst leaves behind is swept away
        by the next attempt. Raises AlreadyExists when the directory holds files, InvalidArgument for a bad trust
        domain, OSError."""
        if not is_trust_domain(trust_domain):
            raise InvalidArgument(
                f"{trust_domain[:80]!r} is no trust domain",
                reason="BadTrustDomain",
                remedy="use lower-case DNS labels such as fabric.example",
            )
        if directory.exists() and any(directory.iterdir()):
            raise AlreadyExists(f"{directory} already holds an authority or other files", reason="CaExists")
        make_private_directory(directory.parent)
        draft = directory.with_name(f".{directory.name}.new")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=PRIVATE_DIRECTORY)
        root_key, issuing_key = new_private_key(), new_private_key()
        root = _authority_certificate(root_key, root_key, None, trust_domain=trust_domain, now_ms=clock.now_ms())
        issuing = _authority_certificate(issuing_key, root_key, root, trust_domain=trust_domain, now_ms=clock.now_ms())
        write_private(draft / "root.key", key_pem(root_key))
        write_private(draft / "root.pem", _pem(root))
        write_private(draft / "issuing.key", key_pem(issuing_key))
        write_private(draft / "issuing.pem", _pem(issuing))
        draft.rename(directory)
        sync_directory(directory.parent)
        return cls(root=root, issuing=issuing, issuing_key=issuing_key, clock=clock)

    @classmethod
    def load(cls, directory: Path, clock: Clock) -> CertificateAuthority:
        """Opens an authority. With `root.key` present, an intermediate past two thirds of its life is re-signed for
        the same key. Raises NotFound with reason `CaMissing` when there is none, Corrupt with reason `CaDamaged`
        when files are missing or do not belong together."""
        present = [name for name in _FILES if (directory / name).exists()]
        if not present and not (directory / "root.key").exists():
            raise NotFound(f"{directory} holds no certificate authority", reason="CaMissing")
        if len(present) != len(_FILES):
            missing = ", ".join(sorted(set(_FILES) - set(present)))
            raise Corrupt(
                f"the authority in {directory} lacks {missing}", reason="CaDamaged", remedy="restore the directory"
            )
        root = _load_certificate(directory / "root.pem")
        issuing = _load_certificate(directory / "issuing.pem")
        issuing_key = load_key_pem((directory / "issuing.key").read_bytes(), source=str(directory / "issuing.key"))
        try:
            issuing.verify_directly_issued_by(root)
        except Exception as error:
            raise Corrupt(f"{directory}: issuing.pem was not signed by root.pem", reason="CaDamaged") from error
        if issuing.public_key() != issuing_key.public_key():
            raise Corrupt(f"{directory}: issuing.key does not belong to issuing.pem", reason="CaDamaged")
        now_ms = clock.now_ms()
        begin_ms, end_ms = _ms(issuing.not_valid_before_utc), _ms(issuing.not_valid_after_utc)
        if now_ms >= begin_ms + (end_ms - begin_ms) * 2 // 3 and (directory / "root.key").exists():
            root_key = load_key_pem((directory / "root.key").read_bytes(), source=str(directory / "root.key"))
            if root_key.public_key() != root.public_key():
                raise Corrupt(f"{directory}: root.key does not belong to root.pem", reason="CaDamaged")
            issuing = _authority_certificate(
                issuing_key, root_key, root, trust_domain=_trust_domain(root), now_ms=now_ms
            )
            write_private(directory / "issuing.pem", _pem(issuing))
        return cls(root=root, issuing=issuing, issuing_key=issuing_key, clock=clock)

    def sign_csr(
        self,
        csr_der: bytes,
        expected: SpiffeId,
        ttl_ms: int,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
    ) -> IssuedCertificate:
        """Signs a leaf for `expected`; of the request only its key is taken. It ends after `ttl_ms` or with the
        intermediate, whichever is first. Names and addresses are for coordinators only (ValueError otherwise).

        Raises InvalidArgument with reason `CsrInvalid` or `CsrIdMismatch` (the request asks for another id), and
        FailedPrecondition with reason `IssuerExpired` or `IssuerNotYetValid`.
        """
        if expected.kind != COORDINATOR and (dns_names or ip_addresses):
            raise ValueError("only a coordinator's certificate carries DNS names or addresses")
        if expected.trust_domain != self.trust_domain:
            raise ValueError(f"{expected} is not in the trust domain {self.trust_domain}")
        info, key = requests.open_csr(csr_der)
        if info.spiffe_id != expected:
            raise InvalidArgument(
                f"the certificate request is for {info.spiffe_id}, not for {expected}", reason="CsrIdMismatch"
            )
        now_ms = self._clock.now_ms()
        if now_ms >= self.issuing_expires_at_ms:
            raise FailedPrecondition(
                "the authority's issuing certificate has expired",
                reason="IssuerExpired",
                remedy="put root.key back and restart the coordinator, which signs a new one",
            )
        if now_ms < self._issuing_begins_at_ms:
            raise FailedPrecondition(
                "the authority's issuing certificate is not valid yet: this host's clock is behind",
                reason="IssuerNotYetValid",
                remedy="set the clock",
            )
        ttl_ms = max(ttl_ms, 1000)
        begin_ms = max(now_ms - backdate_ms(ttl_ms), self._issuing_begins_at_ms)
        # Certificates have whole seconds.
        begin_ms = begin_ms // 1000 * 1000
        expires_at_ms = max(min(now_ms + ttl_ms, self.issuing_expires_at_ms) // 1000 * 1000, begin_ms + 1000)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(expected))]
        names += [x509.DNSName(name) for name in dns_names]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip_addresses]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if expected.kind == COORDINATOR:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        serial = x509.random_serial_number()
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, expected.name)]))
            .issuer_name(self._issuing.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(_time(begin_ms))
            .not_valid_after(_time(expires_at_ms))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_authority_key_identifier(self._issuing_key), critical=False)
            .sign(self._issuing_key, hashes.SHA256())
        )
        return IssuedCertificate(
            chain_pem=_pem(leaf) + _pem(self._issuing),
            serial=f"{serial:x}",
            expires_at_ms=expires_at_ms,
            public_key_sha256=info.public_key_sha256,
        )


def _authority_certificate(
    key: PrivateKey, signer: PrivateKey, issuer: x509.Certificate | None, *, trust_domain: str, now_ms: int
) -> x509.Certificate:
    """The root (issuer None: signed by itself) or an intermediate that may sign leaves only."""
    title = "Cloudless root" if issuer is None else "Cloudless issuing"
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Cloudless"), x509.NameAttribute(NameOID.COMMON_NAME, title)]
    )
    begin_ms = now_ms - BACKDATE_MS_MAX
    end_ms = now_ms + (ROOT_TTL_MS if issuer is None else ISSUING_TTL_MS)
    if issuer is not None:
        begin_ms = max(begin_ms, _ms(issuer.not_valid_before_utc))
        end_ms = min(end_ms, _ms(issuer.not_valid_after_utc))
    domain = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(begin_ms))
        .not_valid_after(_time(end_ms))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1 if issuer is None else 0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([domain]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key_identifier(signer), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _trust_domain(root: x509.Certificate) -> str:
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Corrupt("the root certificate names no trust domain", reason="CaDamaged") from error
    return uri.removeprefix("spiffe://")


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = certificate.public_key()
    except ValueError as error:
        raise Corrupt(f"{path} cannot be read as a certificate", reason="CaDamaged") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Corrupt(f"{path} is not an elliptic curve certificate", reason="CaDamaged")
    return certificate


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _ms(moment: datetime.datetime) -> int:
    return int(moment.timestamp() * 1000)


def _time(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms // 1000, tz=datetime.UTC)
