"""What a command works with: settings, streams, the chosen context, and the client behind it."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from cloudless.clock import Clock, SystemClock
from cloudless.errors import InvalidArgument

if TYPE_CHECKING:
    import grpc

    from cloudless.contexts import Context, Contexts
    from cloudless.ctl.client import Client

REQUEST_TIMEOUT_MS: Final = 30_000

ChannelFactory = Callable[[str], "grpc.Channel"]  # (address of a coordinator)


class Settings:
    """What flags and environment say. A flag wins over the environment, which wins over the contexts file."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.flags: dict[str, Any] = {}

    def update(self, flags: Mapping[str, Any]) -> None:
        """Takes the flags that were given; called from the outer command to the inner one."""
        self.flags.update({name: value for name, value in flags.items() if value is not None})

    def text(self, flag: str, variable: str) -> str:
        return str(self.flags.get(flag) or self.environment.get(variable, ""))

    @property
    def verbose(self) -> bool:
        return bool(self.flags.get("verbose"))

    @property
    def debug(self) -> bool:
        return bool(self.flags.get("debug") or self.environment.get("CLOUDLESS_DEBUG"))

    @property
    def request_timeout_ms(self) -> int:
        from cloudless.ctl.arguments import duration_ms

        text = self.text("request_timeout", "CLOUDLESS_REQUEST_TIMEOUT")
        return duration_ms(text, "--request-timeout") if text else REQUEST_TIMEOUT_MS


class App:
    """One run of the program. `open_channel` replaces the channel to a coordinator's address, for tests."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        open_channel: ChannelFactory | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = Settings(os.environ if environment is None else environment)
        self.clock: Clock = clock or SystemClock()
        self._open_channel = open_channel
        self.learnt: tuple[str, ...] = ()  # the coordinators' addresses, where they are others than the context's

    # output

    def print(self, text: str = "", *, end: str = "\n") -> None:
        sys.stdout.write(text + end)
        if end != "\n" or sys.stdout.isatty():
            sys.stdout.flush()

    def flush_lines(self) -> None:
        """From now on each line is written at once: for what goes on and on, into a pipe, too."""
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)

    def note(self, text: str) -> None:
        """For people, not for programs: stderr."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    @property
    def environment(self) -> Mapping[str, str]:
        return self.settings.environment

    def colour(self, stream: TextIO) -> bool:
        """Whether to colour: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
        return stream.isatty() and not self.environment.get("NO_COLOR") and self.environment.get("TERM") != "dumb"

    # where to

    @property
    def config_path(self) -> Path:
        from cloudless import contexts

        flag = self.settings.flags.get("config_file")
        return Path(flag).expanduser() if flag else contexts.default_path(self.environment)

    @cached_property
    def contexts(self) -> Contexts:
        from cloudless import contexts

        loaded = contexts.load(self.config_path)
        if loaded.warning:
            self.note(f"warning: {loaded.warning}")
        return loaded

    @cached_property
    def context(self) -> Context:
        return self.contexts.get(self.settings.text("context", "CLOUDLESS_CONTEXT"))

    @property
    def namespace(self) -> str:
        """The namespace asked for, else the context's."""
        return self.settings.text("namespace", "CLOUDLESS_NAMESPACE") or self.context.namespace

    @property
    def explicit_namespace(self) -> str:
        """The namespace of the flag, or "": only that contradicts a manifest's own."""
        return str(self.settings.flags.get("namespace") or "")

    @cached_property
    def client(self) -> Client:
        context = self.context
        if not context.coordinators:
            raise InvalidArgument(
                f"context {context.name!r} names no coordinator",
                reason="BadContext",
                remedy="import a complete context with `cloudlessctl config import FILE`",
            )
        return self._client(context.coordinators, on_learnt=self._learn)

    @property
    def stale(self) -> bool:
        """Whether what any coordinator has is good enough."""
        return bool(self.settings.flags.get("stale"))

    def _learn(self, addresses: tuple[str, ...]) -> None:
        self.learnt = addresses

    def client_at(self, addresses: Sequence[str], *, timeout_ms: int | None = None) -> Client:
        """A client of the chosen context for these coordinators only; close it."""
        return self._client(addresses, timeout_ms=timeout_ms)

    def _client(
        self,
        addresses: Sequence[str],
        *,
        timeout_ms: int | None = None,
        on_learnt: Callable[[tuple[str, ...]], None] | None = None,
    ) -> Client:
        from cloudless.ctl.client import Client
        from cloudless.identity.channel import LINEARIZABLE, STALE

        return Client(
            addresses,
            credentials=None if self._open_channel else self.context.credentials(),
            open_channel=self._open_channel,
            clock=self.clock,
            timeout_ms=self.settings.request_timeout_ms if timeout_ms is None else timeout_ms,
            trace=self.note if self.settings.verbose else None,
            new_request_id=lambda: str(uuid.uuid4()),
            consistency=STALE if self.stale else LINEARIZABLE,
            on_learnt=on_learnt,
        )

    @property
    def has_called(self) -> bool:
        """Whether the coordinator was asked for anything."""
        return "client" in self.__dict__

    @property
    def completes(self) -> bool:
        """Whether the shell asks for completions: then nothing is done by the way."""
        return "_CLOUDLESSCTL_COMPLETE" in self.environment

    def close(self) -> None:
        if self.has_called:
            self.client.close()
