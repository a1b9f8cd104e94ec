"""One suite for every Filesystem: the real one and SimDisk."""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

import pytest

from cloudless.coordinator.wal.files import Filesystem, OsFilesystem
from cloudless.errors import FailedPrecondition
from cloudless.testing.disk import SimDisk


@pytest.fixture(params=["os", "sim"])
def filesystem(request) -> Filesystem:
    return OsFilesystem() if request.param == "os" else SimDisk(1)


@pytest.fixture
def folder(filesystem, tmp_path) -> Path:
    path = tmp_path / "a" / "b"
    filesystem.make_dir(path)
    return path


def test_append_goes_to_the_end_and_reads_back(filesystem, folder):
    file = filesystem.open_append(folder / "x")
    file.append(b"hello ")
    file.append(b"world")
    file.sync()
    assert file.size_bytes() == 11
    file.close()
    again = filesystem.open_append(folder / "x")
    again.append(b"!")
    again.close()
    assert filesystem.read(folder / "x") == b"hello world!"
    assert filesystem.read(folder / "x", offset=6, length=5) == b"world"
    assert filesystem.read(folder / "x", offset=11, length=50) == b"!"
    assert filesystem.read(folder / "x", offset=50) == b""


def test_truncate_then_append(filesystem, folder):
    file = filesystem.open_append(folder / "x")
    file.append(b"0123456789")
    file.truncate(4)
    assert file.size_bytes() == 4
    file.append(b"ab")
    file.sync()
    file.close()
    assert filesystem.read(folder / "x") == b"0123ab"


def test_names_are_sorted_files_only(filesystem, folder):
    for name in ("b", "a", "c"):
        filesystem.open_append(folder / name).close()
    filesystem.make_dir(folder / "sub")
    assert filesystem.list_names(folder) == ("a", "b", "c")
    assert filesystem.list_names(folder / "nothing") == ()


def test_rename_replaces_and_unlink_removes(filesystem, folder):
    for name in ("a", "b"):
        file = filesystem.open_append(folder / name)
        file.append(name.encode())
        file.close()
    filesystem.rename(folder / "a", folder / "b")
    filesystem.fsync_dir(folder)
    assert filesystem.list_names(folder) == ("b",)
    assert filesystem.read(folder / "b") == b"a"
    filesystem.unlink(folder / "b")
    assert filesystem.list_names(folder) == ()


def test_an_open_file_keeps_its_content_over_a_rename(filesystem, folder):
    file = filesystem.open_append(folder / "x.tmp")
    file.append(b"1")
    filesystem.rename(folder / "x.tmp", folder / "x")
    file.append(b"2")
    file.close()
    assert filesystem.read(folder / "x") == b"12"


@pytest.mark.parametrize("operation", ["read", "unlink", "rename"])
def test_what_is_not_there(filesystem, folder, operation):
    arguments = (folder / "missing", folder / "other") if operation == "rename" else (folder / "missing",)
    with pytest.raises(FileNotFoundError):
        getattr(filesystem, operation)(*arguments)


def test_make_dir_may_be_repeated(filesystem, folder):
    filesystem.make_dir(folder)
    assert filesystem.free_bytes(folder) > 0


def test_the_lock_is_exclusive_until_released(filesystem, folder):
    lock = filesystem.lock(folder / "lock")
    with pytest.raises(FailedPrecondition, match="in use by another coordinator") as caught:
        filesystem.lock(folder / "lock")
    assert caught.value.reason == "DataDirectoryInUse"
    assert str(folder) in caught.value.message
    lock.release()
    lock.release()
    filesystem.lock(folder / "lock").release()


@contextlib.contextmanager
def tiny_tmpfs(path: Path, size_kib: int):
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("kind", ["os", "sim"])
def test_a_full_disk_refuses_with_enospc_and_recovers(kind, tmp_path):
    with contextlib.ExitStack() as stack:
        folder = tmp_path / "small"
        if kind == "os":
            if os.geteuid() != 0:
                pytest.skip("a tmpfs needs root")
            stack.enter_context(tiny_tmpfs(folder, 64))
            filesystem: Filesystem = OsFilesystem()
        else:
            filesystem = SimDisk(1, capacity_bytes=65536)
            filesystem.make_dir(folder)
        file = filesystem.open_append(folder / "x")
        file.append(b"a" * 20_000)
        with pytest.raises(OSError, match="No space left") as caught:
            file.append(b"b" * 200_000)
        assert caught.value.errno == errno.ENOSPC
        assert filesystem.free_bytes(folder) == 0
        file.truncate(20_000)
        file.append(b"c")
        file.sync()
        file.close()
        assert filesystem.read(folder / "x") == b"a" * 20_000 + b"c"


def test_the_lock_names_the_process_that_holds_it(tmp_path):
    lock = OsFilesystem().lock(tmp_path / "lock")
    with pytest.raises(FailedPrecondition, match=f"pid {os.getpid()}"):
        OsFilesystem().lock(tmp_path / "lock")
    lock.release()
