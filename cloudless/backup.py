"""The backup of a fabric: one file with its whole state and its identity, checksummed throughout.

    offset      size  field (little-endian)
         0         8  magic
         8         4  format
        12         4  length of the header
        16            header: JSON, see `BackupInfo`
                      sections, the state first, then files of the identity by path; each is
                   2      length of the name
                          name: `state`, or the path below a coordinator's data folder (ca/root.pem, tokens.key)
                   8      length of the data
                          data
                  32      SHA-256 of the data
                   2  zero: no more sections
                  32  SHA-256 of everything before it

The state has the bytes whose SHA-256 is the fabric's state hash (`cloudlessctl cluster status`), so that a reader that
knows nothing of the state can tell which one it is. A file is read and written in pieces; what is not exactly what a
writer made is `Corrupt`, and nothing of it is used. Whoever has the file can be this fabric: it has mode 0600, and
belongs where private keys belong.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from cloudless.errors import Corrupt, DiskFull, FailedPrecondition, NotFound
from cloudless.identity.files import PRIVATE_DIRECTORY, PRIVATE_FILE, make_private_directory, sync_directory

MAGIC: Final = b"CLBACKUP"
FORMAT: Final = 1
STATE: Final = "state"
REQUEST_FILE: Final = "restore.backup"  # in an otherwise empty data folder: the coordinator's first start restores it

HEADER_BYTES_MAX: Final = 64 * 2**10
SECTIONS_MAX: Final = 64
IDENTITY_FILE_BYTES_MAX: Final = 2**20
PIECE_BYTES: Final = 2**20

_START = struct.Struct("<8sII")
_NAME = struct.Struct("<H")
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES: Final = 32
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_PATH: Final = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_REMEDY: Final = "take another backup of the fabric; nothing of this one was used"


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What a backup says of itself. `index` and `term`: of the newest entry of the log that is in it. `state_hash`: hex
    SHA-256 of the state. `version`: of the coordinator that wrote it; `schema`: the schema of log entries that a
    coordinator must understand to continue it; `engine`: what replicated the log."""

    trust_domain: str
    index: int
    term: int
    state_hash: str
    created_at_ms: int
    version: str
    schema: int
    engine: str


class Sink(Protocol):
    """Where a section's data goes."""

    def write(self, data: bytes, /) -> Any: ...


# Writing


def pieces(info: BackupInfo, state: bytes, identity: Mapping[str, bytes]) -> Iterator[bytes]:
    """The file, in order, in pieces of at most `PIECE_BYTES`. `state` has `info.state_hash` (ValueError otherwise);
    `identity` maps paths below the data folder to contents. Blocks while it hashes."""
    whole = hashlib.sha256()

    def hashed(piece: bytes) -> bytes:
        whole.update(piece)
        return piece

    header = encode_header(info)
    yield hashed(_START.pack(MAGIC, FORMAT, len(header)) + header)
    for name, data in _sections(state, identity):
        digest = hashlib.sha256(data).digest()
        if name == STATE and digest.hex() != info.state_hash:
            raise ValueError("the state does not have the hash that is said of it")
        yield hashed(_section_head(name, len(data)))
        view = memoryview(data)
        for start in range(0, len(data), PIECE_BYTES):
            yield hashed(bytes(view[start : start + PIECE_BYTES]))
        yield hashed(digest)
    yield hashed(_NAME.pack(0))
    yield whole.digest()


def size_bytes(info: BackupInfo, state: bytes, identity: Mapping[str, bytes]) -> int:
    """How many bytes `pieces` makes of this."""
    sections = sum(len(_section_head(name, 0)) + len(data) + _DIGEST_BYTES for name, data in _sections(state, identity))
    return _START.size + len(encode_header(info)) + sections + _NAME.size + _DIGEST_BYTES


def encode_header(info: BackupInfo) -> bytes:
    return json.dumps(dataclasses.asdict(info), sort_keys=True, separators=(",", ":")).encode()


