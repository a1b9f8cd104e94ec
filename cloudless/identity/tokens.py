"""Join tokens: signed JWTs (RFC 7519) under EdDSA (RFC 8037), the one algorithm that is accepted.

A token says where to enrol (`endpoints`), which root to trust (`ca`, hex SHA-256 of its DER form) and what the device
becomes (name pattern, region, zone, labels). How often it was used, and whether it was revoked, is replicated
state and is decided there, not here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudless.core.model import JoinToken
from cloudless.errors import Corrupt, NotFound, TokenRefused
from cloudless.identity.files import make_private_directory, write_private

ALGORITHM = "EdDSA"
KEY_FILE = "tokens.key"
TOKEN_MAX_BYTES = 16 * 1024


def issuer_of(trust_domain: str) -> str:
    """The `iss` of a fabric's tokens."""
    return f"cloudless:{trust_domain}"


def audience_of(trust_domain: str) -> str:
    """The `aud` of a fabric's join tokens."""
    return f"cloudless-enroll:{trust_domain}"


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says. `root_sha256` is hex; times are wall clock ms; `node_pattern` is a shell pattern."""

    id: str
    issuer: str
    audience: str
    trust_domain: str
    node_pattern: str
    issued_at_ms: int
    expires_at_ms: int
    max_uses: int
    root_sha256: str
    endpoints: tuple[str, ...] = ()
    region: str = ""
    zone: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


class TokenSigner:
    """Signs and checks tokens with the coordinator's own Ed25519 key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()
        raw = self._public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.key_id: str = hashlib.sha256(raw).hexdigest()[:16]

    @classmethod
    def create(cls, directory: Path) -> TokenSigner:
        """Makes the key file (mode 0600) and its directory; an existing key is kept and loaded."""
        try:
            return cls.load(directory)
        except NotFound:
            make_private_directory(directory)
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(directory / KEY_FILE, pem)
            return cls(key)

    @classmethod
    def load(cls, directory: Path) -> TokenSigner:
        """Raises NotFound with reason `TokenKeyMissing`, Corrupt with reason `BadKey`, OSError."""
        path = directory / KEY_FILE
        try:
            pem = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{path} does not exist", reason="TokenKeyMissing") from None
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except Exception as error:
            raise Corrupt(f"{path} cannot be read as a private key", reason="BadKey") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise Corrupt(f"{path} is not an Ed25519 key", reason="BadKey")
        return cls(key)

    def sign(self, token: JoinToken, *, trust_domain: str, root_sha256: str, endpoints: Sequence[str]) -> str:
        """The JWT for a token. `endpoints` are addresses (host:port) of the enrolment listener."""
        payload = {
            "iss": issuer_of(trust_domain),
            "aud": audience_of(trust_domain),
            "sub": token.node_pattern,
            "jti": token.id,
            "iat": _numeric_date(token.created_at_ms),
            "exp": _numeric_date(token.expires_at_ms),
            "uses": token.max_uses,
            "region": token.region,
            "zone": token.zone,
            "labels": dict(token.labels),
            "td": trust_domain,
            "ca": root_sha256,
            "endpoints": list(endpoints),
        }
        return jwt.encode(payload, self._key, algorithm=ALGORITHM, headers={"kid": self.key_id})

    def verify(self, token: str, *, audience: str, now_ms: int) -> TokenClaims:
        """The claims of a token that this fabric signed, for this audience, not yet expired.

        Raises TokenRefused with reason `TokenAltered` (not a token, or its signature is not ours),
        `TokenWrongIssuer`, `TokenWrongAudience` or `TokenExpired`.
        """
        header, claims = _read(token)
        issuer = issuer_of(audience.partition(":")[2])
        if header.get("alg") != ALGORITHM:
            raise TokenRefused("the join token is not signed the way this fabric signs", reason="TokenAltered")
        try:
            jwt.decode(token, self._public, algorithms=[ALGORITHM], options=_SIGNATURE_ONLY)
        except Exception as error:
            # A token of another fabric fails here too: say so, which its own claims can tell without being trusted.
            if header.get("kid") != self.key_id:
                _check_addressee(claims, audience=audience, issuer=issuer)
            raise TokenRefused(
                "the join token's signature is not valid: it was altered or cut",
                reason="TokenAltered",
                remedy="copy the whole token, or create a new one",
            ) from error
        _check_addressee(claims, audience=audience, issuer=issuer)
        if now_ms >= claims.expires_at_ms:
            raise TokenRefused(
                f"the join token {claims.id} has expired",
                reason="TokenExpired",
                remedy="create a new one with `cloudlessctl token create`",
            )
        return claims


# Audience, issuer and expiry are checked by us: against an injected time, and with reasons of our own.
_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
_NOTHING_CHECKED: Any = {**_SIGNATURE_ONLY, "verify_signature": False}


def peek(token: str) -> TokenClaims:
    """What a token says, its signature unchecked: a device reads where to enrol and which root to expect, and the
    coordinator judges the rest. Raises TokenRefused with reason `TokenAltered` for what is no token at all."""
    return _read(token)[1]


def _check_addressee(claims: TokenClaims, *, audience: str, issuer: str) -> None:
    if claims.audience != audience:
        raise TokenRefused(
            f"the join token is meant for {claims.audience[:200]!r}, not for {audience!r}",
            reason="TokenWrongAudience",
            remedy="create the token on this fabric",
        )
    if claims.issuer != issuer:
        raise TokenRefused(
            f"the join token was issued by {claims.issuer[:200]!r}, not by {issuer!r}",
            reason="TokenWrongIssuer",
            remedy="create the token on this fabric",
        )


def _numeric_date(ms: int) -> int | float:
    return ms // 1000 if ms % 1000 == 0 else ms / 1000


def _read(token: str) -> tuple[dict[str, Any], TokenClaims]:
    try:
        token.encode("ascii")
        if len(token) > TOKEN_MAX_BYTES:
            raise ValueError("too long")
        parts = jwt.api_jwt.decode_complete(token, options=_NOTHING_CHECKED)
        return parts["header"], _claims(parts["payload"])
    except Exception as error:
        # JWT, base64, JSON and our own shape checks each have errors of their own; none matters to the caller.
        raise TokenRefused(
            "this is not a join token", reason="TokenAltered", remedy="copy the whole token, or create a new one"
        ) from error


def _claims(payload: Mapping[str, Any]) -> TokenClaims:
    """Raises ValueError, KeyError or TypeError when the shape is wrong."""

    def text(name: str) -> str:
        value = payload[name]
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
        return value

    def time_ms(name: str) -> int:
        value = payload[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TypeError(f"{name} is no time")
        if abs(value) > 1e11:
            raise ValueError(f"{name} is out of range")
        return round(value * 1000)

    uses, labels, endpoints = payload["uses"], payload["labels"], payload["endpoints"]
    if isinstance(uses, bool) or not isinstance(uses, int):
        raise TypeError("uses is no number")
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise TypeError("labels are no map of texts")
    if not isinstance(endpoints, list) or not all(isinstance(value, str) for value in endpoints):
        raise TypeError("endpoints are no list of texts")
    return TokenClaims(
        id=text("jti"),
        issuer=text("iss"),
        audience=text("aud"),
        trust_domain=text("td"),
        node_pattern=text("sub"),
        issued_at_ms=time_ms("iat"),
        expires_at_ms=time_ms("exp"),
        max_uses=uses,
        root_sha256=text("ca"),
        endpoints=tuple(endpoints),
        region=text("region"),
        zone=text("zone"),
        labels=labels,
    )
