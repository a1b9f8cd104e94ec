"""The backup file: what is written is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import resource
import stat
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from cloudless import backup
from cloudless.backup import BackupInfo, BackupWriter
from cloudless.errors import Corrupt, DiskFull, FailedPrecondition, NotFound

STATE = b"the state of it all" * 3
IDENTITY = {"ca/root.pem": b"root", "ca/issuing.key": b"key", "tokens.key": b""}


def info_of(state: bytes = STATE) -> BackupInfo:
    return BackupInfo("fabric.example", 42, 7, hashlib.sha256(state).hexdigest(), 1_700_000_000_000, "1.0", 2, "raft")


def written(state: bytes = STATE, identity: Mapping[str, bytes] = IDENTITY, info: BackupInfo | None = None) -> bytes:
    return b"".join(backup.pieces(info or info_of(state), state, identity))


def read(data: bytes) -> tuple[BackupInfo, dict[str, bytes]]:
    sinks: dict[str, io.BytesIO] = {}

    def open_section(name: str, length: int) -> io.BytesIO:
        sinks[name] = io.BytesIO()
        return sinks[name]

    info = backup.read_backup(io.BytesIO(data), open_section)
    return info, {name: sink.getvalue() for name, sink in sinks.items()}


def save(directory: Path, data: bytes) -> Path:
    path = directory / "fabric.backup"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("repeats", [0, 1, 4096, 200_000])
def test_what_is_written_is_read(repeats: int) -> None:
    state = b"sixteen bytes ..\n"[:16] * repeats
    data = written(state)
    assert read(data) == (info_of(state), {"state": state, **IDENTITY})
    assert backup.size_bytes(info_of(state), state, IDENTITY) == len(data)
    assert max(map(len, backup.pieces(info_of(state), state, IDENTITY))) <= backup.PIECE_BYTES


def test_equal_backups_have_equal_bytes() -> None:
    assert written() == written(identity=dict(reversed(IDENTITY.items())))


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "ca/../x", "ca//x", ".hidden", "state", "a b", "x" * 65])
def test_no_other_files_are_written(name: str) -> None:
    with pytest.raises(ValueError, match="no file of an identity"):
        written(identity={name: b""})


def test_a_state_is_written_under_its_own_hash_only() -> None:
    with pytest.raises(ValueError, match="hash"):
        written(info=info_of(b"another"))
    with pytest.raises(ValueError, match="no file of an identity"):
        written(identity={"tokens.key": bytes(backup.IDENTITY_FILE_BYTES_MAX + 1)})


def section(name: bytes, data: bytes) -> bytes:
    head = struct.pack("<H", len(name)) + name + struct.pack("<Q", len(data))
    return head + data + hashlib.sha256(data).digest()


def file_of(*sections: bytes, header: bytes | None = None, magic: bytes = backup.MAGIC, version: int = 1) -> bytes:
    """A file whose checksums are right, whatever else it is."""
    header = backup.encode_header(info_of()) if header is None else header
    data = struct.pack("<8sII", magic, version, len(header)) + header + b"".join(sections) + bytes(2)
    return data + hashlib.sha256(data).digest()


GOOD = section(b"state", STATE)
HEADER = backup.encode_header(info_of())


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "ends within its start: 0 bytes of 16"),
        (b"CLBACK", "ends within its start"),
        (file_of(GOOD, magic=b"CLSNAP\r\n"), "no backup"),
        (file_of(GOOD, version=2), "format 2"),
        (file_of(GOOD) + b"\0", "1 bytes follow"),
        (file_of(), "no state"),
        (file_of(section(b"tokens.key", b"")), "first section is not the state"),
        (file_of(section(b"state", b"other")), "hash that its header says"),
        (file_of(GOOD, GOOD), "cannot be beside"),
        (file_of(GOOD, section(b"state/x", b"")), "cannot be beside"),
        (file_of(GOOD, section(b"b", b""), section(b"a", b"")), "not in order"),
        (file_of(GOOD, section(b"a", b""), section(b"a", b"")), "not in order"),
        (file_of(GOOD, section(b"ca", b""), section(b"ca/x", b"")), "cannot be beside"),
        (file_of(GOOD, section(b"../x", b"")), "no file of an identity"),
        (file_of(GOOD, section(b"\xff\xfe", b"")), "no file of an identity"),
        (file_of(GOOD, section(b"a", bytes(2**20 + 1))), "too long"),
        (file_of(GOOD, *(section(b"a%03d" % i, b"") for i in range(64))), "too many sections"),
        (file_of(GOOD, header=b"{}"), "not those of a backup"),
        (file_of(GOOD, header=b"[]"), "no object"),
        (file_of(GOOD, header=b"["), "header cannot be read"),
        (file_of(GOOD, header=b"[" * 60_000), "header cannot be read"),
        (file_of(GOOD, header=HEADER + b" "), "not written as"),
        (file_of(GOOD, header=HEADER.replace(b'"index":42', b'"index":-1')), "out of range"),
        (file_of(GOOD, header=HEADER.replace(b'"index":42', b'"index":4.2')), "not those"),
        (file_of(GOOD, header=HEADER.replace(b'"index":42', b'"index":true')), "not those"),
        (file_of(GOOD, header=bytes(2**16 + 1)), "too long"),
        (file_of(section(b"state", STATE)[:-1] + b"\0"), "fails its checksum"),
        (file_of(struct.pack("<H", 5) + b"state" + struct.pack("<Q", 2**64 - 1)), "would have 18446744073709551615"),
        (file_of(struct.pack("<H", 65535)), "ends within the name"),
        (file_of(GOOD)[:-1] + b"\0", "checksum at its end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_backup_is_refused_with_the_place(data: bytes, cause: str) -> None:
    with pytest.raises(Corrupt) as caught:
        read(data)
    assert cause in caught.value.message
    assert "(byte " in caught.value.message
    assert caught.value.reason == "BackupDamaged"
    assert caught.value.remedy


def test_the_writer_publishes_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.backup"
    with BackupWriter(path) as writer:
        for piece in backup.pieces(info_of(), STATE, IDENTITY):
            writer.write(piece)
        assert not path.exists()
        assert writer.finish() == info_of()
    assert backup.verify(path) == info_of()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a.backup"]


def test_the_writer_leaves_nothing_of_what_is_not(tmp_path: Path) -> None:
    path = save(tmp_path, b"what was there")
    with BackupWriter(path) as writer:
        writer.write(written()[:-1])
        with pytest.raises(Corrupt):
            writer.finish()
    with BackupWriter(path) as writer:
        writer.write(written())
    assert path.read_bytes() == b"what was there"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with BackupWriter(tmp_path / "a.backup") as writer:
        writer.write(bytes(2000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(DiskFull) as caught:
                writer.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_extracting_gives_the_files(tmp_path: Path) -> None:
    path = save(tmp_path, written())
    out = tmp_path / "out"
    assert backup.extract(path, out) == info_of()
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {"state": STATE, **IDENTITY}
    for p in (out, *out.rglob("*")):
        assert stat.S_IMODE(p.stat().st_mode) == (0o700 if p.is_dir() else 0o600)
    with pytest.raises(FailedPrecondition):
        backup.extract(path, out)


def test_nothing_is_left_of_a_damaged_one(tmp_path: Path) -> None:
    path = save(tmp_path, written()[:-1])
    with pytest.raises(Corrupt) as caught:
        backup.extract(path, tmp_path / "out")
    assert str(path) in caught.value.message
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotFound):
        backup.verify(tmp_path / "none")


def test_placing_asks_the_first_start(tmp_path: Path) -> None:
    path = save(tmp_path, written())
    data_dir = tmp_path / "new" / "data"
    assert backup.place(path, data_dir) == info_of()
    assert (data_dir / backup.REQUEST_FILE).read_bytes() == path.read_bytes()
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / backup.REQUEST_FILE).stat().st_mode) == 0o600
    with pytest.raises(FailedPrecondition) as caught:
        backup.place(path, data_dir)
    assert caught.value.reason == "DataDirNotEmpty"
    assert backup.REQUEST_FILE in caught.value.message


def test_a_damaged_one_is_not_placed(tmp_path: Path) -> None:
    path = save(tmp_path, written() + b"x")
    with pytest.raises(Corrupt):
        backup.place(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f".{backup.REQUEST_FILE}.abc").write_bytes(b"of a copy that was cut off")
    backup.place(save(tmp_path, written()), tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == [backup.REQUEST_FILE]


def test_a_large_one_is_written_and_read_in_pieces(tmp_path: Path) -> None:
    state = bytes(24 * 2**20)
    info = dataclasses.replace(info_of(state))
    path = tmp_path / "large"
    tracemalloc.start()
    try:
        with BackupWriter(path) as writer:
            for piece in backup.pieces(info, state, IDENTITY):
                writer.write(piece)
            writer.finish()
        backup.extract(path, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
