"""Field metadata that ties a domain dataclass to the manifest: its key there and how its value is written."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal

Kind = Literal["cpu", "bytes", "bitrate", "duration", "pause", "port", "scalar_string"]

KEY: Final = "key"
KIND: Final = "kind"


def quantity(kind: Kind, *, key: str, default: Any = 0) -> Any:
    """A field that the manifest calls `key` and writes as a quantity of `kind`.

    The dataclass holds the canonical integer: milli-CPUs, bytes, bits per second or milliseconds.
    """
    return dataclasses.field(default=default, metadata={KEY: key, KIND: kind})
