"""Domain objects to proto messages and back, by field name, once for every type.

A converter is built for each dataclass the first time it is used and kept. The rules: scalars as they are;
a StrEnum member by its name behind the proto enum's prefix, None being `_UNSPECIFIED`; `X | None` of a message
or an `optional` scalar by presence; `tuple[X, ...]` as repeated; `Mapping[str, str]` as map. A dataclass field
without a proto field of the same name is a mistake that building the converter reports.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
D = TypeVar("D")

_ToSetter = Callable[[Any, Any], None]  # (message, value)
_FromGetter = Callable[[Any], Any]  # (message) -> value


def to_proto(value: Any, message_type: type[M]) -> M:
    """The message for a domain object. Raises TypeError when the two shapes do not match."""
    message = message_type()
    fill(value, message)
    return typing.cast(M, message)


def fill(value: Any, message: Message) -> None:
    """Writes a domain object into an empty message."""
    for name, setter in _setters(typing.cast(Any, type(value)), message.DESCRIPTOR):
        setter(message, getattr(value, name))


def from_proto(message: Message, cls: type[D]) -> D:
    """The domain object for a message. An enum number that this version does not know reads as None."""
    return cls(*[getter(message) for getter in _getters(typing.cast(Any, cls), message.DESCRIPTOR)])


def _is_message(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _optional(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        args = [a for a in typing.get_args(hint) if a is not type(None)]
        return args[0], True
    return hint, False


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _fields(cls: type, descriptor: Any) -> list[tuple[str, Any, bool, FieldDescriptor]]:
    rows = []
    for field in dataclasses.fields(cls):
        proto_field = descriptor.fields_by_name.get(field.name)
        if proto_field is None:
            raise TypeError(f"{descriptor.full_name} has no field {field.name!r} for {cls.__name__}")
        hint, optional = _optional(_hints(cls)[field.name])
        rows.append((field.name, hint, optional, proto_field))
    return rows


@cache
def _enum_tables(cls: type[StrEnum], descriptor: EnumDescriptor) -> tuple[dict[Any, int], dict[int, Any]]:
    first = descriptor.values_by_number[0].name
    prefix = first.removesuffix("UNSPECIFIED")
    to_number = {member: descriptor.values_by_name[prefix + member.name].number for member in cls}
    return to_number, {number: member for member, number in to_number.items()}


@cache
def _setters(cls: type, descriptor: Any) -> tuple[tuple[str, _ToSetter], ...]:
    return tuple((name, _setter(name, hint, optional, f)) for name, hint, optional, f in _fields(cls, descriptor))


def _setter(name: str, hint: Any, optional: bool, field: FieldDescriptor) -> _ToSetter:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(item):

            def set_messages(message: Any, value: Any) -> None:
                repeated = getattr(message, name)
                for element in value:
                    fill(element, repeated.add())

            return set_messages
        return lambda message, value: getattr(message, name).extend(value)
    if origin is not None and issubclass(origin, Mapping):
        return lambda message, value: getattr(message, name).update(value)
    if dataclasses.is_dataclass(hint):

        def set_message(message: Any, value: Any) -> None:
            if value is None:
                return
            target = getattr(message, name)
            if optional:
                target.SetInParent()
            fill(value, target)

        return set_message
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        numbers, _ = _enum_tables(hint, field.enum_type)
        return lambda message, value: setattr(message, name, 0 if value is None else numbers[value])

    def set_scalar(message: Any, value: Any) -> None:
        if value is not None:
            setattr(message, name, value)

    return set_scalar


@cache
def _getters(cls: type, descriptor: Any) -> tuple[_FromGetter, ...]:
    return tuple(_getter(name, hint, optional, f) for name, hint, optional, f in _fields(cls, descriptor))


def _getter(name: str, hint: Any, optional: bool, field: FieldDescriptor) -> _FromGetter:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if _is_message(item):
            return lambda message: tuple(from_proto(m, item) for m in getattr(message, name))
        return lambda message: tuple(getattr(message, name))
    if origin is not None and issubclass(origin, Mapping):
        return lambda message: dict(getattr(message, name))
    if _is_message(hint):
        if optional:
            return lambda m: from_proto(getattr(m, name), hint) if m.HasField(name) else None
        return lambda message: from_proto(getattr(message, name), hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        _, members = _enum_tables(hint, field.enum_type)
        return lambda message: members.get(getattr(message, name))
    if optional:
        return lambda message: getattr(message, name) if message.HasField(name) else None
    return lambda message: getattr(message, name)
