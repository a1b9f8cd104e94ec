"""Signatures of coordinators: who may make one, and what shows that one was altered."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cloudless.errors import Unauthenticated
from cloudless.identity.channel import ServerCertificate
from cloudless.identity.signing import Signature, Signer, Verifier
from cloudless.identity.spiffe import COORDINATOR, NODE, USER
from cloudless.testing.identity import Fabric

CONTEXT, DATA = b"a use of it\n", b"what is said"
DAY_MS = 24 * 3_600_000


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Fabric:
    return Fabric(tmp_path_factory.mktemp("ca"))


def signed(fabric: Fabric, kind: str = COORDINATOR, **how: int) -> Signature:
    return Signer(ServerCertificate(fabric.member(kind, "one", **how))).sign(CONTEXT, DATA)


def check(
    fabric: Fabric, signature: Signature, *, context: bytes = CONTEXT, data: bytes = DATA, at_ms: int | None = None
) -> str:
    """Who signed, or the reason why not."""
    verifier = Verifier(fabric.ca.trust_bundle_pem, fabric.trust_domain)
    try:
        moment = fabric.clock.now_ms() if at_ms is None else at_ms
        return str(verifier.verify(context, data, signature, kind=COORDINATOR, at_ms=moment))
    except Unauthenticated as error:
        return error.reason


def test_a_coordinators_signature_is_found_good(fabric: Fabric) -> None:
    assert check(fabric, signed(fabric)) == "spiffe://fabric.example/coordinator/one"


def test_a_signature_is_good_for_these_bytes_and_this_use(fabric: Fabric) -> None:
    signature = signed(fabric)
    assert check(fabric, signature, data=DATA + b".") == "SignatureInvalid"
    assert check(fabric, signature, context=b"another use\n") == "SignatureInvalid"
    assert check(fabric, signature, context=CONTEXT + DATA[:1], data=DATA[1:]).startswith("spiffe:")  # fixed contexts
    assert check(fabric, dataclasses.replace(signature, signature=b"")) == "SignatureInvalid"
    other = signed(fabric)
    assert check(fabric, dataclasses.replace(signature, certificates=other.certificates)) == "SignatureInvalid"


@pytest.mark.parametrize("kind", [NODE, USER])
def test_no_other_member_may_sign(fabric: Fabric, kind: str) -> None:
    assert check(fabric, signed(fabric, kind)) == "SignerNotTrusted"


def test_a_coordinator_of_another_fabric_may_not(fabric: Fabric, tmp_path: Path) -> None:
    for name in ("fabric.example", "other.example"):
        stranger = Fabric(tmp_path / name, trust_domain=name)
        assert check(fabric, signed(stranger)) == "SignerNotTrusted"


def test_the_certificate_has_to_be_valid_when_it_signs_not_when_it_is_checked(fabric: Fabric) -> None:
    now_ms = fabric.clock.now_ms()
    old = signed(fabric, ttl_ms=10_000, issued_ago_ms=60_000)
    assert check(fabric, old, at_ms=now_ms) == "SignerExpired"
    assert check(fabric, old, at_ms=now_ms - 55_000).startswith("spiffe:")
    assert check(fabric, old, at_ms=now_ms - 70_000) == "SignerExpired"
    for nonsense in (0, -1, 2**62, -(2**62)):
        assert check(fabric, old, at_ms=nonsense) == "SignerExpired"


def test_a_chain_that_was_found_good_is_checked_against_each_time(fabric: Fabric) -> None:
    verifier = Verifier(fabric.ca.trust_bundle_pem, fabric.trust_domain)
    signature, now_ms = signed(fabric, ttl_ms=3_600_000), fabric.clock.now_ms()
    verifier.verify(CONTEXT, DATA, signature, kind=COORDINATOR, at_ms=now_ms)
    with pytest.raises(Unauthenticated) as refused:
        verifier.verify(CONTEXT, DATA, signature, kind=COORDINATOR, at_ms=now_ms + DAY_MS)
    assert refused.value.reason == "SignerExpired"


@pytest.mark.parametrize(
    ("certificates", "reason"),
    [
        ((), "SignerMissing"),
        ((b"",), "SignerNotTrusted"),
        ((b"\x30\x03\x02\x01\x01",), "SignerNotTrusted"),
        ((b"x" * 20_000,), "SignerNotTrusted"),
        ((b"x",) * 5, "SignerNotTrusted"),
    ],
)
def test_what_is_no_certificate(fabric: Fabric, certificates: tuple[bytes, ...], reason: str) -> None:
    assert check(fabric, Signature(b"", certificates)) == reason


def test_a_leaf_without_the_issuing_certificate_leads_nowhere(fabric: Fabric) -> None:
    signature = signed(fabric)
    assert check(fabric, dataclasses.replace(signature, certificates=signature.certificates[:1])) == "SignerNotTrusted"
    assert check(fabric, dataclasses.replace(signature, certificates=signature.certificates[1:])) == "SignerNotTrusted"


def test_a_renewed_certificate_is_taken_up(fabric: Fabric) -> None:
    certificate = ServerCertificate(fabric.member(COORDINATOR, "one"))
    signer = Signer(certificate)
    before = signer.sign(CONTEXT, DATA)
    certificate.replace(fabric.member(COORDINATOR, "one"))
    after = signer.sign(CONTEXT, DATA)
    assert before.certificates != after.certificates
    assert check(fabric, after).startswith("spiffe:")
