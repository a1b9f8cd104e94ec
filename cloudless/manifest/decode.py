"""A located tree to domain objects, driven by the schema; every mismatch becomes a Problem.

What cannot be read is left at its default so that reading goes on; `Decoder.positions` then says where each
path of the manifest stands, for the problems that validation finds.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from cloudless.core import quantity
from cloudless.manifest import schema
from cloudless.manifest.loader import Mapping as MappingNode
from cloudless.manifest.loader import Node, Scalar
from cloudless.manifest.loader import Sequence as SequenceNode
from cloudless.manifest.problem import Problem
from cloudless.manifest.schema import Field, Type

D = TypeVar("D")

_NUMBER_DIGITS_MAX: Final = 18
_PARSERS: Final[Mapping[str, tuple[Callable[[str], int], str]]] = {
    "cpu": (quantity.parse_cpu, "write a number of CPUs such as 250m, 0.5 or 2"),
    "bytes": (quantity.parse_bytes, "write a size such as 128Mi, 2Gi or 500M"),
    "bitrate": (quantity.parse_bitrate, "write a bit rate such as 5Mbps or 500kbps"),
    "duration": (quantity.parse_duration, "write a duration such as 30s, 1m30s or 250ms"),
    "pause": (quantity.parse_pause, "write a duration such as 1m, or manual"),
}
MISSING: Final = object()


def describe(node: Node) -> str:
    """A node's value in words, for messages."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if node.kind == "null":
        return "nothing"
    shown = node.text if len(node.text) <= 60 else node.text[:60] + "..."
    if node.kind == "str":
        return f"the text {shown!r}"
    return shown if node.kind == "bool" else f"the number {shown}"


