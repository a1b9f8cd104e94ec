"""`logs`: what replicas print, of one or of many at once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options, replicas, watching
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, usage
from cloudless.ctl.cli import command
from cloudless.ctl.resuming import Tail
from cloudless.errors import CloudlessError, FailedPrecondition, Unavailable

REPLICAS_MAX: Final = 50  # followed or read at once
_STOOD_MS: Final = 2_000  # a stream that lasted so long was opened, also where nothing was printed
_OVERLAP_MS: Final = 10_000  # read again after a break: clocks differ


@command("logs")
@click.argument("what", required=False, default="", metavar="REPLICA | workload/NAME",
                shell_complete=options.names_of("replica"))  # fmt: skip
@options.selector
@options.container
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed.")
@click.option("--tail", type=click.IntRange(-1), default=-1, metavar="LINES", help="Only the last lines.")
@click.option("--since", default="", metavar="DURATION", help="Only what is younger, as in 5m.")
@click.option("-p", "--previous", is_flag=True, hidden=True, help="Not supported.")
@click.option("--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("--prefix/--no-prefix", default=None, help="Begin each line with its replica.  [default: for several]")
def logs(
    app: App,
    what: str,
    selector: str,
    container: str,
    follow: bool,
    tail: int,
    since: str,
    previous: bool,
    timestamps: bool,
    prefix: bool | None,
) -> int:
    """Show what replicas print.

    Of a workload, the lines of all its replicas are shown, each with its replica's name. What cannot be reached is
    named at the end, after everything that could be shown.
    """
    if previous:
        raise usage(
            "--previous is not supported by this version",
            "without it the log has what earlier runs in the same replica printed, too; "
            "`cloudlessctl describe replica` tells how the last one ended",
        )
    if bool(what) is bool(selector):
        raise usage("name a replica or workload/NAME, or select with -l")
    since_ms = duration_ms(since, "--since") if since else 0
    found, single = replicas.of(app, what, verb="logs", selector=selector)
    if len(found) > REPLICAS_MAX:
        raise usage(f"{len(found)} replicas are more than {REPLICAS_MAX}", "name some of them")
    readers = [
        _Reader(
            app,
            replica,
            control_pb2.LogsRequest(
                namespace=replica.namespace,
                replica_id=replica.id,
                container=container,
                follow=follow,
                tail_lines=tail,
                since_ms=since_ms,
                timestamps=timestamps,
            ),
            prefix=f"[{replica.id}] " if (prefix if prefix is not None else not single and len(found) > 1) else "",
        )
        for replica in found
    ]
    if len(readers) == 1:
        readers[0].run()
    elif follow:
        _together(readers)
    else:
        _together(readers, hold=True)
    return _failures(app, readers, single=single)


class _Reader:
    """The log of one replica. `error` is set when it could not be read to its end."""

    _lock = threading.Lock()  # lines of different replicas do not mix

    def __init__(self, app: App, replica: Any, request: Any, *, prefix: str) -> None:
        self.replica = replica
        self.error: CloudlessError | None = None
        self.held: list[bytes] | None = None
        self._app = app
        self._request = request
        self._prefix = prefix.encode()

    def run(self) -> None:
        rest = b""
        try:
            for data in self._data():
                if not self._prefix:
                    self._write(data)
                    continue
                *lines, rest = (rest + data).split(b"\n")
                self._write(b"".join(self._prefix + line + b"\n" for line in lines))
        except CloudlessError as error:
            self.error = error
        if rest:
            self._write(self._prefix + rest + b"\n")

    def _data(self) -> Iterator[bytes]:
        """What the replica prints. With --follow, a stream that breaks is opened again, with another coordinator where
        there is one, from shortly before it broke: a few lines may come twice, none is left out."""
        app, request = self._app, self._request
        if not request.follow:
            messages, _ = app.client.stream("Workload", "Logs", request)
            yield from (message.data for message in messages)
            return
        tail = Tail(timestamps=request.timestamps)
        heard_ms, failures = app.clock.monotonic_ms(), 0
        request.timestamps = True
        while True:
            began_ms = app.clock.monotonic_ms()
            try:
                messages, _ = app.client.stream("Workload", "Logs", request)
                for message in messages:
                    heard_ms, failures = app.clock.monotonic_ms(), 0
                    yield tail.new(message.data)
                yield tail.end()
                return
            except CloudlessError as error:
                stood = tail.begun or app.clock.monotonic_ms() - began_ms >= _STOOD_MS
                failures += 1
                if not (stood and _may_return(error)) or failures > watching.RECONNECT_ATTEMPTS_MAX:
                    raise
            if failures > 1:
                time.sleep(min(watching.RECONNECT_MS_FIRST * 2**failures, watching.RECONNECT_MS_MAX) / 1000)
            request = control_pb2.LogsRequest()
            request.CopyFrom(self._request)
            request.tail_lines = -1
            request.since_ms = app.clock.monotonic_ms() - heard_ms + (_OVERLAP_MS if tail.begun else 1)
            tail.resume()

    def _write(self, data: bytes) -> None:
        if self.held is not None:
            self.held.append(data)
            return
        with self._lock:
            write(data)


def _may_return(error: CloudlessError) -> bool:
    """Whether it may be another moment's matter: a coordinator fell, or the node is on its way to another one."""
    if isinstance(error, Unavailable):
        return True
    return isinstance(error, FailedPrecondition) and error.reason == "NodeNotConnected"


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _together(readers: list[_Reader], *, hold: bool = False) -> None:
    """All at once; with `hold` each one's lines stay together."""
    for reader in readers:
        reader.held = [] if hold else None
    threads = [threading.Thread(target=_guarded(reader.run), daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    for thread, reader in zip(threads, readers, strict=True):
        thread.join()
        if hold:
            write(b"".join(reader.held or ()))


def _guarded(function: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            function()
        except BrokenPipeError:
            return  # the reader of our output left; the main thread finds out by itself

    return run


def _failures(app: App, readers: list[_Reader], *, single: bool) -> int:
    """Names what could not be read, with its node; the exit code of the first failure, or 0."""
    failed = [(reader.replica, reader.error) for reader in readers if reader.error is not None]
    if not failed:
        return 0
    if single:
        raise failed[0][1]
    for replica, error in failed:
        where = f" on node {replica.node_id}" if replica.node_id else ""
        app.note(f"error: logs of {replica.id}{where}: {error.message}")
    app.note(f"hint: {len(readers) - len(failed)} of {len(readers)} replicas were read; what is shown is not complete")
    return failed[0][1].exit_code
