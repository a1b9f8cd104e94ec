"""May the caller: the row of `access`, before the handler runs, and again for as long as a stream lasts."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import prometheus_client
import structlog

from cloudless.clock import Clock
from cloudless.coordinator.core.roles import EVERYWHERE
from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc.access import TABLE, Rule, Scope, described
from cloudless.coordinator.rpc.authentication import Authentication, expired
from cloudless.coordinator.rpc.call import Call, Principal
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.errors import CloudlessError, InvalidArgument, PermissionDenied, ResourceExhausted

DENIED = prometheus_client.Counter(
    "cloudless_authz_denied_total", "Calls of known callers that were denied.", ["method", "reason"]
)

log = structlog.get_logger(__name__)

_FIRST_MESSAGE_S = 30.0
# Open streams of one caller: a node's channels (at most 256) beside its session, or a person's watches.
STREAMS_PER_CALLER_MAX = 512
_NEVER_MS = 2**63


class _Stream:
    """A stream under watch. `refusal` is why it has to end, once it has to."""

    def __init__(self, call: Call, rule: Rule, subject: Any) -> None:
        self.call = call
        self.rule = rule
        self.subject = subject
        task = asyncio.current_task()  # gRPC serves each call in a task of its own
        assert task is not None
        self.task = task
        self.refusal: CloudlessError | None = None


class Authorization:
    """Refuses with PermissionDenied (reasons NotForThisCaller, RoleRequired), a stream too many with
    ResourceExhausted (TooManyStreams), or lets pass.

    A stream outlives the moment of its authorisation: `watch_streams` ends those whose caller lost the right.
    """

    def __init__(self, authentication: Authentication, *, state: Callable[[], State], clock: Clock) -> None:
        self._authentication = authentication
        self._state = state
        self._clock = clock
        self._streams: set[_Stream] = set()
        self._held: Counter[str] = Counter()  # open streams by caller
        self._earliest_expiry_ms = _NEVER_MS
        self._ending: CloudlessError | None = None

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        rule = TABLE.get(call.method)
        caller = call.caller
        if rule is None or caller.kind not in rule.kinds:
            self._deny(call, f"{call.method.lstrip('/')} is not for a {caller.kind}", "NotForThisCaller")
        assert rule is not None
        subject = request
        if rule.role is not None:
            if call.request_streaming and rule.scope is not Scope.CLUSTER:
                subject = await _first(request)
            self._check(call, rule, caller, subject)
        if not call.streaming:
            return await proceed(call, request)
        return await self._guarded(_Stream(call, rule, subject), request, proceed)

    async def watch_streams(self, *, interval_s: float = 1.0) -> None:
        """Runs for ever. Checks open streams whenever people, nodes or coordinators changed or a certificate ended: a
        stream ends with Unauthenticated when its caller was revoked or removed or its certificate expired without
        renewal, and with PermissionDenied when the caller lost the role."""
        seen: tuple[Any, ...] = ()
        while True:
            await asyncio.sleep(interval_s)
            state = self._state()
            watched = (state.users, state.nodes, state.coordinators)
            unchanged = len(seen) == len(watched) and all(map(operator.is_, seen, watched))
            if unchanged and self._clock.now_ms() < self._earliest_expiry_ms:
                continue
            seen = watched
            self.check_streams()

    def check_streams(self) -> None:
        """One round of `watch_streams`."""
        now_ms = self._clock.now_ms()
        self._earliest_expiry_ms = _NEVER_MS
        for stream in tuple(self._streams):
            try:
                self._still(stream, now_ms)
            except CloudlessError as error:
                self._end(stream, error)

    def end_streams(self, error: CloudlessError) -> None:
        """Ends every open stream with this error, and each that is opened later at once: the server stops."""
        self._ending = error
        for stream in tuple(self._streams):
            self._end(stream, error)

    def _end(self, stream: _Stream, error: CloudlessError) -> None:
        self._streams.discard(stream)
        stream.refusal = error
        stream.task.cancel()

    async def _guarded(self, stream: _Stream, request: Any, proceed: Proceed) -> Any:
        if self._ending is not None:
            raise self._ending
        who = stream.call.caller.actor
        if self._held[who] >= STREAMS_PER_CALLER_MAX:
            raise ResourceExhausted(
                f"{who} has {STREAMS_PER_CALLER_MAX} open streams",
                reason="TooManyStreams",
                remedy="end some watches, logs or exec sessions",
            )
        self._held[who] += 1
        self._streams.add(stream)
        self._earliest_expiry_ms = min(self._earliest_expiry_ms, stream.call.caller.certificate_expires_at_ms)
        try:
            return await proceed(stream.call, request)
        except asyncio.CancelledError:
            if stream.refusal is None:
                raise
            stream.task.uncancel()
            raise stream.refusal from None
        finally:
            self._streams.discard(stream)
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]

    def _still(self, stream: _Stream, now_ms: int) -> None:
        caller = stream.call.caller
        until_ms = self._authentication.current_until_ms(caller)
        if until_ms <= now_ms:
            raise expired(caller.kind)
        self._earliest_expiry_ms = min(self._earliest_expiry_ms, until_ms)
        if stream.rule.role is not None:
            stream.call.principal = caller = self._authentication.refreshed(caller)
            self._check(stream.call, stream.rule, caller, stream.subject)

    def _check(self, call: Call, rule: Rule, caller: Principal, subject: Any) -> None:
        assert rule.role is not None
        if rule.scope is Scope.CLUSTER:
            if not caller.may(rule.role, EVERYWHERE):
                self._deny_role(call, rule, EVERYWHERE)
            return
        namespaces = rule.namespaces(subject)
        if namespaces is None:
            if not caller.may_anywhere(rule.role):
                self._deny(
                    call,
                    f"{caller.actor} needs role {rule.role} or higher in some namespace",
                    "RoleRequired",
                )
            return
        for namespace in sorted(namespaces):
            if not caller.may(rule.role, namespace):
                self._deny_role(call, rule, namespace)

    def _deny_role(self, call: Call, rule: Rule, namespace: str) -> None:
        self._deny(
            call,
            f"{call.caller.actor} needs {described(rule, namespace)} for {call.method.rpartition('/')[2]}",
            "RoleRequired",
        )

    def _deny(self, call: Call, message: str, reason: str) -> None:
        DENIED.labels(call.method, reason).inc()
        log.warning("security.authz_denied", caller=call.caller.actor, reason=reason, detail=message)
        remedy = "ask an administrator for the role" if reason == "RoleRequired" else ""
        raise PermissionDenied(message, reason=reason, remedy=remedy)


async def _first(stream: Any) -> Any:
    """The first message of a client's stream, left in place for the handler."""
    try:
        async with asyncio.timeout(_FIRST_MESSAGE_S):
            first = await stream.peek()
    except TimeoutError:
        raise InvalidArgument("the first message did not arrive in time", reason="FirstMessageMissing") from None
    if first is None:
        raise InvalidArgument("the stream ended before its first message", reason="FirstMessageMissing")
    return first
