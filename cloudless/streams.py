"""The message stream that sessions are written against: gRPC in production, a simulated network in tests."""

from __future__ import annotations

from typing import Protocol, TypeVar

Out = TypeVar("Out", contravariant=True)
In = TypeVar("In", covariant=True)


class MessageStream(Protocol[Out, In]):
    """An ordered, reliable, bidirectional stream of messages that can break at any time.

    One task sends at a time and one receives at a time. Raises `Unavailable` when the stream broke; then it is
    of no further use.
    """

    async def send(self, message: Out) -> None:
        """Returns once the transport took the message (back-pressure), not once it arrived."""
        ...

    async def receive(self) -> In | None:
        """The next message, or None when the peer ended the stream in good order."""
        ...

    async def close(self) -> None:
        """Ends the stream; safe to call twice."""
        ...
