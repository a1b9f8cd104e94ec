"""One call on its way through the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from cloudless.coordinator.core import roles
from cloudless.core.model import Role, RoleBinding
from cloudless.errors import Internal


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as the peer's certificate says. `bindings` are a person's, from the replicated state at the
    moment of the call; nodes and coordinators have none."""

    kind: str  # node, user, coordinator
    name: str
    spiffe_id: str
    certificate_expires_at_ms: int
    certificate_ttl_ms: int = 0  # the life that it was issued for
    bindings: tuple[RoleBinding, ...] = ()

    @property
    def actor(self) -> str:
        """As log entries and events name it: `user/alice`."""
        return f"{self.kind}/{self.name}"

    def may(self, role: Role, namespace: str) -> bool:
        """Whether a binding grants `role` or more in `namespace` (`*`: cluster-wide)."""
        return roles.grants(self.bindings, role, namespace)

    def may_anywhere(self, role: Role) -> bool:
        return roles.grants_somewhere(self.bindings, role)


@dataclasses.dataclass(slots=True, weakref_slot=True)
class Call:
    """What the pipeline knows of a call. `principal` is None until authentication has run, and stays None on
    the enrolment listener."""

    method: str  # /package.Service/Method
    context: Any  # grpc.aio.ServicerContext
    request_streaming: bool
    response_streaming: bool
    metadata: Mapping[str, Any]
    request_id: str = ""
    principal: Principal | None = None
    code: str = "OK"
    reason: str = ""  # of the refusal, where there was one

    @property
    def streaming(self) -> bool:
        return self.request_streaming or self.response_streaming

    @property
    def caller(self) -> Principal:
        """The authenticated caller. Raises Internal where the pipeline ran without authentication."""
        if self.principal is None:
            raise Internal(f"{self.method} ran without an authenticated caller")
        return self.principal


_current: ContextVar[Call] = ContextVar("cloudless_call")


def current() -> Call:
    """The call that this task serves."""
    return _current.get()


def current_or_none() -> Call | None:
    """As `current`; None where no call is served."""
    return _current.get(None)


def enter(call: Call) -> None:
    """Makes `call` the current one; a gRPC call runs in a task of its own, so nothing has to be undone."""
    _current.set(call)
