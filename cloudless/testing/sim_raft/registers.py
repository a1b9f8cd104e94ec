"""The state machine that the simulation replicates: named registers, and the answers that were given.

Its operations are those of `linearizability.Register`. A repeated request id gets its first answer, as the fabric's own
machine does it.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import immutables

from cloudless.coordinator.core.outcome import ApplyResult, Change
from cloudless.core.model import Event

Value: TypeAlias = int | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Put:
    """`kind`: write, append or cas. `value` is written, appended, or takes the place of `expected`."""

    kind: str
    key: str
    value: int
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Registers:
    values: immutables.Map[str, Value]
    answers: immutables.Map[str, tuple[int, bool]]  # by request id: where it was applied, what it was told


@dataclass(frozen=True, slots=True)
class Applied:
    state: Registers
    result: ApplyResult
    changes: tuple[Change, ...] = ()
    events: tuple[Event, ...] = ()


DONE = ApplyResult(accepted=True, changed="updated")
REFUSED = ApplyResult(accepted=True, changed="unchanged")  # a swap whose expectation failed is an answer, no error


class RegisterMachine:
    """A `coordinator.wal.machine.Machine`."""

    def empty(self) -> Registers:
        return Registers(immutables.Map(), immutables.Map())

    def entry(self, command: Any, *, state: Registers, actor: str, request_id: str, issued_at_ms: int) -> bytes:
        return json.dumps([request_id, command.kind, command.key, command.value, command.expected]).encode()

    def apply(self, state: Registers, data: bytes, *, index: int, term: int) -> Applied:
        request_id, kind, key, value, expected = json.loads(data)
        answer = state.answers.get(request_id)
        if answer is not None:
            return Applied(state, DONE if answer[1] else REFUSED)
        values, fits = state.values, True
        if kind == "write":
            values = values.set(key, value)
        elif kind == "append":
            before = values.get(key)
            values = values.set(key, (*before, value) if isinstance(before, tuple) else (value,))
        else:
            fits = values.get(key) == expected
            if fits:
                values = values.set(key, value)
        after = Registers(values, state.answers.set(request_id, (index, fits)))
        return Applied(after, DONE if fits else REFUSED)

    def encode(self, state: Registers, *, index: int, term: int) -> bytes:
        document = [index, term, sorted(state.values.items()), sorted(state.answers.items())]
        return json.dumps(document, separators=(",", ":")).encode()

    def decode(self, data: bytes) -> tuple[Registers, int, int]:
        index, term, values, answers = json.loads(data)
        registers = Registers(
            immutables.Map({key: tuple(value) if isinstance(value, list) else value for key, value in values}),
            immutables.Map({request_id: (at, fits) for request_id, (at, fits) in answers}),
        )
        return registers, index, term

    def state_hash(self, state: Registers) -> str:
        return f"{zlib.crc32(self.encode(state, index=0, term=0)):08x}"

    def events(self, state: Registers) -> tuple[Event, ...]:
        return ()
