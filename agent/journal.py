"""What an agent must still know after it, or the whole device, restarted: what it shall run, and how far it got.

Two files in one folder, each replaced in one durable step: `assignments` (the last AssignmentSet) is written before
it is acted on; `facts` (runs, restarts and last exits of containers, addresses of coordinators) follows what
happened within a moment. Each starts with a line `cloudless-journal VERSION CRC32 LENGTH FABRIC`; a file that does
not match its line, or belongs to another fabric, is set aside with a warning and read as absent: the coordinator
sends the assignments again, and what runs is adopted, not judged by a guess.
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
from typing import Any, Final

import structlog

from cloudless.agent.core.model import ContainerFacts
from cloudless.api.v1 import session_pb2
from cloudless.api.v1.convert import from_proto, to_proto
from cloudless.core.model import Assignment
from cloudless.errors import Corrupt
from cloudless.identity.files import make_private_directory, write_private

log = structlog.get_logger(__name__)

ASSIGNMENTS: Final = "assignments"
FACTS: Final = "facts"
_MAGIC: Final = b"cloudless-journal"
_VERSION: Final = 1
_BROKEN_KEPT: Final = 3
_RETRY_DELAY_S: Final = 5.0
_SETTLE_DELAY_S: Final = 0.05

_FACT_TYPES: Final[dict[str, type]] = {
    f.name: type(f.default) if f.default is not dataclasses.MISSING else str for f in dataclasses.fields(ContainerFacts)
}


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the journal holds. `assignments` is None when no coordinator ever said what to run."""

    revision: int = 0
    assignments: tuple[Assignment, ...] | None = None
    facts: Mapping[str, tuple[ContainerFacts, ...]] = field(default_factory=dict)
    coordinators: tuple[str, ...] = ()


def frame(payload: bytes, *, fabric: str) -> bytes:
    """A file's bytes: the line that vouches for the payload, then the payload."""
    name = fabric.encode()
    return b"%s %d %08x %d %s\n" % (_MAGIC, _VERSION, zlib.crc32(name + payload), len(payload), name) + payload


def unframe(data: bytes, *, fabric: str) -> bytes:
    """The payload of a file. Raises Corrupt with reason `JournalDamaged`, `JournalVersion` or `OtherFabric`."""
    line, separator, payload = data.partition(b"\n")
    parts = line.split(b" ")
    if not separator or len(parts) != 5 or parts[0] != _MAGIC or not parts[1].isdigit():
        raise Corrupt("not a journal file", reason="JournalDamaged")
    if int(parts[1][:9]) != _VERSION:
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
    """The journal of one agent. One instance owns the folder. Event loop only; files are written in threads."""

    def __init__(self, directory: Path, *, fabric: str = "") -> None:
        self._directory = directory
        self._fabric = fabric
        self._facts: dict[str, tuple[ContainerFacts, ...]] = {}
        self._coordinators: tuple[str, ...] = ()
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()

    def load(self) -> Remembered:
        """Reads both files; called once, before anything is written. A broken file is set aside. Raises OSError
        when the folder cannot be used."""
        make_private_directory(self._directory)
        for leftover in self._directory.glob(".*.*"):  # of a write that a crash interrupted
            leftover.unlink(missing_ok=True)
        revision, assignments = self._read(ASSIGNMENTS, decode_assignments) or (0, None)
        self._facts, self._coordinators = self._read(FACTS, decode_facts) or ({}, ())
        return Remembered(revision, assignments, dict(self._facts), self._coordinators)

    def _read(self, name: str, decode: Callable[[bytes], Any]) -> Any:
        path = self._directory / name
        try:
            return decode(unframe(path.read_bytes(), fabric=self._fabric))
        except FileNotFoundError:
            return None
        except Corrupt as error:
            aside = self._set_aside(path)
            log.warning("journal.set_aside", file=str(path), moved_to=str(aside), reason=error.reason, cause=str(error))
            return None

    def _set_aside(self, path: Path) -> Path:
        for number in range(_BROKEN_KEPT, 0, -1):
            aside = path.with_name(f"{path.name}.broken-{number}")
            if number == _BROKEN_KEPT:
                aside.unlink(missing_ok=True)
            elif aside.exists():
                aside.rename(path.with_name(f"{path.name}.broken-{number + 1}"))
        return path.rename(path.with_name(f"{path.name}.broken-1"))

    async def save_assignments(self, revision: int, assignments: Iterable[Assignment]) -> None:
        """Durable on return. Raises OSError: the old set stays."""
        payload = encode_assignments(revision, assignments)
        await self._write(ASSIGNMENTS, payload)

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

    async def _write(self, name: str, payload: bytes) -> None:
        async with self._writing:
            data = frame(payload, fabric=self._fabric)
            await asyncio.to_thread(write_private, self._directory / name, data)
