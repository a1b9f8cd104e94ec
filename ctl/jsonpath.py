"""The part of kubectl's JSONPath templates that people use.

`{.items[*].metadata.name}`, `{.items[0]['status']}`, `{.a[1:3]}`, `{..name}`, `{.items[?(@.ready==true)].id}`,
`{range .items[*]}{.id}{"\\t"}{.nodeId}{"\\n"}{end}`, with text between the braces printed as it is. A path that names
nothing prints nothing. Several results of one path are joined by a space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cloudless.ctl.arguments import usage

_PARTS: Final = re.compile(r"""\{((?:[^{}"']|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')*)\}|([^{}]+)""")
_STEP: Final = re.compile(
    r"""\.\.(?P<deep>[\w-]+|\*)"""
    r"""|\.(?P<field>[\w-]+(?:\\\.[\w/-]+)*|\*)"""
    r"""|\[(?P<index>-?\d+)\]|\[(?P<low>-?\d*):(?P<high>-?\d*)\]|\[(?P<all>\*)\]"""
    r"""|\[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]"""
    r"""|\[\?\(@(?P<where>(?:\.[\w-]+)*)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>"[^"]*"|'[^']*'|[\w.+-]+)\s*)?\)\]"""
)

Step = Callable[[list[Any]], list[Any]]


@dataclass
class _Block:
    """Text, a path, or a range over a path with what is inside it."""

    text: str = ""
    path: list[Step] | None = None
    inside: list[_Block] | None = field(default=None)


def parse(template: str) -> list[_Block]:
    """Raises InvalidArgument that shows where a template is not understood."""
    if not template:
        raise usage("the jsonpath template is empty", "write one such as {.items[*].metadata.name}")
    if "{" not in template:
        template = "{" + (template if template.startswith((".", "[")) else f".{template}") + "}"
    blocks: list[_Block] = []
    open_ranges: list[list[_Block]] = []
    position = 0
    while position < len(template):
        found = _PARTS.match(template, position)
        if found is None:
            raise _bad(template, position)
        inner, text = found[1], found[2]
        if text is not None:
            blocks.append(_Block(text=text))
        elif inner.strip() == "end":
            if not open_ranges:
                raise usage("{end} in the jsonpath template has no {range}")
            blocks = open_ranges.pop()
        elif inner.lstrip().startswith("range "):
            block = _Block(path=_path(inner.strip()[len("range ") :].strip(), template), inside=[])
            blocks.append(block)
            open_ranges.append(blocks)
            assert block.inside is not None
            blocks = block.inside
        elif inner.strip()[:1] in ('"', "'"):
            blocks.append(_Block(text=_literal(inner.strip(), template)))
        else:
            blocks.append(_Block(path=_path(inner.strip(), template)))
        position = found.end()
    if open_ranges:
        raise usage("{range} in the jsonpath template has no {end}")
    return blocks


def render(template: str, value: Any) -> str:
    """The text that a template makes of a value."""
    return "".join(_render(parse(template), value))


def _render(blocks: list[_Block], value: Any) -> Iterator[str]:
    for block in blocks:
        if block.path is None:
            yield block.text
            continue
        results = [value]
        for step in block.path:
            results = step(results)
        if block.inside is None:
            yield " ".join(map(_text, results))
        else:
            for result in results:
                yield from _render(block.inside, result)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _bad(template: str, position: int) -> Exception:
    return usage(
        f"cannot read the jsonpath template from {template[position : position + 30]!r} on",
        "write paths such as {.items[*].metadata.name}",
    )


def _literal(text: str, template: str) -> str:
    quoted = text if text[0] == '"' else '"' + text[1:-1].replace('"', '\\"') + '"'
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise _bad(template, max(template.find(text), 0)) from None


def _path(text: str, template: str) -> list[Step]:
    text = text.removeprefix("$").removeprefix("@")
    if text and text[0] not in ".[":
        text = "." + text
    steps: list[Step] = []
    position = 0
    if text == ".":
        return steps
    while position < len(text):
        found = _STEP.match(text, position)
        if found is None:
            raise _bad(template, max(template.find(text[position:]), 0))
        steps.append(_step(found))
        position = found.end()
    return steps


def _step(found: re.Match[str]) -> Step:
    if found["deep"]:
        return lambda values: [hit for value in values for hit in _deep(value, found["deep"])]
    if found["all"] or found["field"] == "*":
        return lambda values: [item for value in values for item in _children(value)]
    if found["index"] is not None:
        number = int(found["index"])
        return lambda values: [v[number] for v in values if isinstance(v, list) and -len(v) <= number < len(v)]
    if found["low"] is not None:
        low, high = (int(found[name]) if found[name] else None for name in ("low", "high"))
        return lambda values: [item for value in values if isinstance(value, list) for item in value[low:high]]
    if found["where"] is not None:
        return _filter(found)
    key = found["key"] if found["key"] is not None else found["field"].replace("\\.", ".")
    return lambda values: [value[key] for value in values if isinstance(value, dict) and key in value]


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _deep(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict) and key in value:
        yield value[key]
    for child in _children(value):
        if key == "*":
            yield child
        yield from _deep(child, key)


def _filter(found: re.Match[str]) -> Step:
    names = [name for name in found["where"].split(".") if name]
    operator, literal = found["op"], found["value"]
    wanted: Any = None
    if literal is not None:
        if literal[0] in "'\"":
            wanted = literal[1:-1]
        else:
            try:
                wanted = json.loads(literal)
            except ValueError:
                wanted = literal

    def holds(item: Any) -> bool:
        for name in names:
            if not isinstance(item, dict) or name not in item:
                return False
            item = item[name]
        return operator is None or _compare(item, operator, wanted)

    return lambda values: [item for value in values for item in _children(value) if holds(item)]


def _compare(left: Any, operator: str, right: Any) -> bool:
    if operator in ("==", "!="):
        return (left == right) is (operator == "==")
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if not numbers and not (isinstance(left, str) and isinstance(right, str)):
        return False
    return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator])
