"""Certificate requests (PKCS#10) and what a member's certificate says. Both come from outside and are distrusted."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudless.errors import InvalidArgument, Unauthenticated
from cloudless.identity import spiffe
from cloudless.identity.keys import PrivateKey, public_key_sha256
from cloudless.identity.spiffe import SpiffeId

CSR_MAX_BYTES = 8 * 1024
CERTIFICATE_MAX_BYTES = 64 * 1024
_CURVES = ("secp256r1", "secp384r1")  # what TLS peers accept by default


@dataclass(frozen=True, slots=True)
class CsrInfo:
    """A request whose signature was found valid. `public_key_sha256` is hex, over the SubjectPublicKeyInfo."""

    spiffe_id: SpiffeId
    public_key_sha256: str


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a member's leaf certificate says. `serial` is hex; times are wall clock ms."""

    spiffe_id: SpiffeId
    public_key_sha256: str
    serial: str
    not_before_ms: int
    expires_at_ms: int


def make_csr(key: PrivateKey, spiffe_id: SpiffeId) -> bytes:
    """A DER request for this id, signed with the key that shall be certified."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    uri = x509.UniformResourceIdentifier(str(spiffe_id))
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_csr(der: bytes) -> CsrInfo:
    """Checks a request: parses, its signature is valid, its key is P-256 or P-384, exactly one URI name, a SPIFFE id.
    Raises InvalidArgument with reason `CsrInvalid`."""
    return open_csr(der)[0]


def open_csr(der: bytes) -> tuple[CsrInfo, ec.EllipticCurvePublicKey]:
    """As `read_csr`, with the key to be certified."""
    if len(der) > CSR_MAX_BYTES:
        raise InvalidArgument(f"the certificate request is longer than {CSR_MAX_BYTES} bytes", reason="CsrInvalid")
    try:
        csr = x509.load_der_x509_csr(der)
        key = csr.public_key()
        valid = csr.is_signature_valid
        uris = _uris(csr.extensions)
    except Exception as error:
        # The parsers raise a dozen types on hostile bytes; for the caller they are one case.
        raise InvalidArgument("the certificate request cannot be parsed", reason="CsrInvalid") from error
    if not valid:
        raise InvalidArgument("the certificate request's signature is not valid", reason="CsrInvalid")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InvalidArgument(
            "the certificate request's key is not supported", reason="CsrInvalid", remedy="use a P-256 key"
        )
    if len(uris) != 1:
        raise InvalidArgument(f"the certificate request has {len(uris)} URI names, not one", reason="CsrInvalid")
    try:
        spiffe_id = spiffe.parse(uris[0])
    except InvalidArgument as error:
        raise InvalidArgument(f"certificate request: {error.message}", reason="CsrInvalid") from None
    return CsrInfo(spiffe_id, public_key_sha256(key)), key


def read_certificate(pem: bytes) -> CertificateInfo:
    """What the first certificate of a PEM text says. Signature and validity are not checked: for certificates that
    TLS has verified, or one's own. Raises Unauthenticated with reason `CertificateInvalid`."""
    if len(pem) > CERTIFICATE_MAX_BYTES:
        raise Unauthenticated("the certificate is too long", reason="CertificateInvalid")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
        uris = _uris(certificate.extensions)
        serial = f"{certificate.serial_number:x}"
        not_before_ms = int(certificate.not_valid_before_utc.timestamp() * 1000)
        expires_at_ms = int(certificate.not_valid_after_utc.timestamp() * 1000)
    except Exception as error:
        raise Unauthenticated("the certificate cannot be parsed", reason="CertificateInvalid") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(uris) != 1:
        raise Unauthenticated("the certificate is not of a fabric's member", reason="CertificateInvalid")
    try:
        spiffe_id = spiffe.parse(uris[0])
    except InvalidArgument as error:
        raise Unauthenticated(f"certificate: {error.message}", reason="CertificateInvalid") from None
    return CertificateInfo(spiffe_id, public_key_sha256(key), serial, not_before_ms, expires_at_ms)


def _uris(extensions: x509.Extensions) -> list[str]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)
