"""YAML or JSON text to located trees, one per document.

Built on libyaml's event stream rather than on a ready-made loader: no recursion in the parser, aliases under a
budget, duplicate keys refused, and scalars by the core schema of YAML 1.2, so that `yes` and `1:30` stay text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from cloudless.manifest.problem import Problem

BYTES_MAX: Final = 16 * 2**20
DEPTH_MAX: Final = 64
NODES_MAX: Final = 500_000  # of one file, aliases expanded
PROBLEMS_MAX: Final = 200  # of one file; more would not be read

_Loader: Any = getattr(yaml, "CLoader", yaml.Loader)
_NULL: Final = re.compile(r"(?:null|Null|NULL|~|)")
_BOOL: Final = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_SURROGATES: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
# Plain characters to JSON; to YAML 1.1 line breaks, or not allowed.
_JSON_PLAIN: Final = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)}
_STR_TAG: Final = "tag:yaml.org,2002:str"


@dataclass(slots=True)
class Scalar:
    """`kind` is null, bool, int, float or str; `text` is as written, without quotes."""

    line: int
    column: int
    kind: str
    text: str
    size: int = 1  # values in it, aliases expanded
    depth: int = 1  # levels of nesting


@dataclass(slots=True)
class Sequence:
    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    size: int = 1
    depth: int = 1


@dataclass(slots=True)
class Mapping:
    """`items` has a node for each key, in the order of the file; `keys` the key's own place."""

    line: int
    column: int
    items: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1
    depth: int = 1


Node = Scalar | Sequence | Mapping


def plain_kind(text: str) -> str:
    """What an unquoted scalar is: null, bool, int, float or str."""
    if _NULL.fullmatch(text):
        return "null"
    if _BOOL.fullmatch(text):
        return "bool"
    if _INT.fullmatch(text):
        return "int"
    return "float" if _FLOAT.fullmatch(text) else "str"


def load(data: bytes | str, file: str) -> tuple[list[Node], list[Problem]]:
    """The documents of one file, without the empty ones. With problems of syntax, the documents before them."""
    text, problem = _text(data, file)
    if problem is not None:
        return [], [problem]
    composer = _Composer(file)
    try:
        composer.run(text)
    except _Refused as refused:
        composer.problems.append(refused.problem)
    except yaml.MarkedYAMLError as error:
        composer.problems.append(_syntax(error, file))
    except yaml.YAMLError as error:
        message = str(getattr(error, "reason", "") or error).splitlines()[0]
        before = text.encode()[: max(0, getattr(error, "position", 0))]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        composer.problems.append(
            Problem(file, line, column, "", f"this is not YAML: {message}", "remove the character")
        )
    return composer.documents, composer.problems


def _text(data: bytes | str, file: str) -> tuple[str, Problem | None]:
    if len(data) > BYTES_MAX:
        remedy = "split it into several files"
        return "", Problem(file, 0, 0, "", f"the file is larger than {BYTES_MAX // 2**20} MiB", remedy)
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        text.encode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        assert isinstance(before, bytes)
        line = before.count(b"\n") + 1
        column = error.start - before.rfind(b"\n")
        return "", Problem(file, line, column, "", "the file is not UTF-8 text", "save it as UTF-8")
    except UnicodeEncodeError:
        return "", Problem(file, 0, 0, "", "the text holds half of a surrogate pair", "save it as UTF-8")
    # JSON writes characters beyond the basic plane as surrogate pairs, which YAML does not know.
    text = _SURROGATES.sub(_join_surrogates, text.removeprefix("\ufeff"))
    if text.lstrip()[:1] == "{":
        text = text.translate(_JSON_PLAIN)
    return text, None


def _join_surrogates(found: re.Match[str]) -> str:
    high, low = int(found[2], 16) - 0xD800, int(found[3], 16) - 0xDC00
    return found[1] + chr(0x10000 + (high << 10) + low)


