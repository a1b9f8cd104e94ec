"""kill -9, damage and full disks against a real process that writes through the store.

CHAOS_ROUNDS sets the number of kills (make chaos: 50).
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloudless.coordinator.wal.inspect import main as inspect_main
from cloudless.testing.kill import Output, check_store, run_until_killed
from cloudless.testing.store_writer import TRUST_DOMAIN

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "10"))


def writer(directory: Path, *options: object) -> list[str]:
    return [sys.executable, "-m", "cloudless.testing.store_writer", str(directory), *map(str, options)]


def run_to_its_end(directory: Path, *options: object) -> Output:
    return run_until_killed(writer(directory, *options), after_s=60)


@pytest.mark.timeout(60 + 15 * ROUNDS)
def test_no_acknowledged_write_is_lost_to_kill_9(tmp_path):
    rng = random.Random(os.environ.get("CHAOS_SEED", "cloudless"))
    data = tmp_path / "data"
    acknowledged: dict[str, int] = {}
    last_index = snapshots = 0
    for number in range(ROUNDS):
        # Most kills hit it while it writes; every fourth at any moment of its start, recovery included.
        starting = number % 4 == 3
        output = run_until_killed(
            writer(data, "--run", f"r{number}", "--in-flight", rng.choice((1, 8, 64)), "--snapshot-entries", 150),
            after_s=rng.uniform(0, 0.8) if starting else rng.uniform(0, 0.25),
            once="" if starting else "ack",
        )
        assert output.exit_code == -9, output.errors
        acknowledged |= output.acknowledged
        if (data / "wal").exists():
            report = check_store(data, acknowledged.items(), trust_domain=TRUST_DOMAIN)
            assert report.last_index >= last_index, "the log never gets shorter than what was served"
            last_index = report.last_index
            snapshots = max([snapshots, *(s.index for s in report.snapshots)])
    assert len(acknowledged) > ROUNDS * 5
    assert snapshots > 0, "the kills must also hit snapshots"
    print(f"{ROUNDS} kills, {len(acknowledged)} acknowledged writes, none lost; snapshot up to {snapshots}")


def test_a_second_process_is_refused_while_the_first_lives(tmp_path):
    data = tmp_path / "data"
    first = subprocess.Popen(writer(data), stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline().startswith(b"ready")
        second = run_to_its_end(data)
        assert second.exit_code == 1
        assert f"in use by another coordinator (pid {first.pid})" in second.errors
    finally:
        first.kill()
        first.communicate()
    assert run_to_its_end(data, "--limit", 3).exit_code == 0


@pytest.fixture
def killed(tmp_path) -> tuple[Path, dict[str, int]]:
    """A data directory as a kill left it, and what was acknowledged."""
    data = tmp_path / "data"
    output = run_until_killed(writer(data, "--in-flight", 1, "--snapshot-entries", 10**6), after_s=0.2, once="ack")
    assert len(output.acknowledged) > 20
    return data, output.acknowledged


def segment_of(data: Path) -> Path:
    (path,) = (data / "wal").glob("*.wal")
    return path


def test_a_cut_tail_recovers(killed):
    data, acknowledged = killed
    path = segment_of(data)
    os.truncate(path, path.stat().st_size - 30)
    output = run_to_its_end(data, "--run", "after", "--limit", 5)
    assert output.exit_code == 0, output.errors
    assert "wal.tail_cut" in output.errors
    there = int(output.starting_with("ready")[0][0])
    kept = {r: i for r, i in acknowledged.items() if i <= there}
    assert len(kept) >= len(acknowledged) - 1, "only the record that was cut is gone"
    check_store(data, [*kept.items(), *output.acknowledged.items()], trust_domain=TRUST_DOMAIN)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_a_bit_flipped_in_the_tail_recovers(killed):
    data, acknowledged = killed
    path = segment_of(data)
    flip(path, path.stat().st_size - 5)
    output = run_to_its_end(data, "--run", "after", "--limit", 5)
    assert output.exit_code == 0, output.errors
    there = int(output.starting_with("ready")[0][0])
    kept = {r: i for r, i in acknowledged.items() if i <= there}
    assert len(kept) >= len(acknowledged) - 1
    check_store(data, [*kept.items(), *output.acknowledged.items()], trust_domain=TRUST_DOMAIN)


def test_a_bit_flipped_in_the_middle_refuses_to_start_and_says_what_to_do(killed, capsys):
    data, _ = killed
    path = segment_of(data)
    offset = path.stat().st_size // 2
    flip(path, offset)
    before = path.read_bytes()
    output = run_to_its_end(data)
    assert output.exit_code == 1
    assert not output.starting_with("ready")
    assert f"the log is damaged: {path} at offset" in output.errors
    assert "restore the data directory from a backup" in output.errors
    assert path.read_bytes() == before
    assert inspect_main([str(data)]) == 1
    assert "DAMAGED" in capsys.readouterr().out
    flip(path, offset)
    assert inspect_main([str(data), "--trust-domain", TRUST_DOMAIN]) == 0
    assert run_to_its_end(data, "--run", "after", "--limit", 5).exit_code == 0


@contextlib.contextmanager
def tmpfs(path: Path, size_kib: int):
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a tmpfs needs root")
def test_a_full_disk_refuses_writes_clearly_and_recovers_when_space_returns(tmp_path):
    small = tmp_path / "small"
    with tmpfs(small, 512):
        ballast = small / "ballast"
        ballast.write_bytes(b"x" * 256 * 1024)
        process = subprocess.Popen(
            writer(small / "data", "--in-flight", 4, "--snapshot-entries", 10**6), stdout=subprocess.PIPE, text=True
        )
        acknowledged: dict[str, int] = {}
        refused: list[str] = []
        recovered = 0
        deadline = time.monotonic() + 30
        try:
            for line in process.stdout:
                word, *rest = line.split(" ", 2)
                if word == "ack":
                    acknowledged[rest[1].strip()] = int(rest[0])
                    recovered += bool(refused) and not ballast.exists()
                elif word == "refused":
                    refused.append(line)
                    if len(refused) == 20:
                        ballast.unlink()
                if recovered >= 20:
                    break
                assert time.monotonic() < deadline, (len(acknowledged), refused[-1:])
        finally:
            process.kill()
            process.communicate()
        assert all(line.startswith("refused disk_full") for line in refused)
        assert "the log cannot be written: No space left on device" in refused[0]
        assert "nothing was accepted" in refused[0]
        assert "free space on the coordinator's disk" in refused[0]
        check_store(small / "data", acknowledged.items(), trust_domain=TRUST_DOMAIN)
        print(f"{len(acknowledged)} acknowledged, {len(refused)} refused, {recovered} after space returned")
