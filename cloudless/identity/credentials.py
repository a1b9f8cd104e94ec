"""What one member holds: its key, its certificate chain and the fabric's trust bundle.

Stored as one JSON file, so that key and certificate can never be of different generations after a crash. Reading
it needs no certificate parser: the times stand beside the certificate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cloudless.errors import Corrupt, NotFound
from cloudless.identity.files import make_private_directory, write_private
from cloudless.identity.spiffe import SpiffeId, parse

FILE_NAME = "credentials.json"
_MAX_BYTES = 256 * 1024


def renew_at_ms(*, not_before_ms: int, expires_at_ms: int) -> int:
    """Wall clock ms at which two thirds of a certificate's life are over."""
    return not_before_ms + (expires_at_ms - not_before_ms) * 2 // 3


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM texts of one member. `chain_pem` is the leaf, then the intermediate. Times are wall clock ms; both 0 when
    not known (credentials read from a context file)."""

    trust_domain: str
    spiffe_id: SpiffeId
    key_pem: bytes
    chain_pem: bytes
    bundle_pem: bytes
    expires_at_ms: int = 0
    not_before_ms: int = 0

    def __repr__(self) -> str:
        return f"Credentials({self.spiffe_id}, expires_at_ms={self.expires_at_ms})"  # never the key

    @property
    def renew_at_ms(self) -> int:
        """Wall clock ms at which it should be renewed: two thirds of its life."""
        return renew_at_ms(not_before_ms=self.not_before_ms, expires_at_ms=self.expires_at_ms)

    @classmethod
    def from_pem(cls, *, key_pem: bytes, chain_pem: bytes, bundle_pem: bytes) -> Credentials:
        """Reads id and times from the leaf. Raises Unauthenticated with reason `CertificateInvalid` for a
        certificate that is not of a member, or not of this key."""
        from cloudless.errors import Unauthenticated
        from cloudless.identity.csr import read_certificate
        from cloudless.identity.keys import load_key_pem, public_key_sha256

        info = read_certificate(chain_pem)
        if public_key_sha256(load_key_pem(key_pem).public_key()) != info.public_key_sha256:
            raise Unauthenticated(
                f"the certificate of {info.spiffe_id} does not belong to the key", reason="CertificateInvalid"
            )
        return cls(
            trust_domain=info.spiffe_id.trust_domain,
            spiffe_id=info.spiffe_id,
            key_pem=key_pem,
            chain_pem=chain_pem,
            bundle_pem=bundle_pem,
            expires_at_ms=info.expires_at_ms,
            not_before_ms=info.not_before_ms,
        )

    def renewed(self, chain_pem: bytes) -> Credentials:
        """The same member and key with a new certificate. Raises Unauthenticated when the certificate is for another
        id or key."""
        from cloudless.errors import Unauthenticated

        fresh = Credentials.from_pem(key_pem=self.key_pem, chain_pem=chain_pem, bundle_pem=self.bundle_pem)
        if fresh.spiffe_id != self.spiffe_id:
            raise Unauthenticated(
                f"the renewed certificate is for {fresh.spiffe_id}, not for {self.spiffe_id}",
                reason="CertificateInvalid",
            )
        return fresh

    def save(self, directory: Path) -> None:
        """Writes `credentials.json` (mode 0600) in one durable step; makes the directory (0700). Raises OSError."""
        make_private_directory(directory)
        document = {
            "spiffe_id": str(self.spiffe_id),
            "not_before_ms": self.not_before_ms,
            "expires_at_ms": self.expires_at_ms,
            "certificate_chain": self.chain_pem.decode("ascii"),
            "trust_bundle": self.bundle_pem.decode("ascii"),
            "key": self.key_pem.decode("ascii"),
        }
        write_private(directory / FILE_NAME, (json.dumps(document, indent=2) + "\n").encode())


def load(directory: Path) -> Credentials:
    """What `Credentials.save` wrote. Raises NotFound with reason `NoCredentials` (not enrolled yet), Corrupt with
    reason `CredentialsDamaged`, OSError."""
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist: not enrolled", reason="NoCredentials") from None
    return decode(data, source=str(path))


def decode(data: bytes, *, source: str) -> Credentials:
    """The credentials in a file's bytes. Raises Corrupt with reason `CredentialsDamaged` naming `source`."""
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError("too long")
        document = json.loads(data)
        spiffe_id = parse(str(document["spiffe_id"]))
        times = document["expires_at_ms"], document["not_before_ms"]
        if any(type(time) is not int for time in times):
            raise ValueError("times are whole numbers")
        return Credentials(
            trust_domain=spiffe_id.trust_domain,
            spiffe_id=spiffe_id,
            key_pem=document["key"].encode("ascii"),
            chain_pem=document["certificate_chain"].encode("ascii"),
            bundle_pem=document["trust_bundle"].encode("ascii"),
            expires_at_ms=times[0],
            not_before_ms=times[1],
        )
    except Exception as error:
        # Any shape of JSON may stand here, and each wrong one fails in its own way.
        raise Corrupt(
            f"{source} cannot be read as credentials: {error}",
            reason="CredentialsDamaged",
            remedy="restore it, or remove it and enrol again with a new join token",
        ) from error
