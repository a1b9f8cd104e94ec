"""How a coordinator obtains a fabric's identity: the token, each step repeated, and everybody who must not get it."""

from __future__ import annotations

import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import control_pb2, control_pb2_grpc, member_pb2, member_pb2_grpc
from cloudless.coordinator import joining
from cloudless.coordinator.bootstrap import open_identity
from cloudless.coordinator.core.commands import CreateToken, RemoveCoordinator
from cloudless.coordinator.main import Coordinator
from cloudless.core.model import JoinToken, Role
from cloudless.errors import CloudlessError, InvalidArgument, TokenRefused
from cloudless.identity.credentials import Credentials
from cloudless.identity.csr import make_csr
from cloudless.identity.enrollment import enroll
from cloudless.identity.keys import key_pem, new_private_key
from cloudless.identity.spiffe import COORDINATOR, SpiffeId
from cloudless.testing.coordinator import RunningCoordinator, coordinator_config, failure_of, running_coordinator


@pytest.fixture
async def first(tmp_path: Path) -> AsyncIterator[RunningCoordinator]:
    async with running_coordinator(tmp_path / "first", store__engine="single") as c:
        yield c


async def _token(first: RunningCoordinator, tmp_path: Path, coordinator_id: str = "c2", **fields: Any) -> Path:
    now_ms = first.coordinator.clock.now_ms()
    values = {
        "node_pattern": "" if coordinator_id else "*",
        "max_uses": 1,
        "created_at_ms": now_ms,
        "expires_at_ms": now_ms + 60_000,
        **fields,
    }
    token = JoinToken(id=f"jt-{coordinator_id or 'node'}", coordinator_id=coordinator_id, **values)
    await first.store.propose(CreateToken(token), actor="user/admin")
    identity = first.coordinator.identity
    jwt = identity.signer.sign(
        first.state.tokens[token.id],
        trust_domain=first.trust_domain,
        root_sha256=identity.authority.root_sha256,
        endpoints=[first.enroll_address],
    )
    path = tmp_path / f"{token.id}.token"
    path.write_text(jwt + "\n")
    return path


def _config(tmp_path: Path, token: Path | None = None, **changes: Any) -> Any:
    values = {"id": "c2", "data_dir": tmp_path / "second", "store__engine": "single", **changes}
    return coordinator_config(tmp_path, join_token_file=token or Path(), **values)


async def _join(first: RunningCoordinator, config: Any) -> bool:
    config.data_dir.mkdir(mode=0o700, exist_ok=True)
    joining.check_id(config)
    return await joining.join_if_asked(config, first.coordinator.clock, jitter=lambda: 0.5)


async def _refusal(first: RunningCoordinator, config: Any) -> CloudlessError:
    with pytest.raises(CloudlessError) as caught:
        await _join(first, config)
    return caught.value


