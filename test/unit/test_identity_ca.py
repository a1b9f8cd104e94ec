"""The authority: what it signs, what it refuses, and what a crash or a missing file does to it."""

import dataclasses
import os
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloudless.errors import AlreadyExists, Corrupt, FailedPrecondition, InvalidArgument, NotFound, Unauthenticated
from cloudless.identity import ca as authority
from cloudless.identity.ca import CertificateAuthority, backdate_ms
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr, read_certificate, read_csr
from cloudless.identity.keys import ensure_private_key, key_pem, new_private_key, public_key_sha256
from cloudless.identity.spiffe import SpiffeId, parse

NOW_MS = 1_800_000_000_000
DAY_MS = 24 * 3_600_000


@dataclasses.dataclass
class FixedClock:
    now: int = NOW_MS

    def now_ms(self) -> int:
        return self.now

    def monotonic_ms(self) -> int:
        return 0


NODE = SpiffeId("fabric.example", "node", "n1")


def leaf_of(pem):
    return x509.load_pem_x509_certificate(pem)


@pytest.fixture
def ca(tmp_path):
    return CertificateAuthority.create(tmp_path / "ca", "fabric.example", FixedClock())


def test_it_is_private_and_loads_again(ca, tmp_path):
    directory = tmp_path / "ca"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert sorted(os.listdir(directory)) == ["issuing.key", "issuing.pem", "root.key", "root.pem"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}
    again = CertificateAuthority.load(directory, FixedClock())
    assert (again.root_sha256, again.trust_bundle_pem, again.trust_domain) == (
        ca.root_sha256,
        ca.trust_bundle_pem,
        "fabric.example",
    )


def test_the_root_may_go_offline(ca, tmp_path):
    (tmp_path / "ca" / "root.key").unlink()
    offline = CertificateAuthority.load(tmp_path / "ca", FixedClock())
    assert offline.sign_csr(make_csr(new_private_key(), NODE), NODE, DAY_MS).expires_at_ms == NOW_MS + DAY_MS


def test_the_certificates_have_the_promised_shape(ca, tmp_path):
    root, issuing = (leaf_of((tmp_path / "ca" / name).read_bytes()) for name in ("root.pem", "issuing.pem"))
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints).value for c in (root, issuing)]
    assert [(c.ca, c.path_length) for c in constraints] == [(True, 1), (True, 0)]
    days = [(c.not_valid_after_utc - c.not_valid_before_utc).days for c in (root, issuing)]
    assert days == [3650, 730]


@pytest.mark.parametrize(
    ("kind", "usages"),
    [
        ("node", {ExtendedKeyUsageOID.CLIENT_AUTH}),
        ("user", {ExtendedKeyUsageOID.CLIENT_AUTH}),
        ("coordinator", {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}),
    ],
)
def test_a_leaf_says_who_and_what_for(ca, kind, usages):
    who = SpiffeId("fabric.example", kind, "c1")
    key = new_private_key()
    names = {"dns_names": ("coordinator.fabric.example",), "ip_addresses": ("192.0.2.1", "::1")}
    issued = ca.sign_csr(make_csr(key, who), who, DAY_MS, **(names if kind == "coordinator" else {}))
    leaf, issuing = x509.load_pem_x509_certificates(issued.chain_pem)
    leaf.verify_directly_issued_by(issuing)
    alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.UniformResourceIdentifier) == [str(who)]
    expected = ["coordinator.fabric.example"] if kind == "coordinator" else []
    assert alternatives.get_values_for_type(x509.DNSName) == expected
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == usages
    info = read_certificate(issued.chain_pem)
    assert (info.spiffe_id, info.serial, info.expires_at_ms) == (who, issued.serial, NOW_MS + DAY_MS)
    assert info.not_before_ms == NOW_MS - 300_000
    assert issued.public_key_sha256 == info.public_key_sha256 == public_key_sha256(key.public_key())


def test_only_coordinators_have_names(ca):
    with pytest.raises(ValueError, match="only a coordinator"):
        ca.sign_csr(make_csr(new_private_key(), NODE), NODE, DAY_MS, dns_names=("coordinator.fabric.example",))


