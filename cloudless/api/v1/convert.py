"""Domain objects to proto messages and back, by field name, once for every type.

The rules: scalars as they are; a StrEnum member by its name behind the proto enum's prefix, None being
`_UNSPECIFIED`; `X | None` of a message or an `optional` scalar by presence; `tuple[X, ...]` as repeated;
`Mapping[str, str]` as map. A dataclass field without a proto field of the same name is a mistake that building the
converter reports.

Every write passes here several times, so that a converter is generated as straight-line code, as `dataclasses`
generates `__init__`: once for each pair of a class and a message, at its first use. For a port it reads

    def write(value, message):                      def read(message):
        v = value.name                                  made = new(cls)
        if v:                                           set_name(made, message.name)
            message.name = v                            set_protocol(made, member_protocol(message.protocol))
        v = value.protocol                              ...
        if v is not None:                               return made
            message.protocol = number_protocol[v]

Nothing but field names of our own classes goes into the code. A scalar's default is not written, for it has no
bytes; a message that is not optional is always present, empty or not, so that equal objects have equal bytes.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal, TypeVar, Union

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cloudless.core.spec import WorkloadSpec

M = TypeVar("M", bound=Message)
D = TypeVar("D")

_Write = Callable[[Any, Any], None]  # (domain object, empty message)
_Read = Callable[[Any], Any]  # (message) -> domain object


def to_proto(value: Any, message_type: type[M]) -> M:
    """The message for a domain object. Raises TypeError when the two shapes do not match."""
    message: M = message_type()
    fill(value, message)
    return message


def fill(value: Any, message: Message) -> None:
    """Writes a domain object into an empty message."""
    _writer(typing.cast(Any, type(value)), message.DESCRIPTOR)(value, message)


def from_proto(message: Message, cls: type[D]) -> D:
    """The domain object for a message. An enum number that this version does not know reads as None."""
    domain_object: D = _reader(typing.cast(Any, cls), message.DESCRIPTOR)(message)
    return domain_object


# Of these many are equal: a workload's history, its writes, a fabric's workloads. To read one takes longer than to find
# it by its bytes, and equal ones then share their memory and are compared at once; the same holds for writing.
_SHARED: Final = (WorkloadSpec,)
_SHARED_KEPT: Final = 1024
_SHARED_BYTES_MAX: Final = 4096

_Kind = Literal["scalar", "enum", "message", "messages", "scalars", "map"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """One field of both shapes. `cls` is the enum, or the dataclass of the message or of each of the messages."""

    name: str
    kind: _Kind
    optional: bool
    cls: Any
    descriptor: FieldDescriptor


def _fields(cls: type, descriptor: Any) -> Iterator[_Field]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        proto_field = descriptor.fields_by_name.get(field.name)
        if proto_field is None:
            raise TypeError(f"{descriptor.full_name} has no field {field.name!r} for {cls.__name__}")
        hint, optional = _optional(hints[field.name])
        kind, inner = _kind(hint)
        yield _Field(field.name, kind, optional, inner, proto_field)


def _optional(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(argument for argument in typing.get_args(hint) if argument is not type(None)), True
    return hint, False


def _kind(hint: Any) -> tuple[_Kind, Any]:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return ("messages", item) if dataclasses.is_dataclass(item) else ("scalars", None)
    if origin is not None:
        return "map", None
    if dataclasses.is_dataclass(hint):
        return "message", hint
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "enum", hint
    return "scalar", None


@cache
def _enum_tables(cls: type[StrEnum], descriptor: EnumDescriptor) -> tuple[dict[Any, int], dict[int, Any]]:
    first = descriptor.values_by_number[0].name
    prefix = first.removesuffix("UNSPECIFIED")
    to_number = {member: descriptor.values_by_name[prefix + member.name].number for member in cls}
    return to_number, {number: member for member, number in to_number.items()}


def _generated(signature: str, lines: list[str], names: dict[str, Any]) -> Any:
    """The function of this signature and body; `names` is what its code refers to."""
    source = "\n    ".join([f"def {signature}:", *lines])
    exec(source, names)  # noqa: S102 (see the module)
    return names[signature.partition("(")[0]]


@cache
def _writer(cls: type, descriptor: Any) -> _Write:
    lines: list[str] = []
    names: dict[str, Any] = {}
    for field in _fields(cls, descriptor):
        name = field.name
        lines.append(f"v = value.{name}")
        if field.kind == "message":
            write_part = _writer(field.cls, field.descriptor.message_type)
            names[f"write_{name}"] = _shared_writer(write_part) if field.cls in _SHARED else write_part
            lines += [
                "if v is not None:",
                f"    part = message.{name}",
                "    part.SetInParent()",
                f"    write_{name}(v, part)",
            ]
        elif field.kind == "messages":
            names[f"write_{name}"] = _writer(field.cls, field.descriptor.message_type)
            lines += [
                "if v:",
                f"    add = message.{name}.add",
                "    for item in v:",
                f"        write_{name}(item, add())",
            ]
        elif field.kind == "enum":
            names[f"number_{name}"], _ = _enum_tables(field.cls, field.descriptor.enum_type)
            lines += ["if v is not None:", f"    message.{name} = number_{name}[v]"]
        elif field.kind == "scalar":
            lines += ["if v is not None:" if field.optional else "if v:", f"    message.{name} = v"]
        else:
            lines += ["if v:", f"    message.{name}.{'update' if field.kind == 'map' else 'extend'}(v)"]
    write: _Write = _generated("write(value, message)", [*lines, "return"], names)
    return write


@cache
def _reader(cls: type, descriptor: Any) -> _Read:
    direct = _has_plain_slots(cls)
    arguments: list[str] = []
    lines: list[str] = []
    names: dict[str, Any] = {"cls": cls, "new": object.__new__}
    for field in _fields(cls, descriptor):
        name = field.name
        value = f"message.{name}"
        if field.kind == "message":
            read_part = _reader(field.cls, field.descriptor.message_type)
            names[f"read_{name}"] = _shared(read_part) if field.cls in _SHARED else read_part
            # What is read from nothing is the same each time, and immutable: one for all.
            names[f"absent_{name}"] = None if field.optional else read_part(_empty(field.descriptor.message_type))
            value = f"read_{name}({value}) if message.HasField({name!r}) else absent_{name}"
        elif field.kind == "messages":
            names[f"read_{name}"] = _reader(field.cls, field.descriptor.message_type)
            value = f"tuple([read_{name}(item) for item in {value}])"
        elif field.kind == "enum":
            _, members = _enum_tables(field.cls, field.descriptor.enum_type)
            names[f"member_{name}"] = members.get
            value = f"member_{name}({value})"
        elif field.kind in ("scalars", "map"):
            value = f"{{key: {value}[key] for key in {value}}}" if field.kind == "map" else f"tuple({value})"
        if field.optional and field.kind == "scalar":
            value = f"{value} if message.HasField({name!r}) else None"
        if direct:
            names[f"set_{name}"] = vars(cls)[name].__set__
            lines.append(f"set_{name}(made, {value})")
        else:
            arguments.append(f"    {value},")
    body = ["made = new(cls)", *lines, "return made"] if direct else ["return cls(", *arguments, ")"]
    read: _Read = _generated("read(message)", body, names)
    return read


def _shared_writer(write: _Write) -> _Write:
    """As `write`; the bytes of the newest objects are kept, and copied."""
    known: dict[int, tuple[Any, bytes]] = {}  # by identity, which is its own as long as the object is kept

    def write_shared(value: Any, message: Any) -> None:
        found = known.get(id(value))
        if found is not None and found[0] is value:
            message.MergeFromString(found[1])
            return
        write(value, message)
        data = message.SerializeToString()
        if len(data) <= _SHARED_BYTES_MAX:
            if len(known) >= _SHARED_KEPT:
                known.clear()
            known[id(value)] = (value, data)

    return write_shared


def _shared(read: _Read) -> _Read:
    """As `read`; equal bytes give the same object, as long as it is among the newest that were read."""
    known: dict[bytes, Any] = {}

    def read_shared(message: Any) -> Any:
        data = message.SerializeToString()
        found = known.get(data)
        if found is None:
            found = read(message)
            if len(data) <= _SHARED_BYTES_MAX:
                if len(known) >= _SHARED_KEPT:
                    known.clear()
                known[data] = found
        return found

    return read_shared


def _empty(descriptor: Any) -> Message:
    return GetMessageClass(descriptor)()


def _has_plain_slots(cls: type) -> bool:
    """Whether its `__init__` does no more than fill a slot for each field. A frozen dataclass does that through
    `object.__setattr__`, by name, which takes twice as long as the slot itself."""
    slots = vars(cls).get("__slots__")
    return (
        not hasattr(cls, "__post_init__")
        and slots == tuple(field.name for field in dataclasses.fields(cls))
        and all(isinstance(vars(cls)[name], types.MemberDescriptorType) for name in slots)
    )
