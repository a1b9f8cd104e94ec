"""What validation reports: a path in the manifest, what is wrong there, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

DURATION_MS_MAX: Final = 366 * 24 * 3_600_000

_UNSUPPORTED_REMEDY: Final = "remove it; see `cloudlessctl explain` for what is supported"


@dataclass(frozen=True, slots=True)
class Violation:
    """`path` is spelled as in the manifest (`spec.containers[0].image`); `remedy` says what to write instead."""

    path: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}"
        return f"{text}; {self.remedy}" if self.remedy else text


def unsupported(path: str, what: str, remedy: str = _UNSUPPORTED_REMEDY) -> Violation:
    """Known to the manifest, but not honoured by this version: refused, never ignored."""
    return Violation(path, f"{what} is not supported by this version", remedy)


def bounded(value: int, path: str, *, lowest: int, highest: int) -> Iterator[Violation]:
    if not lowest <= value <= highest:
        yield Violation(path, f"{value} is out of range", f"use a number from {lowest} to {highest}")


def duration(value_ms: int, path: str) -> Iterator[Violation]:
    """A duration of zero (not stated) up to a year."""
    if value_ms < 0:
        yield Violation(path, "a duration cannot be negative", "use a duration such as 30s")
    elif value_ms > DURATION_MS_MAX:
        yield Violation(path, "the duration is longer than 366 days", "use a shorter duration")


def printable(text: str, path: str) -> Iterator[Violation]:
    """Text that reaches a process: without NUL, which no process can be given."""
    if "\0" in text:
        yield Violation(path, "the text contains a NUL character", "remove it")
