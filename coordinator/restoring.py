"""A coordinator that begins with a backup: an empty data folder becomes that of a new cluster of one.

`cloudlessctl cluster restore` leaves the checked backup in the folder (`cloudless.backup.place`); the coordinator's
first start finds it there. What comes of it, in this order:

    DATA_DIR/
      restore.backup       the request
      .restoring/          the identity's files, and a store that holds nothing but a snapshot; worthless until whole
      .restored/           the same, whole: a start that finds it goes on from here
      ca/ tokens.key log/  moved up from there
      restored.json        there until the old coordinators' records are gone (`after_restore`)

Then restore.backup and .restored/ go. The folder is that of a fabric whose first start was cut off before its last
step: what `bootstrap` does then, a context for the admin above all, it does here too.

The snapshot stands at an index far above that of the backup. Agents ignore assignments of a lower revision than those
that they have, and clients resume watches at an index; with the backup's own index, the restored fabric would number
new changes as the lost one numbered other changes, and both would take old for new. Nothing that anybody holds is newer
than `REVISION_GAP` entries behind the backup. The state is the backup's, bit for bit; the term is kept.

The store has no configuration of members: its first start makes a new cluster, whose id keeps away the coordinators of
the lost one, should they still run.
"""

from __future__ import annotations

import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import structlog

from cloudless import backup
from cloudless.backup import REQUEST_FILE, STATE, BackupInfo
from cloudless.config import CoordinatorConfig
from cloudless.coordinator.core import snapshot as states
from cloudless.coordinator.core.commands import SCHEMA, RecordEvent, RemoveCoordinator
from cloudless.coordinator.core.state import State
from cloudless.coordinator.joining import IDENTITY_FILES
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal import collector
from cloudless.coordinator.wal.files import OsFilesystem
from cloudless.coordinator.wal.snapshots import Snapshots, StoredSnapshot
from cloudless.core.model import Severity
from cloudless.errors import Compacted, Corrupt, FailedPrecondition, InvalidArgument, WatchLagged
from cloudless.identity.files import sync_directory, write_private

REVISION_GAP: Final = 1_000_000_000
LOG: Final = "log"
PENDING_FILE: Final = "restored.json"

_LOCK: Final = "lock"
_DRAFT: Final = ".restoring"
_WHOLE: Final = ".restored"
_OPTIONAL: Final = frozenset({"ca/root.key"})  # may have been taken offline

log = structlog.get_logger(__name__)


def restore_if_asked(config: CoordinatorConfig) -> BackupInfo | None:
    """Restores where the data folder holds a request, or finishes what an earlier start began. Returns the backup for
    as long as `after_restore` has not been done; else None. Blocks; call it with the folder locked, before anything
    else is made in it.

    Raises Corrupt, DiskFull, OSError; FailedPrecondition: DataDirNotEmpty, BackupTooNew, RestoreNotSupported;
    InvalidArgument: WrongTrustDomain, CoordinatorIdUsed. The folder is as it was then.
    """
    data_dir = config.data_dir
    if (data_dir / _WHOLE).exists():
        _publish(data_dir)
    elif (data_dir / REQUEST_FILE).exists():
        if config.store.engine == "etcd":
            raise FailedPrecondition(
                "a backup cannot be restored into etcd",
                reason="RestoreNotSupported",
                remedy="start with store.engine raft; or restore etcd from a backup of its own",
            )
        info = backup.verify(data_dir / REQUEST_FILE)
        if info.trust_domain != config.identity.trust_domain:
            raise InvalidArgument(
                f"the backup is of the trust domain {info.trust_domain}, but identity.trust_domain is "
                f"{config.identity.trust_domain}",
                reason="WrongTrustDomain",
                remedy=f"set identity.trust_domain to {info.trust_domain}",
            )
        restore(data_dir / REQUEST_FILE, data_dir, coordinator_id=config.id)
    pending = data_dir / PENDING_FILE
    return backup.decode_header(pending.read_bytes()) if pending.exists() else None


def restore(path: Path, data_dir: Path, *, coordinator_id: str) -> BackupInfo:
    """Makes an empty data folder that of a new fabric, which continues the backup at `path` with this one coordinator.
    Blocks. See the module.

    Raises Corrupt (nothing of it was used), FailedPrecondition (DataDirNotEmpty, BackupTooNew), InvalidArgument
    (CoordinatorIdUsed), DiskFull, OSError.
    """
    backup.refuse_used(data_dir, except_for=frozenset({REQUEST_FILE, _LOCK, _DRAFT}))
    draft = data_dir / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    try:
        info = _extract(path, draft, coordinator_id)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    write_private(draft / PENDING_FILE, backup.encode_header(info))
    draft.rename(data_dir / _WHOLE)
    sync_directory(data_dir)
    _publish(data_dir)
    log.warning(
        "restore.done", source=str(path), index=info.index, continues_at=info.index + REVISION_GAP, term=info.term,
        state_hash=info.state_hash, trust_domain=info.trust_domain,
    )  # fmt: skip
    return info


