"""Rules for how a replica ends: its grace and the hook before the request to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cloudless.core.container_rules import command_violations, http_violations
from cloudless.core.defaults import TERMINATION
from cloudless.core.quantity import format_duration
from cloudless.core.spec import Container, PreStop, Termination
from cloudless.core.violations import Violation, duration


def termination_violations(termination: Termination, containers: Sequence[Container], path: str) -> Iterator[Violation]:
    """A hook has one kind, and a pause leaves time to end in: it counts as part of the grace."""
    yield from duration(termination.grace_period_ms, f"{path}.gracePeriod")
    hook = termination.pre_stop
    if hook is not None:
        yield from _pre_stop(hook, containers, f"{path}.preStop")
        grace_ms = termination.grace_period_ms or TERMINATION.grace_period_ms
        if hook.sleep_ms >= grace_ms > 0:
            what = f"a pause of {format_duration(hook.sleep_ms)} leaves nothing of {format_duration(grace_ms)}"
            yield Violation(f"{path}.preStop.sleep", what, "shorten it or raise termination.gracePeriod")


def _pre_stop(hook: PreStop, containers: Sequence[Container], path: str) -> Iterator[Violation]:
    kinds = [key for key in ("exec", "http") if getattr(hook, key) is not None] + ["sleep"] * bool(hook.sleep_ms)
    if len(kinds) != 1:
        what = f"a hook has one kind, not {' and '.join(kinds)}" if kinds else "a hook needs a kind"
        yield Violation(path, what, "give exactly one of exec, http and sleep")
    if hook.exec is not None:
        yield from command_violations(hook.exec, f"{path}.exec")
    if hook.http is not None:
        ports = [port for container in containers for port in container.ports]
        yield from http_violations(hook.http, ports, f"{path}.http")
    yield from duration(hook.sleep_ms, f"{path}.sleep")
