"""A throw-away fabric identity for tests: an authority, and credentials for whom it takes."""

from __future__ import annotations

from pathlib import Path

from cloudless.clock import Clock, SystemClock
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.keys import PrivateKey, key_pem, new_private_key
from cloudless.identity.spiffe import COORDINATOR, SpiffeId, server_name


class Fabric:
    """An authority in `directory`, a new one unless one is there. Members are real; only how they came to their
    certificates is short-cut."""

    def __init__(self, directory: Path, *, trust_domain: str = "fabric.example", clock: Clock | None = None) -> None:
        self.directory = directory
        self.trust_domain = trust_domain
        self.clock = clock or SystemClock()
        if (directory / "root.pem").exists():
            self.ca = CertificateAuthority.load(directory, self.clock)
        else:
            self.ca = CertificateAuthority.create(directory, trust_domain, self.clock)

    def member(
        self,
        kind: str,
        name: str,
        *,
        ttl_ms: int = 3_600_000,
        issued_ago_ms: int = 0,
        key: PrivateKey | None = None,
    ) -> Credentials:
        """Credentials signed `issued_ago_ms` ago: with a shorter life they have expired, with a negative one they
        are not valid yet. Coordinators get the name that clients expect."""
        key = key or new_private_key()
        who = SpiffeId(self.trust_domain, kind, name)
        authority = self.ca
        if issued_ago_ms:
            authority = CertificateAuthority.load(self.directory, _Past(self.clock, issued_ago_ms))
        names = (server_name(self.trust_domain),) if kind == COORDINATOR else ()
        issued = authority.sign_csr(make_csr(key, who), who, ttl_ms, names)
        return Credentials.from_pem(
            key_pem=key_pem(key), chain_pem=issued.chain_pem, bundle_pem=self.ca.trust_bundle_pem
        )


class _Past:
    def __init__(self, clock: Clock, ago_ms: int) -> None:
        self._clock = clock
        self._ago_ms = ago_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() - self._ago_ms

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms()
