"""`exec -it` and tables on a real (pseudo) terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudless.api.v1 import control_pb2
from cloudless.testing.ctl import Ctl
from cloudless.testing.fake_control import FakeControl

PROGRAM = (
    "import os, sys, grpc\n"
    "from cloudless.ctl.app import App\nfrom cloudless.ctl.main import run\n"
    "code = run(sys.argv[1:], App(open_channel=lambda address: grpc.insecure_channel(address)))\n"
    "sys.stdout.flush()\nos._exit(code)\n"
)
MANIFEST = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: web}
spec: {containers: [{name: web, image: nginx}]}
"""


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with FakeControl() as started:
        started.add_node("n1")
        yield started


class Terminal:
    """A program on a pseudo terminal of 100 x 30."""

    def __init__(self, ctl: Ctl, *arguments: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**inherited, "CLOUDLESS_CONFIG": str(ctl.config), "TERM": "xterm", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        self.slave = slave
        self.seen = b""

    def read_until(self, text: bytes, timeout_s: float = 15) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.master, 4096)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def close(self) -> int:
        code = self.process.wait(15)
        os.close(self.slave)
        os.close(self.master)
        return code


def test_exec_on_a_terminal(control: FakeControl, tmp_path: Path) -> None:
    """Keys arrive raw (Ctrl-C too), the size follows, the exit code comes back, the terminal is as before."""
    ctl = Ctl(control, tmp_path)
    assert ctl("apply", "-f", "-", stdin=MANIFEST.encode()).code == 0

    def shell(start: Any, requests: Iterator[Any]) -> Iterator[Any]:
        yield control_pb2.ExecResponse(stdout=f"size {start.size.columns}x{start.size.rows}\r\n".encode())
        for request in requests:
            kind = request.WhichOneof("message")
            if kind == "resize":
                size = request.resize
                yield control_pb2.ExecResponse(stdout=f"resized {size.columns}x{size.rows}\r\n".encode())
            elif kind == "stdin":
                yield control_pb2.ExecResponse(stdout=repr(request.stdin).encode() + b"\r\n")
                if b"\x04" in request.stdin:
                    break
        yield control_pb2.ExecResponse(exit_code=42)

    control.program = shell
    terminal = Terminal(ctl, "exec", "-it", "web-00000", "--", "sh")
    terminal.read_until(b"size 100x30")
    terminal.type(b"\x03")
    terminal.read_until(rb"b'\x03'")
    terminal.resize(132, 43)
    terminal.read_until(b"resized 132x43")
    terminal.type(b"\x04")
    terminal.read_until(rb"\x04")
    assert terminal.process.wait(15) == 42
    assert termios.tcgetattr(terminal.slave) == terminal.before
    terminal.close()
    start = control.executed[0].start
    assert (start.tty, start.stdin) == (True, True)


def test_tables_are_coloured_on_a_terminal_only_if_wanted(control: FakeControl, tmp_path: Path) -> None:
    ctl = Ctl(control, tmp_path)
    coloured = Terminal(ctl, "get", "nodes")
    coloured.read_until(b"n1")
    coloured.read_until(b"\n")
    assert coloured.close() == 0
    plain = Terminal(ctl, "get", "nodes", NO_COLOR="1")
    plain.read_until(b"Ready")
    assert plain.close() == 0
    assert b"\x1b[" in coloured.seen
    assert b"\x1b[" not in plain.seen
