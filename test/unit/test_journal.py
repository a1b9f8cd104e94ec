"""The journal: what it keeps, and what it does with files that are broken, foreign or half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudless.agent import journal as j
from cloudless.agent.core.model import ContainerFacts
from cloudless.core.model import Assignment
from cloudless.core.spec import Container, WorkloadSpec
from cloudless.errors import Corrupt

FACTS = (ContainerFacts("main", attempt=3, ended_attempt=2, failures=2, last_reason="OOMKilled", last_exit_code=137),)
WANTED = (Assignment("r1", "web", "default", 4, WorkloadSpec(replicas=2, containers=(Container("main", "image"),))),)


async def test_both_files_come_back(tmp_path: Path) -> None:
    journal = j.Journal(tmp_path / "j", fabric="f")
    assert journal.load() == j.Remembered()
    await journal.save_assignments(7, WANTED)
    journal.remember("r1", FACTS)
    journal.learn_coordinators(("a:1", "b:1"))
    await journal.close()
    again = j.Journal(tmp_path / "j", fabric="f").load()
    assert again == j.Remembered(7, WANTED, {"r1": FACTS}, ("a:1", "b:1"))
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o700


async def test_an_empty_set_is_not_no_set(tmp_path: Path) -> None:
    journal = j.Journal(tmp_path, fabric="f")
    journal.load()
    await journal.save_assignments(7, ())
    assert j.Journal(tmp_path, fabric="f").load().assignments == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"x",
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        lambda data: data.replace(b"cloudless-journal 1", b"cloudless-journal 2"),
        lambda data: b"\x00" * len(data),
        lambda data: data.replace(b" f\n", b" g\n"),
    ],
)
@pytest.mark.parametrize("name", [j.ASSIGNMENTS, j.FACTS])
async def test_a_broken_file_is_set_aside_and_the_other_kept(tmp_path: Path, damage, name: str) -> None:
    journal = j.Journal(tmp_path, fabric="f")
    journal.load()
    await journal.save_assignments(7, WANTED)
    journal.remember("r1", FACTS)
    await journal.close()
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    found = j.Journal(tmp_path, fabric="f").load()
    assert (found.assignments is None) == (name == j.ASSIGNMENTS)
    assert (found.facts == {}) == (name == j.FACTS)
    assert (tmp_path / f"{name}.broken-1").exists()
    assert not path.exists()


async def test_only_the_last_broken_files_are_kept(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / j.FACTS).write_bytes(b"%d" % number)
        j.Journal(tmp_path).load()
    kept = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert kept == {"facts.broken-1": b"5", "facts.broken-2": b"4", "facts.broken-3": b"3"}


async def test_a_journal_of_another_fabric_does_not_count(tmp_path: Path) -> None:
    journal = j.Journal(tmp_path, fabric="one")
    journal.load()
    await journal.save_assignments(7, WANTED)
    assert j.Journal(tmp_path, fabric="two").load().assignments is None


async def test_what_a_crash_left_half_written_is_swept(tmp_path: Path) -> None:
    journal = j.Journal(tmp_path, fabric="f")
    journal.load()
    await journal.save_assignments(7, WANTED)
    (tmp_path / ".assignments.abc123").write_bytes(b"half")
    assert j.Journal(tmp_path, fabric="f").load().revision == 7
    assert not (tmp_path / ".assignments.abc123").exists()


async def test_a_disk_that_refuses_leaves_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = j.Journal(tmp_path, fabric="f")
    journal.load()
    await journal.save_assignments(7, WANTED)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(j, "write_private", full)
    with pytest.raises(OSError, match="space"):
        await journal.save_assignments(8, ())
    monkeypatch.undo()
    assert j.Journal(tmp_path, fabric="f").load().revision == 7


async def test_facts_of_a_newer_version_are_read_without_what_is_unknown(tmp_path: Path) -> None:
    payload = j.encode_facts({"r1": FACTS}, ()).replace(b'"attempt": 3', b'"attempt": 3, "colour": "red"')
    assert j.decode_facts(payload)[0] == {"r1": FACTS}


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"{}", b'{"coordinators": [], "replicas": {"r": [{"name": 3}]}}', b'{"coordinators": [], "replicas": []}'],
)
def test_facts_that_are_none_are_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        j.decode_facts(payload)
