"""`cloudlessctl cluster`: what it prints and sends, backups as files, and what the doctor finds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudless import backup
from cloudless.contexts import Contexts
from cloudless.ctl.main import run
from cloudless.errors import Unavailable
from cloudless.testing.ctl import Ctl, context_of
from cloudless.testing.fake_control import FakeControl


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as started:
        yield started


@pytest.fixture
def ctl(control: FakeControl, tmp_path: Path) -> Ctl:
    return Ctl(control, tmp_path)


def lines(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


def backup_bytes(state: bytes = b"state" * 5000) -> bytes:
    info = backup.BackupInfo("test", 42, 7, hashlib.sha256(state).hexdigest(), 1_800_000_000_000, "0.1.0", 2, "raft")
    return b"".join(backup.pieces(info, state, {"ca/root.pem": b"root", "tokens.key": b"key"}))


# status and members


def test_status_shows_the_coordinators(ctl: Ctl) -> None:
    shown = ctl("cluster", "status")
    assert shown.code == 0
    assert "Leader:          c1\n" in shown.out
    assert shown.out.endswith(
        lines("""
        COORDINATOR   ROLE     BEHIND   LAST CONTACT   VERSION   ADDRESS
        c1 *          leader   0        -              0.1.0     c1.test:8443
        c2            voter    0        0s ago         0.1.0     c2.test:8443
        c3            voter    0        0s ago         0.1.0     c3.test:8443
        """)
    )
    assert json.loads(ctl("cluster", "status", "-o", "json").out)["coordinators"][0]["role"] == "leader"


def test_status_without_a_leader_says_what_that_means(ctl: Ctl, control: FakeControl) -> None:
    control.cluster.leader = ""
    assert "no writes until a majority" in ctl("cluster", "status").out


@pytest.mark.parametrize("words", [("get", "nodes", "--stale"), ("--stale", "get", "nodes")])
def test_stale_reads_need_no_leader(ctl: Ctl, control: FakeControl, words: tuple[str, ...]) -> None:
    assert ctl(*words).code == 0
    assert ctl("get", "nodes").code == 0
    asked = [metadata.get("cloudless-consistency") for method, _, metadata in control.calls if method == "ListNodes"]
    assert asked == ["stale", None]


def test_add_prints_the_token_alone_on_stdout(ctl: Ctl) -> None:
    made = ctl("cluster", "add", "c4")
    assert (made.code, made.out) == (0, "a.b.c\n")
    assert "admits coordinator c4, once" in made.err
    assert json.loads(ctl("cluster", "add", "c5", "-o", "json").out)["jwt"] == "a.b.c"
    refused = ctl("cluster", "add", "c1")
    assert refused.code != 0
    assert "member already" in refused.err


def test_remove_promote_and_transfer(ctl: Ctl, control: FakeControl) -> None:
    control.cluster.roles["c4"] = "learner"
    assert ctl("cluster", "promote", "c4").out == "coordinator/c4 votes\n"
    assert ctl("cluster", "transfer-leader", "c3").out == "coordinator/c3 leads\n"
    assert ctl("cluster", "transfer-leader").out == "coordinator/c2 leads\n"
    assert ctl("cluster", "remove", "c4").out == "coordinator/c4 removed\n"
    assert "there is no coordinator c4" in ctl("cluster", "remove", "c4").err


# backup and restore


def test_backup_writes_one_checked_private_file(ctl: Ctl, control: FakeControl, tmp_path: Path) -> None:
    control.cluster.backup = backup_bytes()
    path = tmp_path / "fabric.backup"
    made = ctl("cluster", "backup", str(path))
    assert made.code == 0, made.err
    assert made.out.startswith(f"{path}: entry 42 of test, {len(control.cluster.backup)} bytes, state ")
    assert path.read_bytes() == control.cluster.backup
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = ctl("cluster", "backup", str(path))
    assert again.code != 0
    assert "--force" in again.err
    assert ctl("cluster", "backup", "--force", str(path)).code == 0


@pytest.mark.parametrize("damage", ["cut", "altered", "broken off"])
def test_a_backup_that_arrives_damaged_leaves_no_file(
    ctl: Ctl, control: FakeControl, tmp_path: Path, damage: str
) -> None:
    good = backup_bytes()
    control.cluster.backup = {"cut": good[:-1], "altered": good[:900] + b"!" + good[901:], "broken off": good}[damage]
    control.cluster.break_after = 3000 if damage == "broken off" else -1
    folder = tmp_path / "backups"
    folder.mkdir()
    failed = ctl("cluster", "backup", str(folder / "fabric.backup"))
    assert failed.code != 0
    assert failed.err.startswith("error: ")
    assert list(folder.iterdir()) == []


def test_restore_checks_and_places_the_file(ctl: Ctl, tmp_path: Path) -> None:
    path, data = tmp_path / "fabric.backup", tmp_path / "data"
    path.write_bytes(backup_bytes())
    assert "every byte is right" in ctl("cluster", "restore", str(path), "--check").out
    placed = ctl("cluster", "restore", str(path), "--data-dir", str(data))
    assert placed.code == 0, placed.err
    assert f"cloudless-coordinator --id NEW_ID --data-dir {data} --identity-trust-domain test" in placed.out
    assert (data / backup.REQUEST_FILE).read_bytes() == path.read_bytes()
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    again = ctl("cluster", "restore", str(path), "--data-dir", str(data))
    assert again.code != 0


@pytest.mark.parametrize("at", [0, 20, 300, 20_000, -1])
def test_restore_refuses_what_is_altered_or_cut_and_leaves_the_folder_empty(ctl: Ctl, tmp_path: Path, at: int) -> None:
    good = backup_bytes()
    flipped = bytearray(good)
    flipped[at] ^= 1
    for bad in (bytes(flipped), good[:at]):
        path, data = tmp_path / "fabric.backup", tmp_path / "data"
        path.write_bytes(bad)
        refused = ctl("cluster", "restore", str(path), "--data-dir", str(data))
        assert refused.code != 0
        assert "nothing of this one was used" in refused.err
        assert not data.exists() or not list(data.iterdir())


def test_restore_needs_a_file_and_one_of_two_flags(ctl: Ctl, tmp_path: Path) -> None:
    assert "either --data-dir or --check" in ctl("cluster", "restore", "x").err
    missing = ctl("cluster", "restore", str(tmp_path / "nothing"), "--check")
    assert missing.code != 0
    assert "nothing" in missing.err


# doctor


@contextlib.contextmanager
def several(ctl: Ctl, tmp_path: Path, count: int = 3) -> Iterator[dict[str, FakeControl]]:
    """So many coordinators with addresses of their own; the context names the first one only."""
    with contextlib.ExitStack() as stack:
        controls = {f"c{n}": stack.enter_context(FakeControl()) for n in range(1, count + 1)}
        for name, control in controls.items():
            control.cluster.asked = name
            control.cluster.roles = {each: "leader" if each == "c1" else "voter" for each in controls}
            control.cluster.addresses = {each: other.address for each, other in controls.items()}
        Contexts().merge(context_of(controls["c1"])).save(ctl.config)
        yield controls


def doctor(ctl: Ctl, *flags: str, words: tuple[str, ...] = ("cluster", "doctor")) -> tuple[int, str]:
    """Asks over real channels, each coordinator at its own address."""
    import io
    from contextlib import redirect_stdout

    import grpc

    out = io.StringIO()
    with redirect_stdout(out):
        code = run([*words, *flags], ctl.app(open_channel=grpc.insecure_channel))
    return code, out.getvalue()


def test_status_is_that_of_the_leader(ctl: Ctl, tmp_path: Path) -> None:
    with several(ctl, tmp_path) as controls:
        for control in controls.values():
            control.cluster.leader = "c2"
        code, out = doctor(ctl, words=("cluster", "status"))
        assert code == 0
        assert "Coordinator:     c2" in out
        code, out = doctor(ctl, words=("cluster", "status", "--stale"))
        assert "Coordinator:     c1" in out
        controls["c2"].fail("GetStatus", Unavailable("gone"), times=100)
        code, out = doctor(ctl, words=("cluster", "status"))
        assert (code, "Coordinator:     c1" in out) == (0, True)


def test_the_doctor_finds_nothing_wrong_with_three_that_agree(ctl: Ctl, tmp_path: Path) -> None:
    with several(ctl, tmp_path):
        code, out = doctor(ctl)
        assert code == 0
        assert out.startswith("ok:       reachable: c1, c2, c3 answer\nok:       quorum: 3 of 3 voters answer")
        assert "warning" not in out
        assert "problem" not in out


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"leader": ""}, "warning", "c2 says none"),
        ({"state_hash": "ff"}, "problem", "different states"),
        ({"applied": -20_000}, "warning", "entries behind"),
        ({"clock_offset_ms": 60_000}, "warning", "clocks differ by 1m"),
    ],
)
def test_the_doctor_compares(ctl: Ctl, tmp_path: Path, change: dict, level: str, words: str) -> None:
    with several(ctl, tmp_path) as controls:
        for name, value in change.items():
            setattr(controls["c2"].cluster, name, value)
        code, out = doctor(ctl)
        line = next(line for line in out.splitlines() if words in line)
        assert line.startswith(level)
        assert code == int(level == "problem")


def test_the_doctor_names_what_does_not_answer_and_what_that_means(ctl: Ctl, tmp_path: Path) -> None:
    with several(ctl, tmp_path) as controls:
        controls["c3"].__exit__()
        code, out = doctor(ctl)
        assert code == 1
        assert f"problem:  reachable: c3: no coordinator answers at {controls['c3'].address}" in out
        assert "one more loss stops writes" in out
        controls["c2"].__exit__()
        code, out = doctor(ctl)
        assert code == 1
        assert "problem:  quorum: 1 of 3 voters answer, 2 are needed" in out


def test_the_doctor_counts_voters_and_versions(ctl: Ctl, tmp_path: Path) -> None:
    with several(ctl, tmp_path, 2) as controls:
        for control in controls.values():
            control.cluster.versions = {"c2": "0.2.0"}
        code, out = doctor(ctl)
        assert code == 0
        assert "an even number survives no more" in out
        assert "0.1.0, 0.2.0" in out
        assert "finish the upgrade" in out


def test_the_doctor_speaks_json_and_ends_with_one_when_nobody_answers(ctl: Ctl, control: FakeControl) -> None:
    found = json.loads(ctl("cluster", "doctor", "-o", "json").out)
    assert {finding["check"] for finding in found} >= {"reachable", "quorum", "leader"}
    control.__exit__()
    code, out = doctor(ctl, "-o", "json")
    assert code == 1
    assert json.loads(out)[0]["level"] == "problem"
