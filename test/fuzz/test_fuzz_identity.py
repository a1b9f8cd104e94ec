"""Whatever bytes come from outside, identity's parsers answer or raise a CloudlessError; nothing else escapes."""

import base64
import json
import tempfile
from functools import cache
from pathlib import Path

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloudless import contexts
from cloudless.clock import SystemClock
from cloudless.core.model import JoinToken
from cloudless.errors import CloudlessError
from cloudless.identity import credentials, spiffe
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.csr import make_csr, read_certificate, read_csr
from cloudless.identity.keys import load_key_pem, new_private_key
from cloudless.identity.spiffe import SpiffeId
from cloudless.identity.tokens import TokenSigner, audience_of, peek


@cache
def material() -> tuple[TokenSigner, str, bytes, bytes]:
    """A signer, and a valid token, request and certificate to damage."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        signer = TokenSigner.create(directory)
        authority = CertificateAuthority.create(directory / "ca", "f", SystemClock())
    token = signer.sign(JoinToken(id="t"), trust_domain="f", root_sha256="", endpoints=["a:1"])
    who = SpiffeId("f", "node", "n")
    csr = make_csr(new_private_key(), who)
    return signer, token, csr, authority.sign_csr(csr, who, 3_600_000).chain_pem


EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), min_size=1, max_size=6)


def edited(data: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    for at, piece in edits:
        at %= len(data) + 1
        data = data[:at] + piece + data[at + max(1, len(piece)) :]
    return data


def survives(parse, *arguments, **named):
    error = None
    try:
        parse(*arguments, **named)
    except CloudlessError as caught:
        error = caught
    assert error is None or (error.message and error.reason)


def token_survives(text: str) -> None:
    survives(peek, text)
    survives(material()[0].verify, text, audience=audience_of("f"), now_ms=0)


@given(st.text())
@example("\ud800")
def test_tokens_of_any_text(text):
    token_survives(text)


@given(EDITS)
def test_damaged_tokens(edits):
    token_survives(edited(material()[1].encode(), edits).decode("latin-1"))


@given(st.binary(), st.binary(), st.binary())
def test_tokens_of_any_parts(header, payload, signature):
    parts = (base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, payload, signature))
    token_survives(".".join(parts))


@given(st.one_of(st.binary(), EDITS))
@settings(max_examples=300)
def test_requests(data):
    survives(read_csr, data if isinstance(data, bytes) else edited(material()[2], data))


@given(st.one_of(st.binary(), EDITS))
def test_certificates(data):
    survives(read_certificate, data if isinstance(data, bytes) else edited(material()[3], data))


@given(st.binary())
def test_keys(data):
    survives(load_key_pem, data)
    survives(load_key_pem, b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(data) + b"\n-----END PRIVATE KEY-----\n")


@given(st.text())
def test_ids(text):
    survives(spiffe.parse, text)
    survives(spiffe.parse, f"spiffe://f/node/{text}")


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["contexts", "name"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["contexts", "name", "key", "x"]), inner)
    ),
    max_leaves=20,
)


@given(st.one_of(st.binary(), st.text().map(str.encode)).filter(lambda data: len(data) < 5000))
@example(b"a: !!timestamp x")
@example(b"2001-13-45")
@example(b"? [a]\n: b")
@example(b"&a [*a]")
@example(b"<<: 1")
def test_contexts_of_any_bytes(data):
    survives(contexts.decode, data, source="x")


@given(VALUES)
def test_contexts_of_any_shape(value):
    survives(contexts.decode, yaml.safe_dump(value).encode("utf-8", "replace"), source="x")


@given(st.one_of(st.binary(), VALUES.map(lambda value: json.dumps(value).encode())))
def test_credentials_files(data):
    survives(credentials.decode, data, source="x")
