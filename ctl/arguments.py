"""What people type: `TYPE NAME`, `TYPE/NAME`, `key=value`, durations. All refusals are InvalidArgument: exit code 2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cloudless.core import quantity
from cloudless.errors import InvalidArgument


def usage(message: str, remedy: str = "") -> InvalidArgument:
    return InvalidArgument(message, reason="Usage", remedy=remedy)


def duration_ms(text: str, what: str) -> int:
    """Milliseconds of `30s`, `1m30s`, `250ms`."""
    try:
        return quantity.parse_duration(text)
    except quantity.QuantityError as error:
        raise usage(f"{what}: {error}", "write a duration such as 30s, 1m30s or 250ms") from None


def pairs(texts: Iterable[str], what: str) -> dict[str, str]:
    """`a=b` each, or several joined by commas."""
    found: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if not equals or not key:
                raise usage(f"{what}: {part!r} is not of the form key=value")
            found[key.strip()] = value.strip()
    return found


def _bare(kind: str, name: str) -> str:
    """`x` of `replica replica/x`: saying the type twice is no contradiction."""
    again, slash, rest = name.partition("/")
    if not slash:
        return name
    from cloudless.ctl.resources import find

    if find(again) is not find(kind) or not rest:
        raise usage(f"{name!r} is no {find(kind).singular}", "name it as TYPE NAME or TYPE/NAME")
    return rest


def targets(words: Sequence[str], *, default_type: str = "") -> list[tuple[str, str]]:
    """(type, name) of each thing: `TYPE NAME...`, `TYPE/NAME...`, or `NAME...` where a type is implied."""
    if not words:
        raise usage("nothing is named", "name it as TYPE NAME or TYPE/NAME")
    if "/" not in words[0] and any("/" in word for word in words[1:]) and not default_type:
        words = [f"{words[0]}/{word}" for word in words[1:]]
    if any("/" in word for word in words):
        found = []
        for word in words:
            kind, slash, name = word.partition("/")
            if not slash and default_type:
                kind, name = default_type, word
            elif not slash or not kind or not name:
                raise usage(f"{word!r} is not of the form TYPE/NAME", "do not mix TYPE/NAME with TYPE NAME")
            found.append((kind, _bare(kind, name)))
        return found
    if default_type:
        return [(default_type, word) for word in words]
    if len(words) == 1:
        raise usage(f"{words[0]!r}: a name is missing", "name it as TYPE NAME or TYPE/NAME")
    return [(words[0], name) for name in words[1:]]
