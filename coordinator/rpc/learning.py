"""Clients learn of coordinators that came or went by the way: in the trailers of whatever they called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudless.coordinator.rpc.call import Call
from cloudless.coordinator.rpc.pipeline import Proceed
from cloudless.identity.channel import COORDINATORS_METADATA, COORDINATORS_NOW_TRAILER, addresses_digest


class Learning:
    """Tells a caller that says which addresses it knows those that are, where they differ. `addresses` gives the same
    object for as long as they stay the same."""

    def __init__(self, addresses: Callable[[], tuple[str, ...]]) -> None:
        self._addresses = addresses
        self._seen: tuple[str, ...] | None = None
        self._digest = ""
        self._trailer: tuple[tuple[str, str], ...] = ()

    async def __call__(self, call: Call, request: Any, proceed: Proceed) -> Any:
        known = call.metadata.get(COORDINATORS_METADATA)
        if known is not None:
            self._look()
            if known != self._digest and self._trailer:
                call.context.set_trailing_metadata(self._trailer)  # a refusal's own trailers take its place
        return await proceed(call, request)

    def _look(self) -> None:
        addresses = self._addresses()
        if addresses is self._seen:
            return
        self._seen, self._digest = addresses, addresses_digest(addresses)
        text = ",".join(addresses)
        self._trailer = ((COORDINATORS_NOW_TRAILER, text),) if text and text.isascii() else ()