def _syntax(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    message = error.problem or error.context or "unreadable"
    if error.context and error.problem:
        message = f"{error.problem} {error.context}"
    remedy = "check the indentation, colons and quotes around here"
    if "cannot start any token" in message:
        remedy = "indent with spaces, not tabs, and quote text that starts with a special character"
    elif "could not find expected ':'" in message or "mapping values are not allowed" in message:
        remedy = "write key: value, and quote text that contains ': '"
    return Problem(file, line, column, "", f"this is not YAML: {message}", remedy)


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been seen, and the key that waits for its value."""

    node: Sequence | Mapping
    anchor: str | None
    key: str | None = None
    key_at: tuple[int, int] = (0, 0)
    merges: list[tuple[Node, tuple[int, int]]] = field(default_factory=list)


class _Composer:
    def __init__(self, file: str) -> None:
        self.file = file
        self.documents: list[Node] = []
        self.problems: list[Problem] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._root: Node | None = None
        self._nodes = 0

    def run(self, text: str) -> None:
        handlers: dict[type, Callable[[Any, int, int], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
            yaml.MappingStartEvent: self._start,
            yaml.SequenceStartEvent: self._start,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.DocumentStartEvent: self._document_start,
            yaml.DocumentEndEvent: self._document_end,
        }
        for event in yaml.parse(text, Loader=_Loader):
            handler, mark = handlers.get(type(event)), event.start_mark
            if handler is not None and mark is not None:
                handler(event, mark.line + 1, mark.column + 1)

    def _refuse(self, line: int, column: int, message: str, remedy: str) -> _Refused:
        return _Refused(Problem(self.file, line, column, "", message, remedy))

    def _report(self, line: int, column: int, message: str, remedy: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(self.file, line, column, "", message, remedy))

    def _document_start(self, _event: Any, _line: int, _column: int) -> None:
        self._root = None
        self._anchors.clear()

    def _document_end(self, _event: Any, _line: int, _column: int) -> None:
        if self._root is not None and not (isinstance(self._root, Scalar) and self._root.kind == "null"):
            self.documents.append(self._root)

    def _count(self, nodes: int, line: int, column: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise self._refuse(line, column, f"the file expands to more than {NODES_MAX} values", "split it")

    def _scalar(self, event: Any, line: int, column: int) -> None:
        self._count(1, line, column)
        if event.tag is not None and event.tag not in ("!", _STR_TAG):
            self._report(line, column, f"the tag {event.tag!r} is not supported", "remove it")
        # libyaml gives '' for the style of a plain scalar, the Python parser None.
        plain = not event.style and event.tag not in ("!", _STR_TAG)
        node = Scalar(line, column, plain_kind(event.value) if plain else "str", event.value)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._add(node)

    def _alias(self, event: Any, line: int, column: int) -> None:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise self._refuse(line, column, f"the alias *{event.anchor} has no anchor before it", "define it first")
        self._count(node.size, line, column)
        self._add(node)

    def _start(self, event: Any, line: int, column: int) -> None:
        self._count(1, line, column)
        self._check_depth(1, line, column)
        if event.tag is not None and event.tag != "!":
            self._report(line, column, f"the tag {event.tag!r} is not supported", "remove it")
        kind = Mapping if isinstance(event, yaml.MappingStartEvent) else Sequence
        self._stack.append(_Open(kind(line, column), event.anchor))

    def _end(self, _event: Any, _line: int, _column: int) -> None:
        closed = self._stack.pop()
        node = closed.node
        if isinstance(node, Mapping):
            for merged, place in closed.merges:
                self._merge(node, merged, place)
        children = tuple(node.items.values() if isinstance(node, Mapping) else node.items)
        node.size = 1 + sum(child.size for child in children)
        node.depth = 1 + max((child.depth for child in children), default=0)
        # Registered only once complete, so that a collection cannot contain itself.
        if closed.anchor is not None:
            self._anchors[closed.anchor] = node
        self._add(node)

    def _check_depth(self, depth: int, line: int, column: int) -> None:
        if len(self._stack) + depth > DEPTH_MAX:
            raise self._refuse(line, column, f"values are nested deeper than {DEPTH_MAX} levels", "flatten them")

    def _add(self, node: Node) -> None:
        """Puts a complete node where it belongs: as a key, a value, an item, or the document itself."""
        if not self._stack:
            self._root = node
            return
        self._check_depth(node.depth, node.line, node.column)
        top = self._stack[-1]
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif top.key is None:
            self._key(top, node)
        else:
            key, top.key = top.key, None
            self._value(top, top.node, key, node)

    def _key(self, top: _Open, node: Node) -> None:
        top.key_at = (node.line, node.column)
        if isinstance(node, Scalar):
            top.key = node.text
            return
        self._report(node.line, node.column, "a key must be a word", "write key: value")
        top.key = ""

    def _value(self, top: _Open, target: Mapping, key: str, node: Node) -> None:
        line, column = top.key_at
        if key == "<<":
            top.merges.append((node, top.key_at))
        elif key in target.items:
            first = target.keys[key][0]
            self._report(line, column, f"the key {key!r} is already set in line {first}", "remove one of the two")
        else:
            target.items[key] = node
            target.keys[key] = top.key_at

    def _merge(self, target: Mapping, merged: Node, place: tuple[int, int]) -> None:
        """YAML's merge key: what `<<` names, below what the mapping says itself."""
        for source in merged.items if isinstance(merged, Sequence) else [merged]:
            if not isinstance(source, Mapping):
                self._report(*place, "<< merges mappings only", "give it an alias of a mapping")
                continue
            for key, value in source.items.items():
                if key not in target.items:
                    self._count(value.size, *place)
                    target.items[key] = value
                    target.keys[key] = source.keys[key]
