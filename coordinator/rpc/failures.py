"""Every exception becomes a status with trailers; nothing of the inside reaches the caller.

Trailers: `cloudless-error` (the error's word), `cloudless-reason` (CamelCase, the particular case),
`cloudless-remedy-bin` (what to do, UTF-8, where there is something) and `cloudless-request-id`.
"""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import structlog

from cloudless.coordinator.rpc.call import Call
from cloudless.coordinator.rpc.observation import valid_request_id
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.errors import CloudlessError, Internal, InvalidArgument
from cloudless.identity.channel import ERROR_TRAILER, REASON_TRAILER, REMEDY_TRAILER, REQUEST_ID_METADATA

log = structlog.get_logger(__name__)

# gRPC drops a connection whose headers grow past 8 KiB; a status message shares that room, percent-encoded.
_MESSAGE_LIMIT_BYTES = 4000
_MESSAGE_LIMIT_BYTES_ENCODED = 2000  # where it is not ASCII: three bytes for one
_REMEDY_LIMIT_BYTES = 1000

Trailer = tuple[str, str | bytes]


def _cut(text: str, limit_bytes: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit_bytes else data[: limit_bytes - 3].decode("utf-8", "ignore") + "..."


def trailers(error: CloudlessError, request_id: str) -> tuple[Trailer, ...]:
    """The trailing metadata that describes `error`."""
    rows: list[Trailer] = [(ERROR_TRAILER, error.code)]
    if error.reason.isascii() and error.reason.isprintable():  # all of ours are; a log written later may differ
        rows.append((REASON_TRAILER, error.reason[:128]))
    if error.remedy:
        rows.append((REMEDY_TRAILER, _cut(error.remedy, _REMEDY_LIMIT_BYTES).encode()))
    rows.append((REQUEST_ID_METADATA, request_id))
    return tuple(rows)


def refuse(call: Call, error: CloudlessError) -> None:
    """Gives the call the error's status; its handler then returns.

    Not by `context.abort`: gRPC keeps the exception that it raises inside the call, a cycle that holds the call until
    the garbage collector runs. The transport counts such calls as open streams, so that a client which is refused
    often enough would be refused everything.
    """
    call.code, call.reason = error.grpc_status, error.reason
    limit_bytes = _MESSAGE_LIMIT_BYTES if error.message.isascii() else _MESSAGE_LIMIT_BYTES_ENCODED
    call.context.set_code(grpc.StatusCode[error.grpc_status])
    call.context.set_details(_cut(error.message, limit_bytes))
    call.context.set_trailing_metadata(trailers(error, call.request_id))


class Failures:
    """Maps exceptions to statuses, once for every method."""

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        try:
            given = call.metadata.get(REQUEST_ID_METADATA)
            if given is not None and not (isinstance(given, str) and valid_request_id(given)):
                raise InvalidArgument(
                    f"metadata {REQUEST_ID_METADATA} must be 1 to 128 printable characters without spaces",
                    reason="BadRequestId",
                )
            return await proceed(call, request)
        except grpc.aio.AbortError:  # a library's own servicer ended the call (health, reflection)
            code = call.context.code()
            call.code = code.name if isinstance(code, grpc.StatusCode) else _status_name(code)
            raise
        except Internal as error:
            log.error("rpc.internal_error", error=str(error), exc_info=True)
            refuse(call, _hidden(call))
        except CloudlessError as error:
            refuse(call, error)
        except Exception as error:
            log.error("rpc.unexpected_error", error=type(error).__name__, exc_info=True)
            refuse(call, _hidden(call))


def _hidden(call: Call) -> Internal:
    return Internal(
        f"internal error; the coordinator's log has it under request id {call.request_id}",
        remedy="repeat the call with the same request id; if it persists, report it with that id",
    )


def _status_name(number: Any) -> str:
    for status in grpc.StatusCode:
        if status.value[0] == number:
            return str(status.name)
    return "UNKNOWN"
