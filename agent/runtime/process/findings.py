"""The answers of `probe.py`, asked once in the life of this process: the kernel does not change its mind."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_SCRIPT = Path(__file__).with_name("probe.py")
NAMES = ("landlock", "no-new-privs", "seccomp", "mount-namespace", "userns", "subreaper", "pidfd")


@dataclass(frozen=True, slots=True)
class Finding:
    available: bool
    detail: str


@functools.cache
def run() -> Mapping[str, Finding]:
    """A finding for each of NAMES. Takes about 30 ms the first time (one small interpreter). Never raises: without
    an answer everything is missing."""
    why = "the probe did not answer"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_SCRIPT)], capture_output=True, text=True, timeout=20, check=False
        )
        lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    except (OSError, subprocess.TimeoutExpired) as error:
        lines, why = [], f"the probe did not run: {error}"
    found = {name: Finding(flag == "1", detail) for name, flag, detail in lines}
    return MappingProxyType({name: found.get(name, Finding(False, why)) for name in NAMES})
