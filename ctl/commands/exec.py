"""`exec`: a program inside a replica, with its input, output, terminal and exit code."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2, session_pb2
from cloudless.ctl import options, replicas, terminal
from cloudless.ctl.app import App
from cloudless.ctl.cli import command
from cloudless.errors import FailedPrecondition, InvalidArgument

_QUEUE_MAX: Final = 64
# What shells end with when the program is not there, or is none: for scripts that look at the exit code alone.
_EXIT_CODES: Final = {"CommandNotFound": 127, "CommandNotExecutable": 126}


@command("exec")
@click.argument("what", metavar="REPLICA | workload/NAME", shell_complete=options.names_of("replica"))
@click.argument("program", nargs=-1, required=True, metavar="-- COMMAND...")
@options.container
@click.option("-i", "--stdin", "interactive", is_flag=True, help="Send what is typed or piped in.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
def exec_(app: App, what: str, program: tuple[str, ...], container: str, interactive: bool, tty: bool) -> int:
    """Run a program inside a replica.

    Its exit code becomes this program's; 127 where there is no such program, 126 where it cannot be executed. Of a
    workload, the first ready replica is taken.
    """
    return run(app, what, program, container=container, interactive=interactive, tty=tty)


def run(app: App, what: str, program: tuple[str, ...], *, container: str, interactive: bool, tty: bool) -> int:
    """What `exec` does; returns the remote exit code."""
    if program and program[0] == "--":
        program = program[1:]
    replica = replicas.one(app, what, verb="exec")
    if tty and not sys.stdin.isatty():
        app.note("warning: stdin is no terminal, so the program gets none; leave out -t")
        tty = False
    columns, rows = terminal.size()
    start = control_pb2.ExecStart(
        namespace=replica.namespace,
        replica_id=replica.id,
        container=container,
        command=program,
        tty=tty,
        stdin=interactive,
        size=session_pb2.TerminalSize(columns=columns, rows=rows) if tty else None,
    )
    session = _Session(start)
    with ExitStack() as stack:
        stack.callback(session.stop)
        if tty:
            stack.enter_context(terminal.raw(sys.stdin.fileno()))
            stack.enter_context(terminal.on_resize(session.resize))
        messages, _ = app.client.stream("Workload", "Exec", session.requests())
        if interactive:
            threading.Thread(target=session.read_stdin, daemon=True).start()
        try:
            return _output(messages)
        except InvalidArgument as error:
            code = _EXIT_CODES.get(error.reason)
            if code is None:
                raise
            app.note(f"error: {error.message}")
            if error.remedy:
                app.note(f"hint: {error.remedy}")
            return code


def _output(messages: Iterator[Any]) -> int:
    for message in messages:
        kind = message.WhichOneof("message")
        if kind == "stdout":
            sys.stdout.buffer.write(message.stdout)
            sys.stdout.buffer.flush()
        elif kind == "stderr":
            sys.stderr.buffer.write(message.stderr)
            sys.stderr.buffer.flush()
        elif kind == "exit_code":
            return int(message.exit_code)
    raise FailedPrecondition(
        "the program's exit code was not told",
        reason="ExecInterrupted",
        remedy="the replica or its node went away meanwhile; `cloudlessctl get replicas` shows them",
    )


class _Session:
    """What goes to the program, in order, bounded: a program that does not read holds back the reading of stdin."""

    def __init__(self, start: Any) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_QUEUE_MAX)
        self._stopped = threading.Event()
        self._start = start

    def stop(self) -> None:
        self._stopped.set()

    def requests(self) -> Iterator[Any]:
        """Consumed by gRPC on a thread of its own."""
        yield control_pb2.ExecRequest(start=self._start)
        while not self._stopped.is_set():
            try:
                yield self._queue.get(timeout=0.2)
            except queue.Empty:
                continue

    def _put(self, request: Any) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(request, timeout=0.2)
            except queue.Full:
                continue
        return None

    def resize(self, columns: int, rows: int) -> None:
        """Called by a signal handler: never waits; a size that finds no room is overtaken by the next."""
        request = control_pb2.ExecRequest(resize=session_pb2.TerminalSize(columns=columns, rows=rows))
        if not self._queue.full():
            self._queue.put_nowait(request)

    def read_stdin(self) -> None:
        for data in terminal.chunks(sys.stdin.fileno(), self._stopped.is_set):
            self._put(control_pb2.ExecRequest(stdin=data))
        self._put(control_pb2.ExecRequest(stdin_closed=True))
