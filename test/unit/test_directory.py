"""Which addresses are given out: this coordinator's first, then those of the others that the log knows."""

from __future__ import annotations

import dataclasses

from cloudless.coordinator.core.state import State
from cloudless.coordinator.directory import Directory
from cloudless.core.model import Coordinator


class Log:
    def __init__(self) -> None:
        self.state = State.empty("fabric.example")

    def put(self, name: str, **fields: object) -> None:
        known = self.state.coordinators.get(name, Coordinator(id=name))
        self.state = self.state.with_coordinator(dataclasses.replace(known, **fields))  # type: ignore[arg-type]


def _directory(log: Log) -> Directory:
    directory = Directory("c2", lambda: log.state)
    directory.listening(api=("b:1",), enroll=("b:2",), member="b:3")
    return directory


def test_own_addresses_are_known_before_the_log_knows_them() -> None:
    directory = _directory(Log())
    assert directory.api_addresses() == ("b:1",)
    assert directory.enroll_addresses() == ("b:2",)
    assert directory.own_member == "b:3"
    assert directory.others() == ()


def test_own_first_then_the_others_by_id() -> None:
    log = Log()
    for name in ("c3", "c1", "c2"):
        log.put(name, api_addresses=(f"{name}:1", "shared:1"), enroll_addresses=(f"{name}:2",))
    directory = _directory(log)
    assert directory.api_addresses() == ("b:1", "c1:1", "shared:1", "c3:1"), "each once; what the log has of c2 is old"
    assert directory.enroll_addresses() == ("b:2", "c1:2", "c3:2")
    assert [other.id for other in directory.others()] == ["c1", "c3"]


def test_changes_are_seen_at_once() -> None:
    log = Log()
    directory = _directory(log)
    log.put("c1", api_addresses=("c1:1",))
    assert directory.api_addresses() == ("b:1", "c1:1")
    log.put("c1", api_addresses=("elsewhere:1",))
    assert directory.api_addresses() == ("b:1", "elsewhere:1")
    log.put("c1", removed=True)
    assert directory.api_addresses() == ("b:1",)
    assert directory.others() == ()
    directory.listening(api=("other:1",), enroll=())
    assert directory.api_addresses() == ("other:1",)


def test_equal_answers_are_the_same_object() -> None:
    log = Log()
    log.put("c1", api_addresses=("c1:1",))
    directory = _directory(log)
    before = directory.api_addresses()
    log.put("c1", version="2.0.0")
    assert directory.api_addresses() is before
    assert directory.others()[0].version == "2.0.0"
