"""What the services stand on, and the two or three steps that all of them take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cloudless.clock import Clock
from cloudless.config import CoordinatorConfig
from cloudless.coordinator.core.state import State
from cloudless.coordinator.directory import Directory
from cloudless.coordinator.rpc.call import current
from cloudless.coordinator.sessions import SessionHub
from cloudless.coordinator.store import Store
from cloudless.core.validation import Violation
from cloudless.errors import InvalidArgument
from cloudless.identity.ca import CertificateAuthority
from cloudless.identity.tokens import TokenSigner


@dataclass(frozen=True)
class Backend:
    """`directory` knows the addresses that agents, people and tokens are given. `cluster_id`: of the cluster of
    coordinators; "" where the engine knows no such thing."""

    config: CoordinatorConfig
    store: Store[State]
    hub: SessionHub
    authority: CertificateAuthority
    signer: TokenSigner
    clock: Clock
    directory: Directory
    cluster_id: Callable[[], str] = lambda: ""

    @property
    def api_addresses(self) -> tuple[str, ...]:
        """host:port of the mTLS listeners of all coordinators, as of now, this one's first."""
        return self.directory.api_addresses()

    @property
    def enroll_addresses(self) -> tuple[str, ...]:
        """host:port of the enrolment listeners of all coordinators, as of now, this one's first."""
        return self.directory.enroll_addresses()

    @property
    def trust_domain(self) -> str:
        return self.authority.trust_domain

    @property
    def state(self) -> State:
        return self.store.snapshot.state

    # The id is the caller's own: another caller who sends the same one must not get this one's answer.
    async def write(self, command: Any, *, suffix: str = "") -> Any:
        """Proposes for the present caller under the call's request id. Returns once it is durable and applied; a
        refused command raises its error."""
        call = current()
        actor = call.caller.actor
        return await self.store.propose(command, actor=actor, request_id=f"{actor}/{call.request_id}{suffix}")


def derived_id(prefix: str, *, length: int = 10) -> str:
    """An id for what the present call creates: the same when the call is repeated under its request id."""
    call = current()
    digest = hashlib.sha256(f"{prefix}\0{call.caller.actor}\0{call.request_id}".encode()).hexdigest()
    return f"{prefix}-{digest[:length]}"


def refuse_violations(violations: Sequence[Violation] | Iterable[Violation]) -> None:
    """Raises one InvalidArgument (reason InvalidSpec) that lists all violations."""
    found = tuple(violations)
    if not found:
        return
    if len(found) == 1:
        only = found[0]
        raise InvalidArgument(f"{only.path}: {only.message}", reason="InvalidSpec", remedy=only.remedy)
    lines = "".join(f"\n- {violation}" for violation in found)
    raise InvalidArgument(f"{len(found)} problems:{lines}", reason="InvalidSpec")


def required(value: str, field: str) -> str:
    """`value`, or InvalidArgument (reason FieldRequired) when it is empty."""
    if not value:
        raise InvalidArgument(f"{field} is required", reason="FieldRequired")
    return value
