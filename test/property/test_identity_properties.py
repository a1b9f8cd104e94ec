"""What goes through identity's formats comes back the same."""

import string
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudless.contexts import Context, Contexts, decode, encode
from cloudless.core.model import JoinToken
from cloudless.identity import credentials, spiffe
from cloudless.identity.credentials import Credentials, renew_at_ms
from cloudless.identity.csr import make_csr, read_csr
from cloudless.identity.keys import new_private_key
from cloudless.identity.spiffe import SpiffeId
from cloudless.identity.tokens import TokenSigner, audience_of, peek

LABEL = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
DOMAIN = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
SPIFFE_IDS = st.one_of(
    st.builds(SpiffeId, DOMAIN, st.just("node"), LABEL),
    st.builds(SpiffeId, DOMAIN, st.sampled_from(["user", "coordinator"]), NAME),
)
TEXT = st.text(max_size=60)
TIMES = st.integers(0, 10**13)
TOKENS = st.builds(
    JoinToken,
    id=TEXT,
    node_pattern=TEXT,
    region=TEXT,
    zone=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=4),
    max_uses=st.integers(0, 2**31 - 1),
    created_at_ms=TIMES,
    expires_at_ms=TIMES,
)
PRINTABLE = st.text(alphabet=st.characters(codec="utf-8"), max_size=60)
PEM = st.text(alphabet=string.ascii_letters + "\n", max_size=80).map(lambda body: f"-----BEGIN X-----\n{body}")


@cache
def signer() -> TokenSigner:
    with tempfile.TemporaryDirectory() as directory:
        return TokenSigner.create(Path(directory))


@cache
def key():
    return new_private_key()


@given(SPIFFE_IDS)
def test_ids(spiffe_id):
    assert spiffe.parse(str(spiffe_id)) == spiffe_id


@given(SPIFFE_IDS)
@settings(max_examples=50)
def test_requests(spiffe_id):
    assert read_csr(make_csr(key(), spiffe_id)).spiffe_id == spiffe_id


@given(TOKENS, DOMAIN, st.lists(TEXT, max_size=4))
def test_tokens(token, domain, endpoints):
    text = signer().sign(token, trust_domain=domain, root_sha256="00", endpoints=endpoints)
    claims = signer().verify(text, audience=audience_of(domain), now_ms=token.expires_at_ms - 1)
    assert claims == peek(text)
    assert (claims.id, claims.node_pattern, claims.region, claims.zone, claims.labels, claims.max_uses) == (
        token.id,
        token.node_pattern,
        token.region,
        token.zone,
        token.labels,
        token.max_uses,
    )
    assert (claims.issued_at_ms, claims.expires_at_ms) == (token.created_at_ms, token.expires_at_ms)
    assert (claims.endpoints, claims.trust_domain) == (tuple(endpoints), domain)


@given(
    st.lists(
        st.builds(
            Context,
            name=PRINTABLE.filter(bool),
            coordinators=st.lists(PRINTABLE, max_size=3).map(tuple),
            trust_domain=PRINTABLE,
            namespace=PRINTABLE.filter(bool),
            user=PRINTABLE,
            certificate=PEM,
            key=PEM,
            bundle=PEM,
        ),
        max_size=4,
        unique_by=lambda context: context.name,
    )
)
@settings(max_examples=60)
def test_contexts(entries):
    contexts = Contexts()
    for entry in entries:
        contexts = contexts.merge(entry)
    assert decode(encode(contexts), source="x") == contexts


@given(SPIFFE_IDS, PEM, PEM, PEM, TIMES, TIMES)
@settings(max_examples=30)
def test_credentials(spiffe_id, key_pem, chain, bundle, begin_ms, end_ms):
    held = Credentials(
        spiffe_id.trust_domain, spiffe_id, key_pem.encode(), chain.encode(), bundle.encode(), end_ms, begin_ms
    )
    with tempfile.TemporaryDirectory() as directory:
        held.save(Path(directory) / "identity")
        assert credentials.load(Path(directory) / "identity") == held


@given(TIMES, st.integers(1, 10**12))
def test_renewal_is_due_in_the_last_third_of_the_life(begin_ms, life_ms):
    due_ms = renew_at_ms(not_before_ms=begin_ms, expires_at_ms=begin_ms + life_ms)
    assert begin_ms + life_ms // 2 <= due_ms < begin_ms + life_ms