def test_a_leaf_never_outlives_its_issuer(ca, tmp_path):
    issued = ca.sign_csr(make_csr(new_private_key(), NODE), NODE, 50 * 365 * DAY_MS)
    assert issued.expires_at_ms == ca.issuing_expires_at_ms
    (tmp_path / "ca" / "root.key").unlink()
    late = CertificateAuthority.load(tmp_path / "ca", FixedClock(ca.issuing_expires_at_ms))
    with pytest.raises(FailedPrecondition) as caught:
        late.sign_csr(make_csr(new_private_key(), NODE), NODE, DAY_MS)
    assert caught.value.reason == "IssuerExpired"


def test_a_clock_in_1970_is_named(tmp_path, ca):
    early = CertificateAuthority.load(tmp_path / "ca", FixedClock(0))
    with pytest.raises(FailedPrecondition) as caught:
        early.sign_csr(make_csr(new_private_key(), NODE), NODE, DAY_MS)
    assert caught.value.reason == "IssuerNotYetValid"


def test_the_intermediate_is_renewed_while_the_root_key_is_there(ca, tmp_path):
    late_ms = NOW_MS + authority.ISSUING_TTL_MS * 3 // 4
    late = CertificateAuthority.load(tmp_path / "ca", FixedClock(late_ms))
    assert late.issuing_expires_at_ms == late_ms + authority.ISSUING_TTL_MS
    assert late.root_sha256 == ca.root_sha256
    leaf, issuing = x509.load_pem_x509_certificates(
        late.sign_csr(make_csr(new_private_key(), NODE), NODE, DAY_MS).chain_pem
    )
    leaf.verify_directly_issued_by(issuing)
    # Leaves that the old intermediate signed stay valid: the key is the same.
    old = x509.load_pem_x509_certificates(ca.sign_csr(make_csr(new_private_key(), NODE), NODE, DAY_MS).chain_pem)
    old[0].verify_directly_issued_by(issuing)


def other_key_csr(key):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(NODE))]), critical=True
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


