"""What an agent must still know after it, or the whole device, restarted: what it shall run, and how far it got.

Files in one folder, each replaced in one durable step:

    assignments   the last set, as a coordinator signed it (SignedAssignments); written before it is acted on
    lease         the newest renewal of its lease (SignedLease), where there was one
    clock         trusted time at some moment (`core.tenure`)
    facts         runs, restarts and last exits of containers, addresses of coordinators; follows what happened within
                  a moment

Each starts with a line `cloudless-journal VERSION CRC32 LENGTH FABRIC`; a file that does not match its line, or belongs
to another fabric, is set aside with a warning and read as absent: the coordinator sends the assignments again, and what
runs is adopted, not judged by a guess. So is a set that no coordinator signed for this node: nothing is started from
it, and what runs goes on until a coordinator says what shall become of it. Version 1 of `assignments` is an unsigned
AssignmentSet, of a coordinator or an agent of an earlier version.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message

from cloudless.agent.core.model import ContainerFacts
from cloudless.agent.core.tenure import Lease, TimePoint
from cloudless.agent.grants import Granted, Grants, Renewal
from cloudless.api.v1 import session_pb2
from cloudless.api.v1.convert import from_proto, to_proto
from cloudless.core.model import Assignment
from cloudless.errors import Corrupt, Unauthenticated
from cloudless.identity.files import make_private_directory, write_private

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=Message)

ASSIGNMENTS: Final = "assignments"
LEASE: Final = "lease"
CLOCK: Final = "clock"
FACTS: Final = "facts"
UNSIGNED: Final = "JournalUnsigned"  # by an agent, or for one, of an earlier version: no attack
_MAGIC: Final = b"cloudless-journal"
_VERSION: Final = 1
_SIGNED: Final = 2  # the version of what a coordinator signed
_BROKEN_KEPT: Final = 3
_RETRY_DELAY_S: Final = 5.0
_SETTLE_DELAY_S: Final = 0.05

_FACT_TYPES: Final[dict[str, type]] = {
    f.name: type(f.default) if f.default is not dataclasses.MISSING else str for f in dataclasses.fields(ContainerFacts)
}


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the journal holds. `assignments` is None when no coordinator ever said what to run; `lease` is None when it
    was not signed."""

    revision: int = 0
    assignments: tuple[Assignment, ...] | None = None
    facts: Mapping[str, tuple[ContainerFacts, ...]] = field(default_factory=dict)
    coordinators: tuple[str, ...] = ()
    lease: Lease | None = None
    time: TimePoint | None = None


def frame(payload: bytes, *, fabric: str, version: int = _VERSION) -> bytes:
    """A file's bytes: the line that vouches for the payload, then the payload."""
    name = fabric.encode()
    return b"%s %d %08x %d %s\n" % (_MAGIC, version, zlib.crc32(name + payload), len(payload), name) + payload


def unframe(data: bytes, *, fabric: str, version: int = _VERSION) -> bytes:
    """The payload of a file. Raises Corrupt with reason `JournalDamaged`, `JournalVersion` or `OtherFabric`."""
    line, separator, payload = data.partition(b"\n")
    parts = line.split(b" ")
    if not separator or len(parts) != 5 or parts[0] != _MAGIC or not parts[1].isdigit():
        raise Corrupt("not a journal file", reason="JournalDamaged")
    if int(parts[1][:9]) != version:
        raise Corrupt(f"written by another version ({parts[1][:9].decode()})", reason="JournalVersion")
    if parts[2] != b"%08x" % zlib.crc32(parts[4] + payload) or parts[3] != b"%d" % len(payload):
        raise Corrupt("its checksum does not match", reason="JournalDamaged")
    if parts[4] != fabric.encode():
        raise Corrupt("it belongs to another fabric", reason="OtherFabric")
    return payload


def encode_assignments(revision: int, assignments: Iterable[Assignment]) -> bytes:
    message = session_pb2.AssignmentSet(revision=revision)
    for assignment in assignments:
        message.assignments.append(to_proto(assignment, session_pb2.Assignment))
    payload: bytes = message.SerializeToString(deterministic=True)
    return payload


