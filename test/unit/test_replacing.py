"""`replace` is `dataclasses.replace`: on every class of the model, and in what it refuses."""

import dataclasses

import pytest

from cloudless.coordinator.core import commands, outcome
from cloudless.coordinator.core.bounded import BoundedLog
from cloudless.coordinator.core.state import State
from cloudless.core import model, spec
from cloudless.core.replacing import replace

CLASSES = sorted(
    {
        cls
        for module in (model, spec, outcome, commands)
        for cls in vars(module).values()
        if isinstance(cls, type) and dataclasses.is_dataclass(cls)
    }
    | {State, BoundedLog},
    key=lambda cls: cls.__qualname__,
)


def instance(cls):
    """One whose fields can be told apart; what they hold does not matter here."""
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(made, field.name, f"old {field.name}")
    return made


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__qualname__)
def test_every_field_of_every_class_is_kept_or_changed(cls):
    value = instance(cls)
    assert replace(value) == value
    assert type(replace(value)) is cls
    for field in dataclasses.fields(cls):
        changed = replace(value, **{field.name: "new"})
        assert changed == dataclasses.replace(value, **{field.name: "new"})
        assert getattr(value, field.name) == f"old {field.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    value: int = 0
    made: str = "x"
    KEEP: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    low: int = 0

    def __post_init__(self):
        if self.low < 0:
            raise ValueError("low")


@dataclasses.dataclass(frozen=True, slots=True)
class Derived(Checked):
    high: int = 1


@dataclasses.dataclass
class Plain:
    a: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Empty:
    pass


def test_names_of_fields_and_other_kinds_of_classes_make_no_difference():
    assert replace(Plain(), a=2) == Plain(2)
    assert replace(Empty()) == Empty()
    assert replace(Derived(), high=3) == Derived(0, 3)
    with pytest.raises(ValueError, match="low"):
        replace(Checked(), low=-1)
    for value in (Plain(), Checked(), Empty(), spec.Metadata()):
        with pytest.raises(TypeError):
            replace(value, nonsense=1)
    with pytest.raises(TypeError):
        replace(3, nonsense=1)


def test_fields_may_have_the_names_of_what_the_generated_code_uses():
    assert replace(Named(), value=1) == Named(1)
    assert replace(Named(), made="y", KEEP=2) == Named(0, "y", 2)
