"""A real coordinator whose disk is full or damaged: it refuses clearly, loses nothing, and says what to do."""

import ctypes
import errno
import os
import signal

import pytest

from cloudless.dev.fabric import LocalFabric
from cloudless.errors import FailedPrecondition

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def fabric(tmp_path):
    local = LocalFabric(tmp_path, tag="cldisk")
    yield local
    local.stop("coordinator", number=signal.SIGKILL)


def tokens(fabric):
    return {t["id"] for t in fabric.get("tokens")}


def newest_segment(fabric):
    return sorted((fabric.directory / "coordinator" / "log" / "wal").iterdir())[-1]


def test_a_cut_tail_is_taken_off_and_a_hole_in_the_middle_refuses_to_start(fabric):
    fabric.start_coordinator()
    for _ in range(40):
        fabric.ctl("token", "create", "--node", "n-*")
    before = tokens(fabric)
    assert len(before) == 40
    fabric.kill("coordinator")
    segment = newest_segment(fabric)
    data = segment.read_bytes()

    segment.write_bytes(data + b"\x17half a record that a power cut left")
    fabric.start_coordinator()
    assert tokens(fabric) == before
    fabric.kill("coordinator")

    segment = newest_segment(fabric)
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0x10
    segment.write_bytes(data)
    with pytest.raises(FailedPrecondition, match="ended with 5"):
        fabric.start_coordinator()
    log = fabric.log_file("coordinator").read_text()
    assert segment.name in log
    assert "remedy" in log
    assert "Traceback" not in log
    assert segment.read_bytes() == bytes(data), "a refused log must stay as it was found"


def _fill(file):
    """Takes what the disk has left."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(descriptor, bytes(4096)):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_refuses_writes_and_goes_on_when_there_is_room(fabric):
    data = fabric.directory / "coordinator"
    data.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", os.fsencode(data), b"tmpfs", 0, b"size=4m,mode=700") == 0
    try:
        fabric.start_coordinator()
        fabric.ctl("token", "create", "--node", "before")
        ballast = data / "ballast"
        _fill(ballast)
        refused = None
        for _ in range(200):  # what is left of the last page may take some
            refused = fabric.ctl("token", "create", "--node", "during", check=False)
            if refused.returncode:
                break
        assert refused is not None
        assert refused.returncode != 0
        assert "space" in refused.stderr
        assert "Traceback" not in refused.stderr
        known = tokens(fabric)  # reads go on
        ballast.unlink()
        fabric.ctl("token", "create", "--node", "after")
        assert len(tokens(fabric)) == len(known) + 1
        fabric.kill("coordinator")
        fabric.start_coordinator()
        assert len(tokens(fabric)) == len(known) + 1
    finally:
        fabric.stop("coordinator", number=signal.SIGKILL)
        assert libc.umount2(os.fsencode(data), 2) == 0