async def test_a_join_brings_the_whole_identity(first: RunningCoordinator, tmp_path: Path) -> None:
    config = _config(tmp_path, await _token(first, tmp_path))
    assert await _join(first, config)
    for name in joining.IDENTITY_FILES:
        assert (config.data_dir / name).read_bytes() == (first.config.data_dir / name).read_bytes()
        assert stat.S_IMODE((config.data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((config.data_dir / "ca").stat().st_mode) == 0o700
    identity = open_identity(config, first.coordinator.clock)
    assert identity.authority.root_sha256 == first.coordinator.identity.authority.root_sha256
    assert identity.signer.key_id == first.coordinator.identity.signer.key_id
    assert joining.joined(config)
    known = first.state.coordinators["c2"]
    assert known.public_key_sha256
    assert not known.removed
    types = [event.type for event in first.state.events]
    assert types.count("security.identity_fetched") == 1
    assert "coordinator.joined" in types
    assert not await _join(first, config), "it is done once"


@pytest.mark.parametrize(
    "left", ["key", "admitted", "half an authority", "authority", "another authority", "token key", "mark"]
)
async def test_each_step_may_be_repeated(first: RunningCoordinator, tmp_path: Path, left: str) -> None:
    """What a crash behind each step leaves behind."""
    config = _config(tmp_path, await _token(first, tmp_path))
    assert await _join(first, config)
    data, member = config.data_dir, joining.directory(config)
    key = (member / "key.pem").read_bytes()
    if left != "mark":
        (data / "bootstrap.done").unlink()
    if left not in ("mark", "token key"):
        (data / "tokens.key").unlink()
    if left in ("key", "admitted", "half an authority"):
        shutil.rmtree(data / "ca")
    if left == "half an authority":
        (data / ".ca.fetched").mkdir()
        (data / ".ca.fetched" / "root.pem").write_text("cut sh")
    if left == "another authority":
        (data / "ca" / "root.pem").write_text("of a try that was cut off")
    if left == "key":
        for name in ("credentials.json", "joining.json", "id"):
            (member / name).unlink()
    # The token is needed for the admission only.
    again = config if left == "key" else _config(tmp_path)
    assert await _join(first, again) is (left != "mark")
    assert (member / "key.pem").read_bytes() == key
    assert (data / "ca" / "root.pem").read_bytes() == (first.config.data_dir / "ca" / "root.pem").read_bytes()
    assert joining.joined(config)
    assert first.state.tokens["jt-c2"].uses == 1, "a repeat counts no second use"
    assert not (data / ".ca.fetched").exists()


async def test_an_interrupted_join_never_becomes_a_fabric_of_its_own(first: RunningCoordinator, tmp_path: Path) -> None:
    config = _config(tmp_path, await _token(first, tmp_path))
    config.data_dir.mkdir(mode=0o700)
    member = joining.directory(config)
    member.mkdir(mode=0o700)
    (member / "key.pem").write_bytes(key_pem(new_private_key()))
    with pytest.raises(CloudlessError) as caught:
        await Coordinator.start(_config(tmp_path), clock=first.coordinator.clock)
    assert caught.value.reason == "JoinNotCompleted"
    assert not (config.data_dir / "ca").exists()
    assert await _join(first, config)


async def test_a_fabric_of_its_own_does_not_join_another(first: RunningCoordinator, tmp_path: Path) -> None:
    config = _config(tmp_path, await _token(first, tmp_path))
    (config.data_dir / "ca").mkdir(parents=True)
    (config.data_dir / "ca" / "root.pem").write_text("its own")
    assert (await _refusal(first, config)).reason == "DataDirNotEmpty"


async def test_a_lost_disk_is_named(first: RunningCoordinator, tmp_path: Path) -> None:
    config = _config(tmp_path, await _token(first, tmp_path))
    assert await _join(first, config)
    shutil.rmtree(config.data_dir)
    refusal = await _refusal(first, config)
    assert refusal.reason == "MemberLostDisk"
    assert "this member lost its disk" in refusal.message
    assert "under a new id with `cloudlessctl cluster add`" in refusal.remedy


async def test_a_token_admits_the_coordinator_that_it_names(first: RunningCoordinator, tmp_path: Path) -> None:
    token = await _token(first, tmp_path)
    refusal = await _refusal(first, _config(tmp_path, token, id="c3"))
    assert isinstance(refusal, TokenRefused)
    assert refusal.reason == "CoordinatorNotAllowed"
    assert "--id c2" in refusal.remedy
    assert first.state.tokens["jt-c2"].uses == 0
    assert await _join(first, _config(tmp_path, token)), "the folder is not spoilt by the wrong id"


async def test_tokens_of_nodes_and_of_coordinators_are_not_exchanged(first: RunningCoordinator, tmp_path: Path) -> None:
    for_node = await _token(first, tmp_path, coordinator_id="")
    assert (await _refusal(first, _config(tmp_path, for_node))).reason == "TokenForNodes"
    for_coordinator = await _token(first, tmp_path)
    with pytest.raises(TokenRefused) as caught:
        await enroll(for_coordinator.read_text().strip(), "c2")
    assert not first.state.nodes
    assert caught.value.remedy


async def test_bad_tokens(first: RunningCoordinator, tmp_path: Path) -> None:
    missing = await _refusal(first, _config(tmp_path, tmp_path / "no.token"))
    assert (type(missing), missing.reason) == (InvalidArgument, "BadSetting")
    altered = tmp_path / "altered.token"
    text = (await _token(first, tmp_path)).read_text().strip()
    altered.write_text(text[:-6] + "AAAAAA")
    assert (await _refusal(first, _config(tmp_path, altered))).reason == "TokenAltered"
    elsewhere = _config(tmp_path, tmp_path / "jt-c2.token", identity__trust_domain="other.example")
    assert (await _refusal(first, elsewhere)).reason == "WrongTrustDomain"
    engine = _config(tmp_path, tmp_path / "jt-c2.token", store__engine="etcd")
    assert (await _refusal(first, engine)).reason == "WrongEngine"
    assert await _join(first, _config(tmp_path, tmp_path / "jt-c2.token")), "the same folder, with what was wrong set"


async def test_a_data_folder_keeps_its_id(first: RunningCoordinator, tmp_path: Path) -> None:
    await first.coordinator.stop()
    with pytest.raises(InvalidArgument) as caught:
        async with running_coordinator(tmp_path / "first", store__engine="single", id="c9"):
            pass
    assert caught.value.reason == "WrongCoordinatorId"
    assert "set id to c1" in caught.value.remedy
    # One from before ids were kept takes the configured one.
    shutil.rmtree(joining.directory(first.config))
    async with running_coordinator(tmp_path / "first", store__engine="single"):
        assert (joining.directory(first.config) / "id").read_text() == "c1\n"


async def _fetch(first: RunningCoordinator, credentials: Credentials) -> CloudlessError:
    async with first.channel(credentials) as channel:
        stub = member_pb2_grpc.MemberServiceStub(channel)
        return await failure_of(stub.FetchIdentity(member_pb2.FetchIdentityRequest()))


def _coordinator(first: RunningCoordinator, name: str) -> Credentials:
    authority, key = first.coordinator.identity.authority, new_private_key()
    who = SpiffeId(first.trust_domain, COORDINATOR, name)
    issued = authority.sign_csr(make_csr(key, who), who, 60_000)
    return Credentials.from_pem(key_pem=key_pem(key), chain_pem=issued.chain_pem, bundle_pem=authority.trust_bundle_pem)


async def test_the_identity_is_for_admitted_coordinators_alone(first: RunningCoordinator, tmp_path: Path) -> None:
    node, admin = await first.node("n1"), await first.user("root", (Role.ADMIN, "*"))
    for who in (node, admin, first.admin):
        assert (await _fetch(first, who)).reason == "NotForThisCaller"
    assert (await _fetch(first, _coordinator(first, "c7"))).reason == "CoordinatorUnknown"
    assert await _join(first, _config(tmp_path, await _token(first, tmp_path)))
    await first.store.propose(RemoveCoordinator("c2"), actor="user/admin")
    assert (await _fetch(first, _coordinator(first, "c2"))).reason == "CoordinatorRemoved"
    fetched = [event.resource for event in first.state.events if event.type == "security.identity_fetched"]
    assert fetched == ["coordinator/c2"]


async def test_only_the_enrolment_listener_admits(first: RunningCoordinator, tmp_path: Path) -> None:
    """The API listener has no enrolment, the enrolment listener no identity."""
    request = control_pb2.JoinCoordinatorRequest()
    async with first.channel() as channel:
        refusal = await failure_of(control_pb2_grpc.EnrollmentServiceStub(channel).JoinCoordinator(request))
    assert refusal.message == "Method not found!"