def _sections(state: bytes, identity: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    if len(identity) >= SECTIONS_MAX:
        raise ValueError(f"{len(identity)} files are more than a backup holds")
    yield STATE, state
    for name in sorted(identity):
        if not _PATH.fullmatch(name) or name == STATE or len(identity[name]) > IDENTITY_FILE_BYTES_MAX:
            raise ValueError(f"{name!r} is no file of an identity")
        yield name, identity[name]


def _section_head(name: str, length: int) -> bytes:
    encoded = name.encode()
    return _NAME.pack(len(encoded)) + encoded + _LENGTH.pack(length)


class BackupWriter:
    """A backup that arrives in pieces. It appears under its name whole, checked and durable, or not at all.

    with BackupWriter(path) as writer:
        for piece in arriving:
            writer.write(piece)
        info = writer.finish()
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where the folder cannot be written."""
        self._path = path
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        self._temporary = Path(name)
        os.fchmod(descriptor, PRIVATE_FILE)
        self._file: BinaryIO = os.fdopen(descriptor, "w+b")

    def __enter__(self) -> BackupWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """What was not finished leaves nothing behind."""
        with suppress(OSError):  # a disk that is full says so once more
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Raises DiskFull, OSError."""
        try:
            self._file.write(piece)
        except OSError as error:
            raise _disk_full(self._path, error) from error

    def finish(self) -> BackupInfo:
        """Reads back what arrived, and gives it its name; what had that name is replaced. Raises Corrupt, DiskFull,
        OSError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _disk_full(self._path, error) from error
        info = read_backup(self._file, source=str(self._path))
        self._file.close()
        os.replace(self._temporary, self._path)
        sync_directory(self._path.parent)
        return info


# Reading


def read_backup(
    file: BinaryIO, open_section: Callable[[str, int], Sink] | None = None, *, source: str = "the backup"
) -> BackupInfo:
    """Reads a whole backup from a file that can seek, and checks every byte of it. `open_section(name, length)` says
    where the data of each section goes; None: nowhere. What went there is good only when this returns.

    Raises Corrupt, with the place, for everything that is not exactly a backup; what the sinks raise; OSError.
    """
    reader = _Reader(file, source)
    magic, version, length = _START.unpack(reader.take(_START.size, "its start"))
    if magic != MAGIC:
        raise reader.corrupt("it is no backup of a fabric")
    if version != FORMAT:
        raise reader.corrupt(f"it has format {version}, this version reads format {FORMAT}")
    if length > HEADER_BYTES_MAX:
        raise reader.corrupt(f"a header of {length} bytes is too long")
    info = _decode_header(reader.take(length, "the header"), reader)
    names: list[str] = []
    for number in range(SECTIONS_MAX + 1):
        (name_length,) = _NAME.unpack(reader.take(_NAME.size, "the head of a section"))
        if name_length == 0:
            break
        if number == SECTIONS_MAX:
            raise reader.corrupt("it has too many sections")
        name = reader.take(name_length, "the name of a section").decode("utf-8", "replace")
        _check_name(name, names, reader)
        names.append(name)
        digest = _read_section(name, reader, open_section)
        if name == STATE and digest.hex() != info.state_hash:
            raise reader.corrupt("its state does not have the hash that its header says")
    else:
        raise reader.corrupt("it has no end")
    if not names:
        raise reader.corrupt("it holds no state")
    whole = reader.digest()
    if reader.take(_DIGEST_BYTES, "the checksum at its end") != whole:
        raise reader.corrupt("it fails the checksum at its end")
    if reader.left:
        raise reader.corrupt(f"{reader.left} bytes follow its end")
    return info


def verify(path: Path) -> BackupInfo:
    """Reads a backup from one end to the other. Raises Corrupt, NotFound, OSError."""
    with _opened(path) as file:
        return read_backup(file, source=str(path))


def extract(path: Path, directory: Path) -> BackupInfo:
    """Writes each section to a file of its name below `directory`, which is made (mode 0700) and must be empty; durable
    on return. Raises Corrupt, and then `directory` is gone; NotFound, DiskFull, OSError."""
    make_private_directory(directory)
    if any(directory.iterdir()):
        raise FailedPrecondition(f"{directory} is not empty", reason="DirectoryNotEmpty")
    writing: list[BinaryIO] = []

    def open_section(name: str, length: int) -> Sink:
        _close_durably(writing)
        target = directory / name
        for folder in reversed([p for p in target.parents if directory in p.parents]):
            folder.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        writing.append(os.fdopen(descriptor, "wb"))
        return writing[-1]

    try:
        with _opened(path) as file:
            info = read_backup(file, open_section, source=str(path))
        _close_durably(writing)
        for folder in (directory, *(p for p in directory.rglob("*") if p.is_dir())):
            sync_directory(folder)
        sync_directory(directory.parent)
    except BaseException as error:
        for left in writing:
            with suppress(OSError):
                left.close()
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, OSError):
            raise _disk_full(directory, error) from error
        raise
    return info


def place(path: Path, data_dir: Path) -> BackupInfo:
    """Asks the coordinator of `data_dir`, which must be empty or not exist, to begin with this backup at its first
    start. Raises Corrupt, NotFound, FailedPrecondition (DataDirNotEmpty), DiskFull, OSError."""
    info = verify(path)
    make_private_directory(data_dir)
    for left_over in data_dir.glob(f".{REQUEST_FILE}.*"):  # of a copy that was cut off
        left_over.unlink()
    refuse_used(data_dir)
    data_dir.chmod(PRIVATE_DIRECTORY)
    with _opened(path) as file, BackupWriter(data_dir / REQUEST_FILE) as writer:
        while piece := file.read(PIECE_BYTES):
            writer.write(piece)
        writer.finish()
    return info


