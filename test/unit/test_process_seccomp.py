"""The system call filter: its numbers are libseccomp's, its program does what it says, on this kernel."""

import errno
import json
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pyseccomp
import pytest

from cloudless.agent.runtime.process import seccomp

ARCHITECTURES = {"amd64": pyseccomp.Arch.X86_64, "arm64": pyseccomp.Arch.AARCH64, "arm": pyseccomp.Arch.ARM}
AUDIT = {"amd64": 0xC000003E, "arm64": 0xC00000B7, "arm": 0x40000028}
HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
ALLOW = 0x7FFF0000


def evaluate(code, *, number, arch, arguments=(0,) * 6):
    """An interpreter of the classic BPF that filters use."""
    data = struct.pack("<iIQ6Q", number, arch, 0, *arguments)
    program = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    accumulator = at = 0
    while True:
        opcode, yes, no, value = program[at]
        at += 1
        if opcode == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif opcode == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[opcode]
            at += yes if holds else no


def verdict(arch, name_or_number, *arguments, unix_sockets=True):
    tables = seccomp.DENIED | seccomp.ABSENT | seccomp.CHECKED
    number = name_or_number
    if isinstance(number, str):
        number = tables[number][list(AUDIT).index(arch)]
    code = seccomp.program(arch, unix_sockets=unix_sockets)
    filled = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    result = evaluate(code, number=number, arch=AUDIT[arch], arguments=filled)
    return 0 if result == ALLOW else result & 0xFFFF


@pytest.mark.parametrize("name", sorted(seccomp.DENIED | seccomp.ABSENT | seccomp.CHECKED))
def test_numbers_are_those_of_libseccomp(name):
    numbers = (seccomp.DENIED | seccomp.ABSENT | seccomp.CHECKED)[name]
    for number, arch in zip(numbers, ARCHITECTURES.values(), strict=True):
        assert number == max(-1, pyseccomp.resolve_syscall(arch, name)), arch


@pytest.mark.parametrize("arch", AUDIT)
def test_verdicts_on_every_architecture(arch):
    column = list(AUDIT).index(arch)
    for name, numbers in seccomp.DENIED.items():
        assert numbers[column] < 0 or verdict(arch, name) == errno.EPERM, name
    for name in seccomp.ABSENT:
        assert verdict(arch, name) == errno.ENOSYS, name
    for name in (
        "read",
        "openat",
        "execve",
        "futex",
        "wait4",
        "mmap" if arch != "arm" else "mmap2",
        "landlock_restrict_self",
    ):
        number = pyseccomp.resolve_syscall(ARCHITECTURES[arch], name)
        assert verdict(arch, number) == 0, name
    assert verdict(arch, 5000) == errno.ENOSYS
    assert verdict(arch, "clone", 0x11) == 0
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert verdict(arch, "clone", 0x11 | flag) == errno.EPERM
    assert verdict(arch, "ioctl", 0, 0x5401) == 0
    assert verdict(arch, "ioctl", 0, 0x5412) == errno.EPERM
    assert verdict(arch, "ioctl", 0, 0x541C) == errno.EPERM


@pytest.mark.parametrize(
    ("family", "with_unix", "without"),
    [(1, 0, 97), (2, 0, 0), (10, 0, 0), (16, 0, 0), (17, 97, 97), (38, 97, 97), (40, 97, 97)],
)
def test_socket_families(family, with_unix, without):
    assert verdict("amd64", "socket", family) == with_unix
    assert verdict("amd64", "socket", family, unix_sockets=False) == without


def test_foreign_programs_and_x32_calls():
    code = seccomp.program("amd64", unix_sockets=True)
    assert evaluate(code, number=0, arch=0x40000003) & 0xFFFF == errno.EPERM  # i386
    assert verdict("amd64", 0x40000000 | 1) == errno.ENOSYS  # x32
    assert verdict("arm", 0x0F0005) == 0  # set_tls, without which nothing runs


def test_an_architecture_without_numbers_has_no_filter():
    assert seccomp.program("riscv64", unix_sockets=True) is None


def test_the_kernel_agrees(tmp_path):
    """Every denied call, made for real under the loaded filter."""
    tables = seccomp.DENIED | seccomp.ABSENT
    column = list(AUDIT).index(HERE)
    numbers = {name: numbers[column] for name, numbers in tables.items() if numbers[column] >= 0}
    script = f"""
import ctypes, json, os, socket, sys
sys.path.append({str(Path(seccomp.__file__).parent)!r})
import launch
launch._prctl(launch._PR_SET_NO_NEW_PRIVS, 1)
launch._seccomp({{"seccomp": [sys.argv[1]]}})
libc = ctypes.CDLL(None, use_errno=True)
found = {{}}
for name, number in json.loads(sys.argv[2]).items():
    found[name] = (libc.syscall(number, *[ctypes.c_long(0)] * 6), ctypes.get_errno())
try:
    socket.socket(socket.AF_UNIX)
except OSError as error:
    found["unix"] = (-1, error.errno)
child = os.fork()
if child == 0:
    os._exit(7)
found["fork"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(found))
"""
    code = seccomp.program(HERE, unix_sockets=False).hex()
    done = subprocess.run(
        [sys.executable, "-c", script, code, json.dumps(numbers)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found.pop("fork") == 7
    assert found.pop("unix") == [-1, errno.EAFNOSUPPORT]
    expected = {name: [-1, errno.ENOSYS if name in seccomp.ABSENT else errno.EPERM] for name in numbers}
    assert found == expected


def test_a_filter_fits_the_kernels_limit():
    assert all(len(seccomp.program(arch, unix_sockets=True)) // 8 < 4096 for arch in AUDIT)
