"""Runs cloudlessctl command lines inside the test's process against a FakeControl."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudless.clock import SystemClock
from cloudless.contexts import Context, Contexts
from cloudless.ctl.app import App
from cloudless.ctl.main import run
from cloudless.testing.fake_control import NOW_MS, FakeControl


@dataclass(frozen=True)
class Outcome:
    """What a command line did: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


class _FixedWall(SystemClock):
    """Wall clock of the fake's data; waiting and deadlines take real time."""

    def now_ms(self) -> int:
        return NOW_MS


def context_of(control: FakeControl, name: str = "test") -> Context:
    """A context that leads to the fake; its certificates are never used."""
    pem = "-----BEGIN FAKE-----\n"
    return Context(
        name=name,
        coordinators=(control.address,),
        trust_domain="test",
        user="admin",
        certificate=pem,
        key=pem,
        bundle=pem,
    )


class Ctl:
    """`ctl("get", "nodes")` runs a command line. `environment` is all that the program sees of it."""

    def __init__(self, control: FakeControl, directory: Path) -> None:
        self.control = control
        self.config = directory / "config.yaml"
        self.environment: dict[str, str] = {"CLOUDLESS_CONFIG": str(self.config)}
        Contexts().merge(context_of(control)).save(self.config)

    def app(self, open_channel: Callable[[str], Any] | None = None) -> App:
        environment: Mapping[str, str] = self.environment
        return App(environment=environment, open_channel=open_channel or self.control.open_channel, clock=_FixedWall())

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Outcome:
        out, err = _Text(), _Text()
        before = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = run(list(arguments), self.app())
        finally:
            sys.stdin = before
        return Outcome(code, out.text(), err.text())


class _Text(io.TextIOWrapper):
    """A text stream with a `buffer` below it, as stdout has."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode()