def csr_with(*names):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    return builder.sign(new_private_key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def forged():
    der = bytearray(make_csr(new_private_key(), NODE))
    der[-3] ^= 0x01
    return bytes(der)


@pytest.mark.parametrize(
    ("der", "reason"),
    [
        (lambda: make_csr(new_private_key(), SpiffeId("fabric.example", "node", "n2")), "CsrIdMismatch"),
        (lambda: make_csr(new_private_key(), SpiffeId("fabric.example", "coordinator", "n1")), "CsrIdMismatch"),
        (lambda: make_csr(new_private_key(), SpiffeId("other.example", "node", "n1")), "CsrIdMismatch"),
        (forged, "CsrInvalid"),
        (lambda: b"", "CsrInvalid"),
        (lambda: b"\x30" * 9000, "CsrInvalid"),
        (lambda: other_key_csr(rsa.generate_private_key(65537, 2048)), "CsrInvalid"),
        (lambda: other_key_csr(ec.generate_private_key(ec.SECP192R1())), "CsrInvalid"),
        (lambda: other_key_csr(ed25519.Ed25519PrivateKey.generate()), "CsrInvalid"),
        (csr_with, "CsrInvalid"),
        (lambda: csr_with(x509.DNSName("n1")), "CsrInvalid"),
        (lambda: csr_with(x509.UniformResourceIdentifier("https://n1")), "CsrInvalid"),
        (
            lambda: csr_with(*[x509.UniformResourceIdentifier(f"spiffe://fabric.example/node/{n}") for n in "ab"]),
            "CsrInvalid",
        ),
    ],
)
def test_bad_requests_are_refused(ca, der, reason):
    with pytest.raises(InvalidArgument) as caught:
        ca.sign_csr(der(), NODE, DAY_MS)
    assert caught.value.reason == reason


def test_a_request_carries_id_and_key():
    key = new_private_key()
    info = read_csr(make_csr(key, NODE))
    assert (info.spiffe_id, info.public_key_sha256) == (NODE, public_key_sha256(key.public_key()))


def test_an_existing_authority_is_never_overwritten(ca, tmp_path):
    with pytest.raises(AlreadyExists) as caught:
        CertificateAuthority.create(tmp_path / "ca", "fabric.example", FixedClock())
    assert caught.value.reason == "CaExists"


@pytest.mark.parametrize("crash_at", range(1, 6))
def test_a_crash_during_creation_leaves_nothing_half_made(tmp_path, monkeypatch, crash_at):
    """Whatever step the crash hits, load finds nothing or everything, and create can be repeated."""
    steps = 0

    def dying(original):
        def step(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == crash_at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(authority, "write_private", dying(authority.write_private))
        patch.setattr(authority, "sync_directory", dying(authority.sync_directory))
        with pytest.raises(KeyboardInterrupt):
            CertificateAuthority.create(tmp_path / "ca", "fabric.example", FixedClock())
    if crash_at == 5:  # after the rename: it is complete
        CertificateAuthority.load(tmp_path / "ca", FixedClock())
        return
    with pytest.raises(NotFound):
        CertificateAuthority.load(tmp_path / "ca", FixedClock())
    made = CertificateAuthority.create(tmp_path / "ca", "fabric.example", FixedClock())
    assert CertificateAuthority.load(tmp_path / "ca", FixedClock()).root_sha256 == made.root_sha256
    assert os.listdir(tmp_path) == ["ca"]


def test_damage_is_named(ca, tmp_path):
    directory = tmp_path / "ca"
    other = CertificateAuthority.create(tmp_path / "other", "fabric.example", FixedClock())
    assert other.root_sha256 != ca.root_sha256
    kept = {file.name: file.read_bytes() for file in directory.iterdir()}

    def refused(**changed):
        for name, data in kept.items():
            (directory / name).write_bytes(data)
        for name, data in changed.items():
            path = directory / name.replace("_", ".")
            path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(Corrupt) as caught:
            CertificateAuthority.load(directory, FixedClock())
        return caught.value.reason

    assert refused(issuing_pem=None) == "CaDamaged"
    assert refused(issuing_key=key_pem(new_private_key())) == "CaDamaged"
    assert refused(root_pem=other.trust_bundle_pem) == "CaDamaged"
    assert refused(root_pem=b"garbage") == "CaDamaged"
    assert refused(issuing_key=b"garbage") == "BadKey"


@pytest.mark.parametrize("domain", ["", "UPPER.example", "a b", "x" * 201, "-a", "a..b", "a/b"])
def test_bad_trust_domains_are_refused(tmp_path, domain):
    with pytest.raises(InvalidArgument) as caught:
        CertificateAuthority.create(tmp_path / "ca", domain, FixedClock())
    assert caught.value.reason == "BadTrustDomain"
    assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe://fabric.example",
        "spiffe://fabric.example/node",
        "spiffe://fabric.example/node/",
        "spiffe://fabric.example/node/a/b",
        "spiffe://fabric.example/robot/a",
        "spiffe://fabric.example/node/A",
        "spiffe://fabric.example/node/-a",
        "spiffe://fabric.example/user/..",
        "spiffe://fabric.example/user/a%20b",
        "spiffe://fabric.example/user/" + "a" * 64,
        "SPIFFE://fabric.example/node/a",
        "spiffe://fabric.example/node/a\n",
        "spiffe://user@fabric.example/node/a",
        "spiffe://fabric.example:1/node/a",
    ],
)
def test_only_members_have_ids(uri):
    with pytest.raises(InvalidArgument) as caught:
        parse(uri)
    assert caught.value.reason == "BadSpiffeId"


def test_credentials_fit_together(ca, tmp_path):
    key = new_private_key()
    chain = ca.sign_csr(make_csr(key, NODE), NODE, DAY_MS).chain_pem
    held = Credentials.from_pem(key_pem=key_pem(key), chain_pem=chain, bundle_pem=ca.trust_bundle_pem)
    assert held.renew_at_ms == NOW_MS - 300_000 + (DAY_MS + 300_000) * 2 // 3
    assert "PRIVATE" not in repr(held)
    with pytest.raises(Unauthenticated):
        Credentials.from_pem(key_pem=key_pem(new_private_key()), chain_pem=chain, bundle_pem=b"")
    other = SpiffeId("fabric.example", "node", "n2")
    with pytest.raises(Unauthenticated, match="n2"):
        held.renewed(ca.sign_csr(make_csr(key, other), other, DAY_MS).chain_pem)


def test_a_device_keeps_its_first_key(tmp_path):
    first = ensure_private_key(tmp_path / "node.key")
    again = ensure_private_key(tmp_path / "node.key")
    assert first.private_numbers() == again.private_numbers()
    assert stat.S_IMODE((tmp_path / "node.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(("ttl_ms", "expected"), [(60_000, 6_000), (3_600_000, 300_000), (DAY_MS, 300_000)])
def test_short_lives_are_backdated_less(ttl_ms, expected):
    assert backdate_ms(ttl_ms) == expected