def _extract(path: Path, draft: Path, coordinator_id: str) -> BackupInfo:
    info = backup.extract(path, draft)
    if info.schema > SCHEMA:
        raise FailedPrecondition(
            f"the backup needs a coordinator that understands log entries up to schema {info.schema}, this one knows "
            f"{SCHEMA}",
            reason="BackupTooNew",
            remedy=f"restore it with version {info.version} or a later one",
        )
    found = {str(file.relative_to(draft)) for file in draft.rglob("*") if file.is_file()} - {STATE}
    strange = found - set(IDENTITY_FILES) or set(IDENTITY_FILES) - _OPTIONAL - found
    if strange:
        raise _unusable(path, f"its identity is not that of a coordinator: {', '.join(sorted(strange))}")
    with collector.paused():
        state, _, _ = states.decode((draft / STATE).read_bytes())
        if state.trust_domain != info.trust_domain:
            raise _unusable(path, f"its state is of the trust domain {state.trust_domain}")
        # Read and written once more: what is restored is what this version understands of it.
        if states.state_hash(state) != info.state_hash:
            raise _unusable(path, "this version does not understand all of its state")
        known = state.coordinators.get(coordinator_id)
        if known is not None and known.removed:
            raise InvalidArgument(
                f"a coordinator {coordinator_id} was removed from this fabric; its id is never used again",
                reason="CoordinatorIdUsed",
                remedy="set id to one that this fabric has never had",
            )
        index = info.index + REVISION_GAP
        body = states.encode(state, index=index, term=info.term)
    Snapshots(OsFilesystem(), draft / LOG / "snapshots").save(StoredSnapshot(index, info.term, body))
    (draft / STATE).unlink()
    return info


def _publish(data_dir: Path) -> None:
    """Moves what is whole to its place. May be repeated from wherever it was cut off."""
    whole = data_dir / _WHOLE
    for made in sorted(whole.iterdir()):
        made.rename(data_dir / made.name)
    sync_directory(data_dir)
    (data_dir / REQUEST_FILE).unlink(missing_ok=True)
    whole.rmdir()
    sync_directory(data_dir)


async def after_restore(store: Store[State], info: BackupInfo, own_id: str, *, data_dir: Path) -> None:
    """Lets the restored fabric forget the coordinators of the lost one, and say in its events what happened. Waits for
    this coordinator's own announcement. To be run by the coordinator that was restored, beside its other work; what was
    cut off is repeated by its next start. Raises what `Store.propose` raises."""
    await _announced(store, own_id)
    actor = f"coordinator/{own_id}"
    # The same at every try; and another one than of an earlier restore, whose answers the state may remember.
    origin = f"restore/{info.state_hash[:32]}/{info.created_at_ms}"
    known = store.snapshot.state.coordinators
    for name in sorted(known):
        if name != own_id and not known[name].removed:
            await store.propose(RemoveCoordinator(name), actor=actor, request_id=f"{origin}/remove/{name}")
    await store.propose(
        RecordEvent(
            type="cluster.restored",
            severity=Severity.WARNING,
            resource=actor,
            description=f"restored from a backup of index {info.index}; what came after it is lost",
            metadata={
                "index": str(info.index),
                "term": str(info.term),
                "state_hash": info.state_hash,
                "created_at_ms": str(info.created_at_ms),
                "version": info.version,
            },
        ),
        actor=actor,
        request_id=f"{origin}/event",
    )
    (data_dir / PENDING_FILE).unlink(missing_ok=True)
    sync_directory(data_dir)
    log.info("restore.finished", index=info.index, coordinator=own_id)


async def _announced(store: Store[State], own_id: str) -> None:
    while own_id not in store.snapshot.state.coordinators:
        with suppress(WatchLagged, Compacted), closing(store.watch()) as batches:
            while own_id not in store.snapshot.state.coordinators:
                await anext(batches)


def _unusable(path: Path, cause: str) -> Corrupt:
    return Corrupt(
        f"{path} cannot be restored: {cause}", reason="BackupDamaged", remedy="take another backup; nothing was changed"
    )