def child(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class Decoder:
    """Reads the documents of one file. `problems` and `zeros` grow; paths are spelled as in the manifest."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.positions: dict[str, tuple[int, int]] = {}
        self.suggested: set[str] = set()  # paths that a misspelt key was probably meant for
        self.zeros: list[tuple[tuple[str | int, ...], str]] = []  # numbers written as zero: attributes, path

    def report(self, path: str, message: str, remedy: str = "", *, at: tuple[int, int] | None = None) -> None:
        line, column = at or self.locate(path)
        self.problems.append(Problem(self.file, line, column, path, message, remedy))

    def locate(self, path: str) -> tuple[int, int]:
        """Where a path stands, or the nearest thing around it that the file has."""
        while path not in self.positions and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.positions.get(path, (0, 0))

    def object(
        self, cls: type[D], node: Node, path: str, attributes: tuple[str | int, ...] = (), base: D | None = None
    ) -> D:
        """An instance of the dataclass `cls`: `base`, or its defaults, with what the node states."""
        if not isinstance(node, MappingNode):
            self.report(path, f"expected a mapping, got {describe(node)}", "write key: value lines under it")
            return base if base is not None else cls()
        by_key = _keys(cls)
        values: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for key, value in node.items.items():
            field = by_key.get(key)
            here = child(path, field.key if field else key)
            self.positions.setdefault(here, node.keys[key])
            if field is None:
                self._unknown(cls, key, value, path, node.keys[key])
            elif field.attribute in spelled:
                first = spelled[field.attribute]
                self.report(here, f"the same field as {first!r}", "remove one of the two", at=node.keys[key])
            else:
                spelled[field.attribute] = key
                read = self.value(field.type, value, here, (*attributes, field.attribute))
                if read is not MISSING:
                    values[field.attribute] = read
        if base is None:
            return cls(**values)
        return dataclasses.replace(base, **values)  # type: ignore[type-var]

    def value(self, kind: Type, node: Node, path: str, attributes: tuple[str | int, ...]) -> Any:
        """The value of a field, or MISSING where none is stated or it cannot be read."""
        if isinstance(node, Scalar) and node.kind == "null":
            return MISSING
        if kind.kind == "object":
            return self.object(kind.cls, node, path, attributes) if self._is(node, MappingNode, path) else MISSING
        if kind.kind == "list":
            return self._list(kind, node, path, attributes)
        if kind.kind == "map":
            return self._map(node, path)
        if not isinstance(node, Scalar):
            self.report(path, f"expected {_EXPECTED[kind.kind]}, got {describe(node)}", _REMEDY[kind.kind])
            return MISSING
        read = getattr(self, f"_{kind.kind}", self._quantity)(kind, node, path)
        if read == 0 and read is not False:
            self.zeros.append((attributes, path))
        return read

    def _is(self, node: Node, cls: type, path: str) -> bool:
        if isinstance(node, cls):
            return True
        expected, remedy = (
            ("a list", "write it as - item lines or [a, b]")
            if cls is SequenceNode
            else ("a mapping", "write key: value lines under it")
        )
        self.report(path, f"expected {expected}, got {describe(node)}", remedy)
        return False

    def _list(self, kind: Type, node: Node, path: str, attributes: tuple[str | int, ...]) -> Any:
        if not self._is(node, SequenceNode, path):
            return MISSING
        assert isinstance(node, SequenceNode)
        assert kind.item is not None
        read = []
        for index, item in enumerate(node.items):
            here = f"{path}[{index}]"
            self.positions[here] = (item.line, item.column)
            if isinstance(item, Scalar) and item.kind == "null":
                self.report(here, "the item is empty", "write a value or remove it")
                continue
            value = self.value(kind.item, item, here, (*attributes, index))
            # An unreadable object still stands for itself, so that the indices after it agree.
            read.append(kind.item.cls() if value is MISSING and kind.item.kind == "object" else value)
        return tuple(value for value in read if value is not MISSING)

    def _map(self, node: Node, path: str) -> Any:
        if not self._is(node, MappingNode, path):
            return MISSING
        assert isinstance(node, MappingNode)
        read = {}
        for key, value in node.items.items():
            here = child(path, key)
            self.positions[here] = node.keys[key]
            if not isinstance(value, Scalar) or value.kind != "str":
                self._not_text(value, here)
            else:
                read[key] = value.text
        return read

    def _text(self, _kind: Type, node: Scalar, path: str) -> Any:
        if node.kind == "str":
            return node.text
        self._not_text(node, path)
        return MISSING

    def _not_text(self, node: Node, path: str) -> None:
        remedy = "write one text"
        if isinstance(node, Scalar):
            remedy = 'write "" for an empty text' if node.kind == "null" else f'quote it: "{node.text[:60]}"'
        self.report(path, f"expected text, got {describe(node)}", remedy)

    def _number(self, _kind: Type, node: Scalar, path: str) -> Any:
        if node.kind != "int":
            unquoted = node.kind == "str" and _is_number(node.text)
            remedy = f"remove the quotes: {node.text}" if unquoted else _REMEDY["number"]
            self.report(path, f"expected a whole number, got {describe(node)}", remedy)
            return MISSING
        if len(node.text) > _NUMBER_DIGITS_MAX:
            self.report(path, f"{node.text[:40]} is out of range", "use a smaller number")
            return MISSING
        return int(node.text)

    def _seconds(self, kind: Type, node: Scalar, path: str) -> Any:
        read = self._number(kind, node, path)
        return read if read is MISSING else read * 1000

    def _switch(self, _kind: Type, node: Scalar, path: str) -> Any:
        if node.kind == "bool":
            return node.text.lower() == "true"
        self.report(path, f"expected true or false, got {describe(node)}", _REMEDY["switch"])
        return MISSING

    def _choice(self, kind: Type, node: Scalar, path: str) -> Any:
        words = [member.value for member in kind.cls]
        if node.text in words:
            return kind.cls(node.text)
        self.report(path, f"{node.text[:60]!r} is not one of {', '.join(words)}", suggest(node.text, words, "use "))
        return MISSING

    def _port(self, _kind: Type, node: Scalar, path: str) -> Any:
        if node.kind in ("int", "str") and node.text:
            return node.text
        self.report(path, f"expected a port's number or name, got {describe(node)}", _REMEDY["port"])
        return MISSING

    def _quantity(self, kind: Type, node: Scalar, path: str) -> Any:
        parse, remedy = _PARSERS[kind.kind]
        if node.kind == "bool":
            self.report(path, f"expected {_EXPECTED[kind.kind]}, got {node.text}", remedy)
            return MISSING
        try:
            return parse(node.text)
        except quantity.QuantityError as error:
            if kind.kind == "duration" and node.text.isascii() and node.text.isdigit():
                remedy = f"add a unit: {node.text[:20]}s"
            self.report(path, str(error).split(" such as ")[0], remedy)
            return MISSING

    def _unknown(self, cls: type, key: str, value: Node, path: str, at: tuple[int, int]) -> None:
        here = child(path, key)
        later = schema.UNSUPPORTED.get(cls, {})
        known = next((name for name in later if key in (name, schema.snake(name))), None)
        if known is not None:
            if not _asks_for_nothing(value):
                what = f"the field {known!r} is not supported by this version"
                self.report(here, what, later[known], at=at)
                if known == "module":
                    self.suggested.add(child(path, "image"))
            return
        if key in schema.READ_ONLY.get(cls, ()):
            return
        names = [field.key for field in schema.fields(cls)] + list(later)
        elsewhere = schema.ELSEWHERE.get(key)
        if elsewhere is not None and (elsewhere in names or "." in elsewhere):
            remedy = f"did you mean {elsewhere!r}?"
            self.suggested.add(child(path, elsewhere))
        else:
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
            if close:
                self.suggested.add(child(path, close[0]))
            remedy = suggest(key, names, "it has ")
        self.report(here, f"unknown field {key[:60]!r}", remedy, at=at)


_EXPECTED: Final[Mapping[str, str]] = {
    "text": "text",
    "number": "a whole number",
    "seconds": "a whole number of seconds",
    "switch": "true or false",
    "choice": "a word",
    "port": "a port's number or name",
    "cpu": "a number of CPUs",
    "bytes": "a size",
    "bitrate": "a bit rate",
    "duration": "a duration",
    "pause": "a duration or manual",
}
_REMEDY: Final[Mapping[str, str]] = {
    "text": "write one text",
    "number": "write digits only",
    "seconds": "write digits only",
    "switch": "write true or false",
    "choice": "write one word",
    "port": "write a number from 1 to 65535 or a port's name",
} | {kind: remedy for kind, (_, remedy) in _PARSERS.items()}


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdigit() and text.isascii()


def _keys(cls: type) -> dict[str, Field]:
    table: dict[str, Field] = {}
    for field in schema.fields(cls):
        table.setdefault(field.key, field)
        table.setdefault(field.snake, field)
    return table


def suggest(word: str, words: list[str], otherwise: str) -> str:
    """The remedy for a word that is none of `words`: the one that was probably meant, or all of them."""
    by_lower = {candidate.lower(): candidate for candidate in words}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean {by_lower[close[0]]!r}?"
    return otherwise + (f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0])


def _asks_for_nothing(node: Node) -> bool:
    if isinstance(node, MappingNode | SequenceNode):
        return not node.items
    return node.kind == "null" or (node.kind == "bool" and node.text.lower() == "false")
