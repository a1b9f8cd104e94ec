"""A person's certificate is renewed by the way, without anybody noticing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudless import contexts
from cloudless.clock import SystemClock
from cloudless.contexts import Context, Contexts
from cloudless.errors import InvalidArgument
from cloudless.identity import csr, keys
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.spiffe import USER, SpiffeId
from cloudless.testing.ctl import Ctl
from cloudless.testing.fake_control import NOW_MS, FakeControl

HOUR_MS = 3_600_000
LIFE_MS = 30 * HOUR_MS
ME = SpiffeId("test", USER, "admin")


class Issuer:
    """An authority whose clock the tests set."""

    def __init__(self, directory: Path) -> None:
        self.now_ms = NOW_MS
        clock = SystemClock()
        clock.now_ms = lambda: self.now_ms  # type: ignore[method-assign]
        self.now_ms -= 10 * LIFE_MS
        self.authority = CertificateAuthority.create(directory, "test", clock)
        self.now_ms = NOW_MS

    def sign(self, request: bytes) -> tuple[str, int]:
        issued = self.authority.sign_csr(request, ME, LIFE_MS)
        return issued.chain_pem.decode(), issued.expires_at_ms

    def context(self, control: FakeControl, *, age_ms: int) -> Context:
        """One whose certificate was made `age_ms` ago; nobody has read its times."""
        key = keys.new_private_key()
        self.now_ms = NOW_MS - age_ms
        chain, _ = self.sign(csr.make_csr(key, ME))
        self.now_ms = NOW_MS
        return Context(
            name="test",
            coordinators=(control.address,),
            trust_domain="test",
            user="admin",
            certificate=chain,
            key=keys.key_pem(key).decode(),
            bundle=self.authority.trust_bundle_pem.decode(),
        )


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as started:
        yield started


@pytest.fixture
def ctl(control: FakeControl, tmp_path: Path) -> Ctl:
    return Ctl(control, tmp_path)


@pytest.fixture
def issuer(control: FakeControl, tmp_path: Path) -> Issuer:
    made = Issuer(tmp_path / "ca")
    control.sign = made.sign
    return made


def renewals(control: FakeControl) -> int:
    return [method for method, _, _ in control.calls].count("RenewUserCertificate")


def test_an_aging_certificate_is_renewed_with_its_key(ctl: Ctl, control: FakeControl, issuer: Issuer) -> None:
    old = issuer.context(control, age_ms=LIFE_MS * 3 // 4)
    other = dataclasses.replace(old, name="other")
    Contexts().merge(old).merge(other).save(ctl.config)
    outcome = ctl("get", "nodes")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "no nodes\n")
    saved = contexts.load(ctl.config)
    new = saved.get("test")
    info = csr.read_certificate(new.certificate.encode())
    assert new.certificate != old.certificate
    assert (new.not_before_ms, new.expires_at_ms) == (info.not_before_ms, info.expires_at_ms)
    assert new.expires_at_ms == NOW_MS + LIFE_MS
    assert dataclasses.replace(new, certificate=old.certificate, not_before_ms=0, expires_at_ms=0) == old
    assert (saved.current, saved.get("other")) == ("test", other)
    assert ctl.config.stat().st_mode & 0o777 == 0o600
    ctl("get", "nodes")
    assert renewals(control) == 1, "once is enough"


def test_a_young_certificate_is_read_once(
    ctl: Ctl, control: FakeControl, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Contexts().merge(issuer.context(control, age_ms=HOUR_MS)).save(ctl.config)
    ctl("get", "nodes")
    known = contexts.load(ctl.config).get()
    assert known.expires_at_ms == NOW_MS - HOUR_MS + LIFE_MS
    before = ctl.config.stat()
    monkeypatch.setattr(csr, "read_certificate", lambda pem: pytest.fail("its times are known"))
    ctl("get", "nodes")
    assert ctl.config.stat().st_mtime_ns == before.st_mtime_ns
    assert renewals(control) == 0


def test_what_fails_is_no_failure_of_the_command(ctl: Ctl, control: FakeControl, issuer: Issuer) -> None:
    Contexts().merge(issuer.context(control, age_ms=LIFE_MS * 3 // 4)).save(ctl.config)
    control.sign = None
    outcome = ctl("get", "nodes")
    assert (outcome.code, outcome.err) == (0, "no nodes\n")
    assert "# the certificate was not renewed: nobody is renewed here" in ctl("get", "nodes", "-v").err
    control.sign = lambda request: ("-----BEGIN CERTIFICATE-----\nnone\n", 0)
    assert ctl("get", "nodes").err == "no nodes\n"
    assert contexts.load(ctl.config).get().certificate == issuer_text(ctl), "what cannot be read is not saved"


def issuer_text(ctl: Ctl) -> str:
    """The certificate that the file holds, if it is one."""
    text = contexts.load(ctl.config).get().certificate
    csr.read_certificate(text.encode())
    return text


def test_nothing_is_renewed_beside_a_failed_or_a_silent_command(ctl: Ctl, control: FakeControl, issuer: Issuer) -> None:
    Contexts().merge(issuer.context(control, age_ms=LIFE_MS * 3 // 4)).save(ctl.config)
    assert ctl("get", "node", "nope").code == 3
    assert ctl("config", "current-context").code == 0
    assert renewals(control) == 0


def test_a_certificate_past_its_end_is_not_renewed(ctl: Ctl, control: FakeControl, issuer: Issuer) -> None:
    Contexts().merge(issuer.context(control, age_ms=LIFE_MS + HOUR_MS)).save(ctl.config)
    assert ctl("get", "nodes").code == 0
    assert renewals(control) == 0


def test_a_certificate_that_was_replaced_meanwhile_stays(ctl: Ctl, control: FakeControl, issuer: Issuer) -> None:
    Contexts().merge(issuer.context(control, age_ms=LIFE_MS * 3 // 4)).save(ctl.config)
    newer = issuer.context(control, age_ms=0)

    def sign(request: bytes) -> tuple[str, int]:
        Contexts().merge(newer).save(ctl.config)
        return issuer.sign(request)

    control.sign = sign
    assert ctl("get", "nodes").code == 0
    assert contexts.load(ctl.config).get() == newer


def test_times_in_the_contexts_file(tmp_path: Path) -> None:
    pem = "-----BEGIN CERTIFICATE-----\n"
    known = Context("home", ("c:1",), "test", "default", "admin", pem, pem, pem, not_before_ms=3, expires_at_ms=9)
    path = tmp_path / "config.yaml"
    Contexts().merge(known).save(path)
    assert contexts.load(path).get() == known
    assert known.renew_at_ms() == 7
    assert known.credentials().expires_at_ms == 9
    assert dataclasses.replace(known, not_before_ms=0, expires_at_ms=0).renew_at_ms() == 0
    for wrong in ("soon", "-1", "1.5", "true", "99999999999999999"):
        with pytest.raises(InvalidArgument, match="expires-at"):
            contexts.decode(f"contexts: [{{name: a, expires-at: {wrong}}}]".encode(), source="file")
