"""Things as data: proto messages to plain values, and the formats of `-o`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage

FORMATS: Final = ("table", "wide", "json", "yaml", "name")
_LOWER: Final = frozenset({"DeviceClass", "Role", "Severity", "WorkloadType"})
_AS_IS: Final = frozenset({"Protocol"})


def word(enum: Any, number: int) -> str:
    """An enum's number as the word that the domain and the manifest use; empty when unspecified."""
    value = enum.values_by_number.get(number)
    if number == 0 or value is None:
        return ""
    name = value.name.removeprefix(enum.values_by_number[0].name.removesuffix("UNSPECIFIED"))
    if enum.name in _AS_IS:
        return str(name)
    if enum.name in _LOWER:
        return str(name).lower()
    return "".join(part.capitalize() for part in name.split("_"))


def field_word(message: Any, field: str) -> str:
    """The word of an enum field."""
    return word(message.DESCRIPTOR.fields_by_name[field].enum_type, getattr(message, field))


def plain(message: Any) -> dict[str, Any]:
    """A message as JSON values: keys in lowerCamelCase, numbers as numbers, every field but absent messages."""
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                values[field.json_name] = dict(value)
            else:
                values[field.json_name] = [_plain(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            values[field.json_name] = _plain(field, value)
    return values


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return word(field.enum_type, value)
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    return value


def check(text: str) -> str:
    """A value of `-o`. Raises InvalidArgument for one that is not known."""
    if text.startswith("jsonpath="):
        from cloudless.ctl import jsonpath

        jsonpath.parse(text.removeprefix("jsonpath="))
        return text
    if text not in FORMATS:
        raise usage(f"-o: unknown format {text!r}", f"use {', '.join(FORMATS)} or jsonpath=TEMPLATE")
    return text


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_yaml(value: Any) -> str:
    from cloudless.manifest.encode import to_yaml as write

    return write(value)


def show_data(
    app: App,
    format: str,
    items: Sequence[Any],
    *,
    single: bool,
    data: Callable[[Any], dict[str, Any]],
    name: Callable[[Any], str],
) -> None:
    """Prints things as json, yaml, name or jsonpath. JSON is always `{"items": [...]}`, so that programs need one
    shape; YAML is one document per thing, which `apply -f` reads back; a jsonpath sees the thing when one was named,
    else the list."""
    if format == "name":
        for item in items:
            app.print(name(item))
        return
    values = [data(item) for item in items]
    if format == "json":
        app.print(to_json({"items": values}))
    elif format == "yaml":
        app.print("---\n".join(to_yaml(value) for value in values), end="")
    else:
        from cloudless.ctl import jsonpath

        template = format.removeprefix("jsonpath=")
        app.print(jsonpath.render(template, values[0] if single and len(values) == 1 else {"items": values}), end="")
        if not template.endswith("\n"):
            app.print()