def decode_assignments(payload: bytes) -> tuple[int, tuple[Assignment, ...]]:
    """Raises Corrupt with reason `JournalDamaged`."""
    try:
        message = session_pb2.AssignmentSet.FromString(payload)
        return message.revision, tuple(from_proto(a, Assignment) for a in message.assignments)
    except Exception as error:  # the parser's own exception differs between protobuf's implementations
        raise Corrupt(f"not an assignment set: {error}", reason="JournalDamaged") from None


def encode_time(time: TimePoint) -> bytes:
    return json.dumps(dataclasses.asdict(time)).encode()


def decode_time(payload: bytes) -> TimePoint:
    """Raises Corrupt with reason `JournalDamaged`."""
    try:
        document = json.loads(payload)
        times = document["trusted_ms"], document["boottime_ms"]
        if any(type(time) is not int or not 0 <= time < 2**53 for time in times):
            raise ValueError(f"{times} are no times")
        return TimePoint(times[0], times[1], str(document["boot_id"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(f"not a time: {error}", reason="JournalDamaged") from None


def encode_facts(facts: Mapping[str, tuple[ContainerFacts, ...]], coordinators: Iterable[str]) -> bytes:
    replicas = {replica: [dataclasses.asdict(f) for f in rows] for replica, rows in sorted(facts.items())}
    return json.dumps({"coordinators": list(coordinators), "replicas": replicas}).encode()


def decode_facts(payload: bytes) -> tuple[dict[str, tuple[ContainerFacts, ...]], tuple[str, ...]]:
    """Raises Corrupt with reason `JournalDamaged`. Unknown fields of a newer version are left out."""
    try:
        document = json.loads(payload)
        facts = {str(r): tuple(_facts(row) for row in rows) for r, rows in document["replicas"].items()}
        return facts, tuple(str(address) for address in document["coordinators"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(f"not a set of facts: {error}", reason="JournalDamaged") from None


def _facts(row: dict[str, Any]) -> ContainerFacts:
    known = {key: value for key, value in row.items() if key in _FACT_TYPES}
    for key, value in known.items():
        if type(value) is not _FACT_TYPES[key]:
            raise ValueError(f"{key} is {value!r}")
    return ContainerFacts(**known)


class Journal:
    """The journal of one agent. One instance owns the folder. Event loop only; files are written in threads.

    `grants` checks what is read; without it, sets are taken unsigned."""

    def __init__(self, directory: Path, *, fabric: str = "", grants: Grants | None = None) -> None:
        self._directory = directory
        self._fabric = fabric
        self._grants = grants
        self._facts: dict[str, tuple[ContainerFacts, ...]] = {}
        self._coordinators: tuple[str, ...] = ()
        self.refused = ""  # why something that `load` found was not a coordinator's word; empty: nothing was
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()

    def load(self) -> Remembered:
        """Reads both files; called once, before anything is written. A broken file is set aside. Raises OSError
        when the folder cannot be used."""
        make_private_directory(self._directory)
        for leftover in self._directory.glob(".*.*"):  # of a write that a crash interrupted
            leftover.unlink(missing_ok=True)
        revision, assignments, lease = self._read(ASSIGNMENTS, self._decode_set) or (0, None, None)
        renewed = self._read(LEASE, self._decode_lease) if lease is not None else None
        if lease is not None and renewed is not None and _renews(renewed, lease):
            revision, lease = renewed.revision, renewed
        time = self._read(CLOCK, lambda data: decode_time(unframe(data, fabric=self._fabric)))
        self._facts, self._coordinators = self._read(
            FACTS, lambda data: decode_facts(unframe(data, fabric=self._fabric))
        ) or ({}, ())
        return Remembered(revision, assignments, dict(self._facts), self._coordinators, lease, time)

    def _read(self, name: str, decode: Callable[[bytes], Any]) -> Any:
        path = self._directory / name
        try:
            return decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (Corrupt, Unauthenticated) as error:
            if isinstance(error, Unauthenticated) and error.reason != UNSIGNED:
                self.refused = error.reason
            aside = self._set_aside(path)
            log.warning("journal.set_aside", file=str(path), moved_to=str(aside), reason=error.reason, cause=str(error))
            return None

    def _decode_set(self, data: bytes) -> tuple[int, tuple[Assignment, ...], Lease | None]:
        if data.startswith(b"%s %d " % (_MAGIC, _SIGNED)) and self._grants is not None:
            payload = unframe(data, fabric=self._fabric, version=_SIGNED)
            granted = self._grants.granted(_message(session_pb2.SignedAssignments, payload))
            return granted.lease.revision, granted.assignments, granted.lease
        revision, assignments = decode_assignments(unframe(data, fabric=self._fabric))
        if self._grants is not None:
            raise Unauthenticated("no coordinator has signed these assignments", reason=UNSIGNED)
        return revision, assignments, None

    def _decode_lease(self, data: bytes) -> Lease | None:
        payload = unframe(data, fabric=self._fabric, version=_SIGNED)
        message = _message(session_pb2.SignedLease, payload)
        return self._grants.renewal(message).lease if self._grants is not None else None

    def _set_aside(self, path: Path) -> Path:
        for number in range(_BROKEN_KEPT, 0, -1):
            aside = path.with_name(f"{path.name}.broken-{number}")
            if number == _BROKEN_KEPT:
                aside.unlink(missing_ok=True)
            elif aside.exists():
                aside.rename(path.with_name(f"{path.name}.broken-{number + 1}"))
        return path.rename(path.with_name(f"{path.name}.broken-1"))

    async def save_assignments(
        self, revision: int, assignments: Iterable[Assignment], granted: Granted | None = None
    ) -> None:
        """Durable on return. `granted` is the same set as a coordinator signed it. Raises OSError: the old set
        stays."""
        if granted is None:
            await self._write(ASSIGNMENTS, encode_assignments(revision, assignments))
        else:
            await self._write(ASSIGNMENTS, granted.message.SerializeToString(), version=_SIGNED)

    async def save_lease(self, renewal: Renewal) -> None:
        """A renewal of the saved set. Durable on return. Raises OSError: the older lease stays."""
        await self._write(LEASE, renewal.message.SerializeToString(), version=_SIGNED)

    async def save_time(self, time: TimePoint) -> None:
        """Durable on return. Raises OSError."""
        await self._write(CLOCK, encode_time(time))

    def remember(self, replica_id: str, facts: tuple[ContainerFacts, ...]) -> None:
        """Keeps what is known of a replica; written soon by `run`."""
        if self._facts.get(replica_id) != facts:
            self._facts[replica_id] = facts
            self._dirty.set()

    def forget(self, replica_id: str) -> None:
        if self._facts.pop(replica_id, None) is not None:
            self._dirty.set()

    @property
    def coordinators(self) -> tuple[str, ...]:
        """Addresses that were learnt, newest word last."""
        return self._coordinators

    def learn_coordinators(self, addresses: tuple[str, ...]) -> None:
        if addresses and addresses != self._coordinators:
            self._coordinators = addresses
            self._dirty.set()

    async def run(self) -> None:
        """Writes facts when they change; a full disk is waited out. Ends by cancellation."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_SETTLE_DELAY_S)  # what happens together is written together
            try:
                await self.flush()
            except OSError as error:
                log.warning("journal.write_failed", file=FACTS, cause=str(error))
                self._dirty.set()
                await asyncio.sleep(_RETRY_DELAY_S)

    async def flush(self) -> None:
        """Writes what `run` has not yet written. Raises OSError."""
        if self._dirty.is_set():
            self._dirty.clear()
            await self._write(FACTS, encode_facts(self._facts, self._coordinators))

    async def close(self) -> None:
        """A last flush; one that fails is logged: only counters would be lost."""
        with contextlib.suppress(OSError):
            await self.flush()

    async def _write(self, name: str, payload: bytes, *, version: int = _VERSION) -> None:
        async with self._writing:
            data = frame(payload, fabric=self._fabric, version=version)
            await asyncio.to_thread(write_private, self._directory / name, data)


def _renews(renewed: Lease, lease: Lease) -> bool:
    return renewed.digest == lease.digest and renewed.issued_at_ms > lease.issued_at_ms


def _message(message_type: type[M], payload: bytes) -> M:
    try:
        message: M = message_type.FromString(payload)
        return message
    except DecodeError as error:
        raise Corrupt(f"not what it says: {error}", reason="JournalDamaged") from None
