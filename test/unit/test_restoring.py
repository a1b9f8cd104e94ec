"""Backups of a store that goes on writing, and the fabric that one of them becomes elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloudless import backup
from cloudless.backup import BackupInfo, BackupWriter
from cloudless.clock import SystemClock
from cloudless.config import CoordinatorConfig, IdentityConfig, StoreConfig
from cloudless.coordinator import backup as backups
from cloudless.coordinator import restoring
from cloudless.coordinator.core import commands as c
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.coordinator.joining import read_identity
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.inspect import fabric_inspector
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import JoinToken, Role, RoleBinding, User
from cloudless.errors import CloudlessError, Corrupt, FailedPrecondition, InvalidArgument, ResourceExhausted
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.tokens import TokenSigner

DOMAIN = "fabric.example"


@contextlib.asynccontextmanager
async def opened(data_dir: Path, *, domain: str = DOMAIN, **config: Any) -> AsyncIterator[Store[State]]:
    store: Store[State] = await Store.open(
        data_dir / "log",
        machine=FabricMachine(domain),
        clock=SystemClock(),
        config=StoreConfig(engine="single", **config),
        member="c1",
    )
    try:
        yield store
    finally:
        store.snapshot.state.validate()
        await store.close()


@pytest.fixture
def lost(tmp_path: Path) -> Path:
    """The data folder of a coordinator, with an identity."""
    data_dir = tmp_path / "lost"
    CertificateAuthority.create(data_dir / "ca", DOMAIN, SystemClock())
    TokenSigner.create(data_dir)
    return data_dir


async def put(store: Store[State], number: int) -> None:
    user = User(f"u{number % 50}", (RoleBinding(Role.VIEWER, f"n{number}"),))
    await store.propose(c.PutUser(user), actor="user/writer", request_id=f"w{number}")


async def announce(store: Store[State], *names: str) -> None:
    for name in names:
        await store.propose(
            c.AnnounceCoordinator(name, "1.0", c.SCHEMA, (f"{name}:8443",)), actor=f"coordinator/{name}"
        )


async def save(store: Store[State], data_dir: Path, path: Path) -> BackupInfo:
    made = await backups.make_backup(store, lambda: read_identity(data_dir), SystemClock())
    with BackupWriter(path) as writer:
        async for piece in made.pieces:
            writer.write(piece)
        info = writer.finish()
    assert info == made.info
    assert path.stat().st_size == made.total_bytes
    return info


def asked(path: Path, data_dir: Path, **settings: Any) -> CoordinatorConfig:
    backup.place(path, data_dir)
    return CoordinatorConfig(data_dir=data_dir, identity=IdentityConfig(trust_domain=DOMAIN), **settings)


async def test_a_backup_under_load_is_restored_to_the_same_state(lost: Path, tmp_path: Path) -> None:
    hashes: dict[int, str] = {}
    infos: list[BackupInfo] = []
    async with opened(lost, snapshot_entries=100) as store:
        await announce(store, "c1", "c2")
        numbers = itertools.count()
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await put(store, next(numbers))

        async def remember() -> None:
            with contextlib.closing(store.watch()) as batches:
                async for batch in batches:
                    hashes[batch.index] = state_hash(batch.state)

        tasks = [asyncio.create_task(write()) for _ in range(8)]
        tasks.append(asyncio.create_task(remember()))
        for number in range(3):
            await put(store, next(numbers))
            infos.append(await save(store, lost, tmp_path / f"{number}.backup"))
        stop.set()
        await asyncio.gather(*tasks[:-1])
        while store.snapshot.index not in hashes:
            await asyncio.sleep(0)
        tasks[-1].cancel()
        last = store.snapshot
    assert [info.state_hash for info in infos] == [hashes[info.index] for info in infos]
    assert infos[0].index < infos[1].index < infos[2].index <= last.index

    for number, info in enumerate(infos):
        data_dir = tmp_path / f"restored-{number}"
        assert restoring.restore_if_asked(asked(tmp_path / f"{number}.backup", data_dir)) == info
        report = fabric_inspector(data_dir / "log", trust_domain=DOMAIN).report()
        assert (report.damage, report.state_hash) == ("", info.state_hash)
        async with opened(data_dir) as store:
            restored = store.snapshot
            assert (restored.index, restored.term) == (info.index + restoring.REVISION_GAP, info.term)
            assert state_hash(restored.state) == info.state_hash
            assert read_identity(data_dir) == read_identity(lost)
            # What agents and clients hold of the lost fabric is older than whatever the restored one says.
            await put(store, 1_000_000)
            revision = store.snapshot.state.users["u0"].revision
            assert revision > info.index + restoring.REVISION_GAP > last.index
            index = store.snapshot.index
        async with opened(data_dir) as store:
            assert store.snapshot.index == index, "it goes on after a restart"


async def test_the_restored_fabric_forgets_the_lost_coordinators(lost: Path, tmp_path: Path) -> None:
    path, data_dir = tmp_path / "f.backup", tmp_path / "new"
    async with opened(lost) as store:
        await announce(store, "c1", "c2", "c3")
        await store.propose(c.RemoveCoordinator("c3"), actor="user/alice")
        await save(store, lost, path)
    config = asked(path, data_dir)
    info = restoring.restore_if_asked(config)
    assert info is not None
    async with opened(data_dir) as store:
        finishing = asyncio.create_task(restoring.after_restore(store, info, "c9", data_dir=data_dir))
        await asyncio.sleep(0)
        assert not finishing.done(), "it waits for its own announcement"
        await announce(store, "c9")
        await finishing
        state = store.snapshot.state
        assert {name: record.removed for name, record in state.coordinators.items()} == {
            "c1": True, "c2": True, "c3": True, "c9": False,
        }  # fmt: skip
        (event,) = [event for event in state.events if event.type == "cluster.restored"]
        assert (event.actor, event.metadata["index"]) == ("coordinator/c9", str(info.index))
        assert restoring.restore_if_asked(config) is None
        before = store.snapshot.state
        await restoring.after_restore(store, info, "c9", data_dir=data_dir)
        assert store.snapshot.state == before, "a repeat adds nothing"


async def test_what_was_cut_off_behind_the_restore_is_done_by_the_next_start(lost: Path, tmp_path: Path) -> None:
    path, data_dir = tmp_path / "f.backup", tmp_path / "new"
    async with opened(lost) as store:
        await announce(store, "c1", "c2")
        await save(store, lost, path)
    config = asked(path, data_dir)
    info = restoring.restore_if_asked(config)
    async with opened(data_dir) as store:
        await announce(store, "c1")
    assert restoring.restore_if_asked(config) == info
    async with opened(data_dir) as store:
        assert info is not None
        await restoring.after_restore(store, info, "c1", data_dir=data_dir)
        assert store.snapshot.state.coordinators["c2"].removed


async def test_one_backup_at_a_time(lost: Path) -> None:
    async with opened(lost) as store:
        await put(store, 1)
        taking = backups.Backups(store, lambda: read_identity(lost), SystemClock())
        async with taking.take() as first:
            with pytest.raises(ResourceExhausted) as caught:
                async with taking.take():
                    pass
            assert caught.value.reason == "BackupUnderWay"
            assert sum([len(piece) async for piece in first.pieces]) == first.total_bytes
        async with taking.take() as second:
            assert second.info.state_hash == first.info.state_hash
        with pytest.raises(OSError, match="gone"):
            async with backups.Backups(store, _fails, SystemClock()).take():
                pass


def _fails() -> Mapping[str, bytes]:
    raise OSError("gone")


@pytest.fixture
async def good(lost: Path, tmp_path: Path) -> Path:
    """A good backup."""
    path = tmp_path / "good.backup"
    async with opened(lost) as store:
        await announce(store, "c1")
        await store.propose(c.CreateToken(JoinToken("t", "*", max_uses=1, expires_at_ms=2**60)), actor="user/alice")
        await save(store, lost, path)
    return path


def tree(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def refused(config: CoordinatorConfig) -> CloudlessError:
    """What a restore fails with, having changed nothing."""
    before = tree(config.data_dir)
    with pytest.raises(CloudlessError) as caught:
        restoring.restore_if_asked(config)
    assert tree(config.data_dir) == before
    assert caught.value.remedy
    return caught.value


async def test_the_folder_is_private_and_whole(good: Path, tmp_path: Path) -> None:
    config = asked(good, tmp_path / "new")
    restoring.restore_if_asked(config)
    assert sorted(p.name for p in config.data_dir.iterdir()) == ["ca", "log", "restored.json", "tokens.key"]
    for path in config.data_dir.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert CertificateAuthority.load(config.data_dir / "ca", SystemClock()).trust_domain == DOMAIN


async def test_without_a_request_nothing_happens(tmp_path: Path) -> None:
    assert restoring.restore_if_asked(CoordinatorConfig(data_dir=tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_in_use_is_left_alone(good: Path, tmp_path: Path) -> None:
    config = asked(good, tmp_path / "new")
    (config.data_dir / "log").mkdir()
    (config.data_dir / "log" / "something").write_bytes(b"dear")
    error = refused(config)
    assert (type(error), error.reason) == (FailedPrecondition, "DataDirNotEmpty")
    (config.data_dir / "log" / "something").unlink()
    (config.data_dir / "log").rmdir()
    (config.data_dir / "lock").write_bytes(b"17")  # of the coordinator that restores
    assert restoring.restore_if_asked(config) is not None


async def test_a_damaged_request_is_refused(good: Path, tmp_path: Path) -> None:
    for number, damage in enumerate((lambda data: data[:-1], lambda data: data + b"x", _flipped)):
        config = asked(good, tmp_path / f"new-{number}")
        request = config.data_dir / backup.REQUEST_FILE
        request.write_bytes(damage(request.read_bytes()))
        error = refused(config)
        assert (type(error), error.reason) == (Corrupt, "BackupDamaged")


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


async def test_what_does_not_fit_the_settings_is_refused(good: Path, tmp_path: Path) -> None:
    config = asked(good, tmp_path / "new")
    other = dataclasses.replace(config, identity=IdentityConfig(trust_domain="other.example"))
    error = refused(other)
    assert (type(error), error.reason) == (InvalidArgument, "WrongTrustDomain")
    assert DOMAIN in error.remedy
    etcd = dataclasses.replace(config, store=StoreConfig(engine="etcd"))
    assert refused(etcd).reason == "RestoreNotSupported"


async def test_nobody_comes_back_under_the_id_of_one_that_was_removed(lost: Path, tmp_path: Path) -> None:
    async with opened(lost) as store:
        await announce(store, "c1", "c3")
        await store.propose(c.RemoveCoordinator("c3"), actor="user/alice")
        await save(store, lost, tmp_path / "f.backup")
    config = asked(tmp_path / "f.backup", tmp_path / "new", id="c3")
    error = refused(config)
    assert (type(error), error.reason) == (InvalidArgument, "CoordinatorIdUsed")
    assert restoring.restore_if_asked(dataclasses.replace(config, id="c4")), "the folder is not spoilt by it"


@pytest.mark.parametrize(
    ("changes", "dropped", "added", "reason"),
    [
        ({"schema": 99}, "", "", "BackupTooNew"),
        ({"trust_domain": "other.example"}, "", "", "BackupDamaged"),
        ({}, "tokens.key", "", "BackupDamaged"),
        ({}, "ca/issuing.key", "", "BackupDamaged"),
        ({}, "", "ca/extra.pem", "BackupDamaged"),
        ({}, "", "log", "BackupDamaged"),
    ],
)
async def test_what_this_version_cannot_continue_is_refused(
    good: Path, tmp_path: Path, changes: dict[str, Any], dropped: str, added: str, reason: str
) -> None:
    info = backup.extract(good, tmp_path / "parts")
    files = tree(tmp_path / "parts")
    state = files.pop("state")
    files = {name: data for name, data in files.items() if name != dropped} | ({added: b"x"} if added else {})
    altered = tmp_path / "altered.backup"
    info = dataclasses.replace(info, **changes)
    altered.write_bytes(b"".join(backup.pieces(info, state, files)))
    config = asked(altered, tmp_path / "new")
    assert (
        refused(dataclasses.replace(config, identity=IdentityConfig(trust_domain=info.trust_domain))).reason == reason
    )


async def test_the_root_key_may_be_elsewhere(good: Path, tmp_path: Path) -> None:
    info = backup.extract(good, tmp_path / "parts")
    files = tree(tmp_path / "parts")
    state = files.pop("state")
    del files["ca/root.key"]
    path = tmp_path / "without.backup"
    path.write_bytes(b"".join(backup.pieces(info, state, files)))
    assert restoring.restore_if_asked(asked(path, tmp_path / "new")) == info


async def test_a_restore_killed_at_any_step_is_completed_by_the_next_start(good: Path, tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cloudless.testing.restore_crashes", str(good), str(tmp_path / "crashes")],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1]) > 25