def refuse_used(data_dir: Path, *, except_for: frozenset[str] = frozenset()) -> None:
    """Raises FailedPrecondition (DataDirNotEmpty) where the folder holds anything but these names."""
    found = sorted(p.name for p in data_dir.iterdir() if p.name not in except_for)
    if found:
        shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise FailedPrecondition(
            f"the data folder {data_dir} is in use: it holds {shown}",
            reason="DataDirNotEmpty",
            remedy="restore into an empty folder; a coordinator that was there is moved away, not overwritten",
        )


def decode_header(data: bytes) -> BackupInfo:
    """Raises ValueError for anything that `encode_header` did not make."""
    fields: Any = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("it is no object")
    wanted = {field.name: int if field.type == "int" else str for field in dataclasses.fields(BackupInfo)}
    if set(fields) != set(wanted) or any(type(fields[name]) is not wanted[name] for name in wanted):
        raise ValueError("its fields are not those of a backup")
    info = BackupInfo(**fields)
    numbers = (info.index, info.term, info.created_at_ms, info.schema)
    if not all(0 <= number < 2**62 for number in numbers) or not _HASH.fullmatch(info.state_hash):
        raise ValueError("a value is out of range")
    if encode_header(info) != data:
        raise ValueError("it is not written as a backup writes it")
    return info


class _Reader:
    """Takes a file apart from its start; knows how much of it is left, and the hash of what was taken."""

    def __init__(self, file: BinaryIO, source: str) -> None:
        self._file = file
        self._source = source
        self._whole = hashlib.sha256()
        self.left = file.seek(0, os.SEEK_END)
        self._offset = file.seek(0)

    def take(self, length: int, what: str) -> bytes:
        if length > self.left:
            raise self.corrupt(f"it ends within {what}: {self.left} bytes of {length} are there")
        data = self._file.read(length)
        if len(data) != length:
            raise self.corrupt(f"it became shorter while {what} was read")
        self._whole.update(data)
        self._offset += length
        self.left -= length
        return data

    def digest(self) -> bytes:
        return self._whole.digest()

    def corrupt(self, cause: str) -> Corrupt:
        where = f"{self._source} cannot be used (byte {self._offset})"
        return Corrupt(f"{where}: {cause}", reason="BackupDamaged", remedy=_REMEDY)


def _decode_header(data: bytes, reader: _Reader) -> BackupInfo:
    try:
        return decode_header(data)
    except (ValueError, RecursionError) as error:
        raise reader.corrupt(f"its header cannot be read: {error}") from None


def _check_name(name: str, before: list[str], reader: _Reader) -> None:
    if not before:
        if name != STATE:
            raise reader.corrupt("its first section is not the state")
        return
    if not _PATH.fullmatch(name):
        raise reader.corrupt(f"{name[:80]!r} is no file of an identity")
    if len(before) > 1 and name <= before[-1]:
        raise reader.corrupt("its sections are not in order")
    taken = [other for other in before if other == name or name.startswith(f"{other}/")]
    if taken:
        raise reader.corrupt(f"{name!r} cannot be beside {taken[0]!r}")


def _read_section(name: str, reader: _Reader, open_section: Callable[[str, int], Sink] | None) -> bytes:
    what = f"the section {name}"
    (length,) = _LENGTH.unpack(reader.take(_LENGTH.size, f"the head of {what}"))
    if length > reader.left:
        raise reader.corrupt(f"{what} would have {length} bytes, {reader.left} are there")
    if name != STATE and length > IDENTITY_FILE_BYTES_MAX:
        raise reader.corrupt(f"{what} is too long: {length} bytes")
    sink = open_section(name, length) if open_section is not None else None
    hashed = hashlib.sha256()
    while length:
        piece = reader.take(min(length, PIECE_BYTES), what)
        length -= len(piece)
        hashed.update(piece)
        if sink is not None:
            sink.write(piece)
    digest = hashed.digest()
    if reader.take(_DIGEST_BYTES, f"the checksum of {what}") != digest:
        raise reader.corrupt(f"{what} fails its checksum")
    return digest


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"there is no backup {path}", reason="BackupMissing") from None


def _close_durably(writing: list[BinaryIO]) -> None:
    while writing:
        file = writing.pop()
        with file:
            file.flush()
            os.fsync(file.fileno())


def _disk_full(path: Path, error: OSError) -> OSError | DiskFull:
    """The same error, in words where it says that there is no room."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return DiskFull(f"{path} cannot be written: {error.strerror}", remedy="free space, or write it elsewhere")
