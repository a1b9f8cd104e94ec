"""A tiny state machine for tests of the store and its loops: names with numbers.

The same contract as the fabric's: total, deterministic, remembers request ids, canonical bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from immutables import Map

from cloudless.coordinator.core.outcome import ApplyResult, Change
from cloudless.core.model import Event


@dataclass(frozen=True, slots=True)
class Put:
    """Sets a name to a number; a negative one is refused, and removes nothing."""

    name: str
    value: int
    planned_at_index: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    values: Map[str, int] = field(default_factory=Map)
    results: Map[str, ApplyResult] = field(default_factory=Map)
    applied: int = 0


@dataclass(frozen=True, slots=True)
class LedgerApplied:
    state: Ledger
    result: ApplyResult
    changes: tuple[Change, ...] = ()
    events: tuple[Event, ...] = ()


class LedgerMachine:
    def empty(self) -> Ledger:
        return Ledger()

    def entry(self, command: Any, *, state: Ledger, actor: str, request_id: str, issued_at_ms: int) -> bytes:
        if not isinstance(command, Put):
            raise ValueError("not a command of the ledger")
        return json.dumps([command.name, command.value, request_id, actor, issued_at_ms]).encode()

    def apply(self, state: Ledger, data: bytes, *, index: int, term: int) -> LedgerApplied:
        try:
            name, value, request_id, _, _ = json.loads(data)
        except ValueError:
            return LedgerApplied(state, ApplyResult(code="invalid_argument", message="not an entry"))
        known = state.results.get(request_id)
        if known is not None:
            return LedgerApplied(state, known)
        if value < 0:
            negative = f"{name} would be negative"
            result = ApplyResult(code="conflict", message=negative, reason="Negative", remedy="add first")
            return LedgerApplied(Ledger(state.values, state.results.set(request_id, result), state.applied), result)
        changed = "updated" if name in state.values else "created"
        result = ApplyResult(accepted=True, revision=index, changed=changed)
        after = Ledger(state.values.set(name, value), state.results.set(request_id, result), state.applied + 1)
        return LedgerApplied(after, result, (Change("workload", name),))

    def encode(self, state: Ledger, *, index: int, term: int) -> bytes:
        results = {
            key: [r.accepted, r.code, r.message, r.revision, r.changed, r.reason, r.remedy]
            for key, r in state.results.items()
        }
        return json.dumps([index, term, state.applied, dict(state.values), results], sort_keys=True).encode()

    def decode(self, data: bytes) -> tuple[Ledger, int, int]:
        index, term, applied, values, results = json.loads(data)
        kept = Map({key: ApplyResult(*fields) for key, fields in results.items()})
        return Ledger(Map(values), kept, applied), index, term

    def state_hash(self, state: Ledger) -> str:
        return hashlib.sha256(self.encode(state, index=0, term=0)).hexdigest()

    def events(self, state: Ledger) -> tuple[Event, ...]:
        return ()
