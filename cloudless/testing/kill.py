"""Proofs with kill -9: run a program, kill it at some moment, and check that what it acknowledged is there.

The program prints `ack INDEX REQUEST_ID` for every write that it, or its client, saw acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudless.coordinator.core import commands
from cloudless.coordinator.wal.inspect import Report, fabric_inspector


@dataclass(frozen=True, slots=True)
class Output:
    """What a program printed until its end; a line that the kill cut short is left out."""

    lines: tuple[str, ...]
    exit_code: int
    errors: str

    def starting_with(self, word: str) -> list[list[str]]:
        """The lines that begin with this word, split at blanks, without the word."""
        return [line.split(" ")[1:] for line in self.lines if line.split(" ")[0] == word]

    @property
    def acknowledged(self) -> dict[str, int]:
        """Index of the log entry by request id."""
        return {request_id: int(index) for index, request_id in self.starting_with("ack")}


def run_until_killed(
    argv: Sequence[str],
    *,
    after_s: float,
    once: str = "",
    give_up_s: float = 30.0,
    environment: dict[str, str] | None = None,
) -> Output:
    """Starts the program and kills it (SIGKILL) `after_s` seconds after a line that begins with `once` came, or
    after its start when `once` is empty. A program that ends by itself earlier is not killed."""
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, errors = bytearray(), bytearray()
        streams = {process.stdout.fileno(): out, process.stderr.fileno(): errors}
        give_up = time.monotonic() + give_up_s
        deadline = None if once else time.monotonic() + after_s
        word = once.encode()
        open_streams = set(streams)
        while open_streams:
            now = time.monotonic()
            if now >= (give_up if deadline is None else deadline):
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                deadline = give_up = float("inf")
            left = min(give_up if deadline is None else deadline, now + 1) - now
            for fd in select.select(open_streams, [], [], max(left, 0))[0]:
                data = os.read(fd, 65536)
                streams[fd] += data
                if not data:
                    open_streams.discard(fd)
            if deadline is None and (out.startswith(word) or b"\n" + word in out):
                deadline = time.monotonic() + after_s
        code = process.wait()
    whole = bytes(out).decode().split("\n")[:-1]
    return Output(tuple(whole), code, bytes(errors).decode("utf-8", "replace"))


def check_store(directory: Path, acknowledged: Iterable[tuple[str, int]], *, trust_domain: str) -> Report:
    """Reads the directory of a program that ended, as recovery would, and asserts that every acknowledged entry
    stands where it was said to, that no request is there twice with effect, and that snapshot + log lead to the
    state that a replay of the whole log leads to. Needs a log whose beginning is not compacted."""
    inspector = fabric_inspector(directory, trust_domain=trust_domain)
    report = inspector.report()
    assert not report.damage, report.damage
    assert report.first_index == 1, "the beginning of the log is gone: nothing to compare with"
    assert report.replay_hash == report.state_hash
    entries = inspector.entries()
    assert [entry.index for entry in entries] == list(range(1, report.last_index + 1))
    for request_id, index in acknowledged:
        assert index <= report.last_index, (
            f"{request_id} was acknowledged at {index}, the log ends at {report.last_index}"
        )
        found = commands.decode(entries[index - 1].data).request_id
        assert found == request_id, f"{request_id} was acknowledged at {index}, where {found} stands"
    return report
