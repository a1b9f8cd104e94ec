"""One error tree. Each class knows its word on the wire, its gRPC status and whether a repeat may help.

    CloudlessError
    +-- InvalidArgument       the request can never succeed as it is
    +-- Unauthenticated       who is calling is not known or no longer valid
    |   +-- TokenRefused      a join token: used up, expired, revoked, altered, for another audience or node
    +-- PermissionDenied      the caller is known and may not
    +-- NotFound
    +-- AlreadyExists
    +-- Conflict              the object changed since it was read (expected revision)
    +-- FailedPrecondition    the state of the fabric forbids it now (node not ready, not supported here)
    +-- Unplaceable           no node fits
    +-- ResourceExhausted     a limit was reached; a repeat may succeed later
    |   +-- DiskFull          the log cannot be written; nothing was accepted
    +-- Compacted             the watch index is older than what is kept; list again
    +-- WatchLagged           the watcher was too slow; list again
    +-- Unavailable           not reachable, or no leader; a write's outcome is unknown: repeat it with its id
    +-- DeadlineExceeded      took too long; a write's outcome is unknown: repeat it with its id
    +-- Corrupt               stored data fails its checksum where it must not; needs the operator
    +-- Internal              a bug

The word (`code`) travels in log results and in the gRPC trailer `cloudless-error`; a `reason` (CamelCase) names
the particular case for programs: `TokenExpired`, `NodeNotReady`.
"""

from __future__ import annotations

from typing import ClassVar

# gRPC status names; spelled out so that core may import this module without grpc.
_INVALID_ARGUMENT = "INVALID_ARGUMENT"


class CloudlessError(Exception):
    """Base of all errors that a user may see.

    `message` names the cause; `remedy`, where there is one, the next step; `reason` the case for programs.
    """

    code: ClassVar[str] = "internal"
    grpc_status: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, reason: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).__name__
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def copy(self) -> CloudlessError:
        """The same error as an object of its own, for each of several callers: tracebacks grow where one is raised
        twice."""
        return type(self)(self.message, reason=self.reason, remedy=self.remedy)


class InvalidArgument(CloudlessError):
    code = "invalid_argument"
    grpc_status = _INVALID_ARGUMENT
    exit_code = 2


class Unauthenticated(CloudlessError):
    code = "unauthenticated"
    grpc_status = "UNAUTHENTICATED"


class TokenRefused(Unauthenticated):
    code = "token_refused"


class PermissionDenied(CloudlessError):
    code = "permission_denied"
    grpc_status = "PERMISSION_DENIED"
    exit_code = 4


class NotFound(CloudlessError):
    code = "not_found"
    grpc_status = "NOT_FOUND"
    exit_code = 3


class AlreadyExists(CloudlessError):
    code = "already_exists"
    grpc_status = "ALREADY_EXISTS"


class Conflict(CloudlessError):
    code = "conflict"
    grpc_status = "ABORTED"


class FailedPrecondition(CloudlessError):
    code = "failed_precondition"
    grpc_status = "FAILED_PRECONDITION"


class Unplaceable(CloudlessError):
    code = "unplaceable"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 4


class ResourceExhausted(CloudlessError):
    code = "resource_exhausted"
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True


class DiskFull(ResourceExhausted):
    code = "disk_full"


class Compacted(CloudlessError):
    code = "compacted"
    grpc_status = "OUT_OF_RANGE"


class WatchLagged(CloudlessError):
    code = "watch_lagged"
    grpc_status = "OUT_OF_RANGE"


class Unavailable(CloudlessError):
    code = "unavailable"
    grpc_status = "UNAVAILABLE"
    retryable = True
    exit_code = 5


class DeadlineExceeded(CloudlessError):
    code = "deadline_exceeded"
    grpc_status = "DEADLINE_EXCEEDED"
    retryable = True
    exit_code = 6


class Corrupt(CloudlessError):
    code = "corrupt"
    grpc_status = "DATA_LOSS"


class Internal(CloudlessError):
    pass


def _tree(cls: type[CloudlessError]) -> dict[str, type[CloudlessError]]:
    table = {cls.code: cls}
    for child in cls.__subclasses__():
        table |= _tree(child)
    return table


BY_CODE: dict[str, type[CloudlessError]] = _tree(CloudlessError) | {"internal": Internal}
# The first class that has a status stands for it when a peer sent no word.
BY_GRPC_STATUS: dict[str, type[CloudlessError]] = {}
for _cls in BY_CODE.values():
    BY_GRPC_STATUS.setdefault(_cls.grpc_status, _cls)


def from_code(code: str, message: str, *, reason: str = "", remedy: str = "") -> CloudlessError:
    """The error that a log result or a trailer names; an unknown word reads as Internal."""
    return BY_CODE.get(code, Internal)(message, reason=reason, remedy=remedy)
