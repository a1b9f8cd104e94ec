"""Label selectors: `app=web,tier!=cache,zone in (a,b),arch notin (arm),gpu,!battery`.

Terms are joined by commas and all must hold. `!=` and `notin` also hold for objects without the label, as in
Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cloudless.core.labels import is_label_key, is_label_value
from cloudless.errors import InvalidArgument

Operator = Literal["in", "notin", "exists", "absent"]

_LENGTH_MAX: Final = 4096
_TERMS_MAX: Final = 64  # every object of a list is compared with each
_VALUES_MAX: Final = 256  # of one term
_TERM: Final = re.compile(
    r"\s*(?:"
    r"(?P<set>[^\s,=!()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<key>[^\s,=!()]+)\s*(?P<eq>==|=|!=)\s*(?P<value>[^\s,=!()]*)"
    r"|!\s*(?P<absent>[^\s,=!()]+)"
    r"|(?P<exists>[^\s,=!()]+)"
    r")\s*"
)
_EXPECTED: Final = "write terms such as app=web, zone in (a,b), gpu or !battery, joined by commas"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term. `values` is empty for `exists` and `absent`."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.operator == "exists":
            return self.key in labels
        if self.operator == "absent":
            return self.key not in labels
        return (labels.get(self.key) in self.values) is (self.operator == "in")

    def __str__(self) -> str:
        if self.operator == "exists":
            return self.key
        if self.operator == "absent":
            return f"!{self.key}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator == 'in' else '!='}{self.values[0]}"
        return f"{self.key} {self.operator} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; without any it selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


EVERYTHING: Final = Selector()


def parse(text: str) -> Selector:
    """The selector that `text` writes; empty text selects everything.

    Raises InvalidArgument (reason BadSelector) that names the term which is not understood.
    """
    if len(text) > _LENGTH_MAX:
        raise _refused(f"a label selector has at most {_LENGTH_MAX} characters")
    if not text.strip():
        return EVERYTHING
    requirements: list[Requirement] = []
    position = 0
    while True:
        found = _TERM.match(text, position)
        if found is None or (found.end() < len(text) and text[found.end()] != ","):
            raise _refused(f"cannot read the label selector {text!r} from {text[position:].strip()[:40]!r} on")
        requirements.append(_requirement(found))
        if len(requirements) > _TERMS_MAX:
            raise _refused(f"a label selector has at most {_TERMS_MAX} terms")
        if found.end() == len(text):
            return Selector(tuple(requirements))
        position = found.end() + 1


def _requirement(found: re.Match[str]) -> Requirement:
    operator: Operator
    if found["set"]:
        key, operator = found["set"], "in" if found["op"] == "in" else "notin"
        values = tuple(dict.fromkeys(value.strip() for value in found["values"].split(",")))
    elif found["key"]:
        key, operator = found["key"], "notin" if found["eq"] == "!=" else "in"
        values = (found["value"],)
    else:
        key, operator = found["absent"] or found["exists"], "absent" if found["absent"] else "exists"
        values = ()
    if not is_label_key(key):
        raise _refused(f"{key!r} in the label selector is not a label key")
    if len(values) > _VALUES_MAX:
        raise _refused(f"a term of a label selector has at most {_VALUES_MAX} values")
    for value in values:
        if not is_label_value(value):
            raise _refused(f"{value!r} in the label selector is not a label value")
    return Requirement(key, operator, values)


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="BadSelector", remedy=_EXPECTED)
