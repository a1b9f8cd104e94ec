"""Join tokens: each refusal has its own reason."""

import base64
import json
import stat

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudless.core.model import JoinToken
from cloudless.errors import Corrupt, NotFound, TokenRefused
from cloudless.identity.tokens import TokenSigner, audience_of, issuer_of, peek

NOW_MS = 1_800_000_000_123
TOKEN = JoinToken(
    id="t1",
    node_pattern="edge-*",
    region="eu",
    zone="a",
    labels={"x": "y"},
    max_uses=3,
    created_at_ms=NOW_MS,
    expires_at_ms=NOW_MS + 1000,
)
AUDIENCE = audience_of("fabric.example")


@pytest.fixture
def signer(tmp_path):
    return TokenSigner.create(tmp_path)


@pytest.fixture
def text(signer):
    return signer.sign(TOKEN, trust_domain="fabric.example", root_sha256="ab" * 32, endpoints=["192.0.2.1:8442"])


def refusal(signer, text, *, audience=AUDIENCE, now_ms=NOW_MS):
    with pytest.raises(TokenRefused) as caught:
        signer.verify(text, audience=audience, now_ms=now_ms)
    return caught.value.reason


def test_claims_come_back(signer, text):
    claims = signer.verify(text, audience=AUDIENCE, now_ms=NOW_MS)
    assert claims == peek(text)
    assert (claims.id, claims.node_pattern, claims.region, claims.zone) == ("t1", "edge-*", "eu", "a")
    assert (claims.labels, claims.max_uses, claims.endpoints) == ({"x": "y"}, 3, ("192.0.2.1:8442",))
    assert (claims.issued_at_ms, claims.expires_at_ms) == (NOW_MS, NOW_MS + 1000)
    assert (claims.trust_domain, claims.root_sha256) == ("fabric.example", "ab" * 32)
    assert jwt.get_unverified_header(text) == {"alg": "EdDSA", "kid": signer.key_id, "typ": "JWT"}


def test_it_expires_to_the_millisecond(signer, text):
    signer.verify(text, audience=AUDIENCE, now_ms=NOW_MS + 999)
    assert refusal(signer, text, now_ms=NOW_MS + 1000) == "TokenExpired"


def test_for_another_fabric(signer, text, tmp_path):
    assert refusal(signer, text, audience=audience_of("other.example")) == "TokenWrongAudience"
    (tmp_path / "other").mkdir()
    other = TokenSigner.create(tmp_path / "other")
    foreign = other.sign(TOKEN, trust_domain="other.example", root_sha256="", endpoints=[])
    assert refusal(signer, foreign) == "TokenWrongAudience"
    same_name = other.sign(TOKEN, trust_domain="fabric.example", root_sha256="", endpoints=[])
    assert refusal(signer, same_name) == "TokenAltered"


def test_from_another_issuer(signer, text):
    payload = jwt.decode(text, options={"verify_signature": False})
    payload["iss"] = issuer_of("other.example")
    forged = jwt.encode(payload, signer._key, algorithm="EdDSA", headers={"kid": signer.key_id})
    assert refusal(signer, forged) == "TokenWrongIssuer"


def test_every_altered_character_is_noticed(signer, text):
    for at in range(len(text)):
        replaced = "A" if text[at] != "A" else "B"
        altered = text[:at] + replaced + text[at + 1 :]
        # The last character of a part carries padding bits; a change there may decode to the same bytes.
        if [_bytes(part) for part in altered.split(".")] == [_bytes(part) for part in text.split(".")]:
            continue
        assert refusal(signer, altered) == "TokenAltered"


def _bytes(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _unsigned(header, payload):
    parts = [json.dumps(part).encode() for part in (header, payload)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_no_other_algorithm_is_accepted(signer, text):
    payload = jwt.decode(text, options={"verify_signature": False})
    kid = {"kid": signer.key_id}
    assert refusal(signer, _unsigned({"alg": "none", **kid}, payload) + ".") == "TokenAltered"
    public = signer._public.public_bytes_raw()
    confused = jwt.encode(payload, public, algorithm="HS256", headers=kid)
    assert refusal(signer, confused) == "TokenAltered"
    stranger = jwt.encode(payload, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=kid)
    assert refusal(signer, stranger) == "TokenAltered"


@pytest.mark.parametrize(
    "change",
    [
        {"jti": None},
        {"exp": "soon"},
        {"exp": float("nan")},
        {"exp": 1e300},
        {"exp": True},
        {"uses": "1"},
        {"labels": [1]},
        {"labels": {"a": 1}},
        {"endpoints": "x"},
        {"endpoints": [1]},
        {"aud": ["a", "b"]},
        {"sub": 3},
    ],
)
def test_wrong_shapes_are_refused_even_when_signed(signer, text, change):
    payload = {**jwt.decode(text, options={"verify_signature": False}), **change}
    body = _unsigned({"alg": "EdDSA", "kid": signer.key_id}, payload)
    signature = base64.urlsafe_b64encode(signer._key.sign(body.encode())).rstrip(b"=").decode()
    assert refusal(signer, f"{body}.{signature}") == "TokenAltered"


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "x" * 20_000, "e30.e30.e30"])
def test_what_is_no_token(signer, text):
    assert refusal(signer, text) == "TokenAltered"
    with pytest.raises(TokenRefused):
        peek(text)


def test_the_key_is_private_and_kept(tmp_path, signer):
    path = tmp_path / "tokens.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TokenSigner.create(tmp_path).key_id == TokenSigner.load(tmp_path).key_id == signer.key_id
    path.write_bytes(b"garbage")
    with pytest.raises(Corrupt):
        TokenSigner.load(tmp_path)
    path.unlink()
    with pytest.raises(NotFound):
        TokenSigner.load(tmp_path)
