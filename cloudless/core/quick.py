"""Dataclasses for what is made many thousand times a second."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def quick_frozen(cls: type[T]) -> type[T]:
    """As `dataclass(frozen=True, slots=True)` to the type checker, which refuses every assignment; at run time nothing
    does. A dataclass that is frozen then sets each field through `object.__setattr__`, for two to five times the cost.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
