"""Small files that agent and shim write for each other: key=value items, each ended by a NUL byte.

Read by `shim.py` and `launch.py`, which run without the rest of the project: the standard library's built-in
modules only. The last item is `end=`, so that a file cut short by a power loss reads as absent.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

Record = dict[str, list[str]]


def encode(fields: Mapping[str, str | int | Sequence[str]]) -> bytes:
    """Raises ValueError for a value that holds a NUL byte: no argument or variable can."""
    items = []
    for key, value in fields.items():
        values = [str(value)] if isinstance(value, (str, int)) else value
        for text in values:
            if "\0" in text:
                raise ValueError(f"{key} holds a NUL byte")
            items.append(f"{key}={text}\0")
    return "".join([*items, "end=\0"]).encode("utf-8", "surrogateescape")


def decode(data: bytes) -> Record | None:
    """None when the record is not whole."""
    items = data.decode("utf-8", "surrogateescape").split("\0")
    if items[-2:] != ["end=", ""]:
        return None
    record: Record = {}
    for item in items[:-2]:
        key, _, value = item.partition("=")
        record.setdefault(key, []).append(value)
    return record


def read(path: str | os.PathLike[str]) -> Record | None:
    """None when there is no such record."""
    try:
        with open(path, "rb") as file:
            return decode(file.read())
    except FileNotFoundError:
        return None


def write(path: str | os.PathLike[str], fields: Mapping[str, str | int | Sequence[str]]) -> None:
    """Atomic against a crash of the writer; readers see the old record or the new one."""
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, encode(fields))
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def one(record: Record, key: str, default: str = "") -> str:
    values = record.get(key)
    return values[0] if values else default


def number(record: Record, key: str, default: int = 0) -> int:
    values = record.get(key)
    return int(values[0]) if values else default


def start_time(pid: int) -> int:
    """When a process began, in clock ticks since boot: with the pid, an identity that is never used twice. 0
    when there is no such process (a zombie still counts)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[19])
