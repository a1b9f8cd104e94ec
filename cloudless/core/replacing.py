"""A copy of a frozen dataclass with some fields changed, as `dataclasses.replace` makes it, in a fifth of the time.

Every write to the replicated state replaces the state and a few objects in it, all of which have many fields. The
library's function looks at each field's description anew for each copy and sets it by name. Here the copying is
generated as straight-line code, once for each class, and fills the slots themselves (as `api.v1.convert` does), unless
the class's own `__init__` does no more than that (`core.quick`):

    def replaced(_value, /, *, id=_KEEP, revision=_KEEP):
        _made = _new(_cls)
        _set_id(_made, _value.id if id is _KEEP else id)
        _set_revision(_made, _value.revision if revision is _KEEP else revision)
        return _made
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_KEEP: Final = object()
_replacers: Final[dict[type, Callable[..., Any]]] = {}


def replace(value: T, /, **changes: Any) -> T:
    """A copy of the dataclass instance `value` with these fields changed. Raises TypeError for a field that its class
    does not have."""
    cls = type(value)
    replacer = _replacers.get(cls)
    if replacer is None:
        replacer = _replacers[cls] = _replacer(cls)
    made: T = replacer(value, **changes)
    return made


def _replacer(cls: type) -> Callable[..., Any]:
    fields = dataclasses.fields(cls)
    slots = vars(cls).get("__slots__")
    plain = (
        not hasattr(cls, "__post_init__")
        and slots == tuple(field.name for field in fields)
        and all(field.init and isinstance(vars(cls)[field.name], types.MemberDescriptorType) for field in fields)
    )
    if not plain or not fields:
        return dataclasses.replace
    names: dict[str, Any] = {"_KEEP": _KEEP, "_cls": cls, "_new": object.__new__}
    values = {field.name: f"_value.{field.name} if {field.name} is _KEEP else {field.name}" for field in fields}
    parameters = ", ".join(f"{name}=_KEEP" for name in values)
    if _assigns(cls):
        body = [f"    return _cls({', '.join(values.values())})"]
    else:
        names |= {f"_set_{name}": vars(cls)[name].__set__ for name in values}
        lines = [f"    _set_{name}(_made, {value})" for name, value in values.items()]
        body = ["    _made = _new(_cls)", *lines, "    return _made"]
    source = "\n".join([f"def replaced(_value, /, *, {parameters}):", *body])
    exec(source, names)  # noqa: S102 (field names of our own classes, nothing else)
    replacer: Callable[..., Any] = names["replaced"]
    return replacer


def _assigns(cls: Any) -> bool:
    """Whether `__init__` assigns its arguments to the fields, in their order, and does nothing else. That of a frozen
    class does it by `object.__setattr__`."""
    return not cls.__dataclass_params__.frozen and not any(field.kw_only for field in dataclasses.fields(cls))
