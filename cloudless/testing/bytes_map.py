"""The smallest state machine with a state of any size: a persistent map from key to bytes. For benchmarks and for tests
of what is generic. Not de-duplicated: a repeat has a second effect, which is the same."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import immutables

from cloudless.coordinator.core.outcome import ApplyResult, Change
from cloudless.core.model import Event

_HEAD = struct.Struct("<QQI")
_PAIR = struct.Struct("<HI")
DONE = ApplyResult(accepted=True, changed="updated")

BytesState = immutables.Map  # str -> bytes


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Applied:
    state: Any
    result: ApplyResult = DONE
    changes: tuple[Change, ...] = ()
    events: tuple[Event, ...] = ()


def put(key: str, value: bytes) -> bytes:
    """An entry's bytes."""
    name = key.encode()
    return _PAIR.pack(len(name), len(value)) + name + value


class BytesMap:
    """A `coordinator.wal.machine.Machine`."""

    def empty(self) -> Any:
        return immutables.Map()

    def entry(self, command: Put, *, state: Any, actor: str, request_id: str, issued_at_ms: int) -> bytes:
        return put(command.key, command.value)

    def apply(self, state: Any, data: bytes, *, index: int, term: int) -> Applied:
        name_length, value_length = _PAIR.unpack_from(data)
        at = _PAIR.size + name_length
        return Applied(state.set(data[_PAIR.size : at].decode(), data[at : at + value_length]))

    def encode(self, state: Any, *, index: int, term: int) -> bytes:
        return b"".join([_HEAD.pack(index, term, len(state)), *(put(key, state[key]) for key in sorted(state))])

    def decode(self, data: bytes) -> tuple[Any, int, int]:
        try:
            index, term, count = _HEAD.unpack_from(data)
            at, pairs = _HEAD.size, []
            for _ in range(count):
                name_length, value_length = _PAIR.unpack_from(data, at)
                middle = at + _PAIR.size + name_length
                pairs.append((data[at + _PAIR.size : middle].decode(), data[middle : middle + value_length]))
                at = middle + value_length
        except struct.error as error:
            raise ValueError(str(error)) from None
        return immutables.Map(pairs), index, term

    def state_hash(self, state: Any) -> str:
        return hashlib.sha256(self.encode(state, index=0, term=0)).hexdigest()

    def events(self, state: Any) -> tuple[Event, ...]:
        return ()
