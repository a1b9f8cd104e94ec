"""Mutual TLS 1.3 for plain connections (gRPC makes its own): both sides show a certificate of the fabric."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloudless.identity.credentials import Credentials


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Made of one set of credentials. Whoever does not hold a valid certificate of the same fabric fails in the
    handshake; who the holder is, is for the caller to check."""

    accepting: ssl.SSLContext
    dialling: ssl.SSLContext

    @classmethod
    def of(cls, credentials: Credentials) -> MutualTls:
        """Raises ssl.SSLError, OSError for credentials that cannot be used."""
        accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        accepting.num_tickets = 0  # every connection proves its certificate anew
        dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        dialling.check_hostname = True
        with _readable(credentials.chain_pem + credentials.key_pem) as path:
            for context in (accepting, dialling):
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=credentials.bundle_pem.decode("ascii"))
                context.load_cert_chain(path)
        return cls(accepting, dialling)


def failure_reason(error: BaseException) -> str:
    """What a failed handshake says about the other side, as a refusal's reason; "" where it says nothing (it hung up).

    CertificateMissing, CertificateExpired, CertificateNotYetValid, CertificateInvalid (of another purpose, or
    malformed), NotTrusted (of another authority), HandshakeTimeout, HandshakeFailed (no TLS 1.3, or it refused us)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, "CertificateInvalid")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ""
    if isinstance(error, ssl.SSLError):
        missing = "PEER_DID_NOT_RETURN_A_CERTIFICATE" in (error.reason or "")
        return "CertificateMissing" if missing else "HandshakeFailed"
    if isinstance(error, TimeoutError) or "handshake" in str(error):
        return "HandshakeTimeout"
    return ""


_BY_VERIFY_CODE = {  # X509_V_ERR_..., x509_vfy.h
    9: "CertificateNotYetValid",
    10: "CertificateExpired",
    2: "NotTrusted",
    7: "NotTrusted",
    18: "NotTrusted",
    19: "NotTrusted",
    20: "NotTrusted",
    21: "NotTrusted",
}


@contextmanager
def _readable(secret: bytes) -> Iterator[str]:
    """A path from which this process can read the secret; the ssl module takes nothing else. It lies in memory where
    the system can do that (Linux), else for an instant in a file of our own."""
    try:
        descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.NamedTemporaryFile(prefix=".credentials-") as file:  # mode 0600
            file.write(secret)
            file.flush()
            yield file.name
        return
    try:
        os.write(descriptor, secret)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
