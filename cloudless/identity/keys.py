"""Private keys: ECDSA on P-256, kept as PKCS#8 PEM in files of mode 0600."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloudless.errors import Corrupt
from cloudless.identity.files import write_private

PrivateKey = ec.EllipticCurvePrivateKey


def new_private_key() -> PrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key_pem(pem: bytes, *, source: str = "the key") -> PrivateKey:
    """The key in a PEM text. Raises Corrupt with reason `BadKey` naming `source` when it is none of ours."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except Exception as error:
        # OpenSSL and the parsers below it raise many types; all of them say the same here.
        raise Corrupt(f"{source} cannot be read as a private key", reason="BadKey") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Corrupt(f"{source} is not an elliptic curve key", reason="BadKey")
    return key


def ensure_private_key(path: Path) -> PrivateKey:
    """The key stored at `path`, made there at the first call. A device makes its key before it enrols, so that
    an enrolment whose answer was lost is repeated with the same key. Raises Corrupt or OSError."""
    try:
        return load_key_pem(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        key = new_private_key()
        write_private(path, key_pem(key))
        return key


def public_key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """Hex SHA-256 of the DER SubjectPublicKeyInfo: how the fabric names a key."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
