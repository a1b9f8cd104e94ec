"""The files in which the owner of a device changes its terms while the agent runs.

`owner.yaml` has the keys of the settings' section `owner`, each optional; what it says wins over the settings.
`owner.pause` beside it pauses the device for as long as it is there, or until the time (RFC 3339) that it holds. The
two are apart so that pausing always works, whatever the state of the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from cloudless.agent.core.owner import Terms, terms
from cloudless.config import AgentConfig, OwnerConfig, OwnerTermsConfig, overlaid
from cloudless.errors import InvalidArgument
from cloudless.identity.files import write_private

_SIZE_MAX: Final = 64 * 1024
_HEADER: Final = "# What the owner of this device allows; written by `cloudless-agent owner`. Keys: see its --help.\n"


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    until_ms: int | None  # wall clock; None: until it is taken back

    def holds(self, now_ms: int) -> bool:
        return self.until_ms is None or now_ms < self.until_ms


def terms_file(config: AgentConfig) -> Path:
    return config.owner.file if config.owner.file != Path() else config.data_dir / "owner.yaml"


def pause_file(config: AgentConfig) -> Path:
    return terms_file(config).with_suffix(".pause")


def good_file(config: AgentConfig) -> Path:
    """The last terms that could be read, for a start that finds bad ones."""
    return config.data_dir / "owner.good.yaml"


def read_terms(settings: OwnerConfig, path: Path | None = None) -> Terms:
    """The settings, with what the file at `path` says over them; without one, or where there is none, the settings.
    Raises InvalidArgument (BadOwnerTerms) that says what is wrong."""
    stated = {field.name: getattr(settings, field.name) for field in dataclasses.fields(OwnerTermsConfig)}
    where = "owner"
    try:
        if path is not None and path.exists():
            where = str(path)
            if path.stat().st_size > _SIZE_MAX:
                raise ValueError(f"larger than {_SIZE_MAX} bytes")
            stated = dataclasses.asdict(overlaid(OwnerTermsConfig, path, under=stated))
        hours = stated.pop("hours")
        return terms(**stated, hours_text=hours)
    except InvalidArgument as error:
        raise _bad(error.message) from None
    except (OSError, ValueError) as error:
        raise _bad(f"{where}: {error}") from None


def check(settings: OwnerConfig) -> None:
    """Raises InvalidArgument when the settings of the owner do not go together."""
    zone_of(settings)
    read_terms(settings)


def zone_of(settings: OwnerConfig) -> ZoneInfo | None:
    """The time zone of the hours; None: the device's own. Raises InvalidArgument (BadSetting)."""
    if not settings.time_zone:
        return None
    try:
        return ZoneInfo(settings.time_zone)
    except (KeyError, ValueError, OSError):
        raise InvalidArgument(
            f"owner.time_zone {settings.time_zone!r} is no known time zone",
            reason="BadSetting",
            remedy="use a name as Europe/Berlin, or leave it empty for the device's own",
        ) from None


def read_pause(path: Path) -> Pause | None:
    """None: there is none. One whose time cannot be read has no end."""
    try:
        text = path.read_text("utf-8")[:_SIZE_MAX].strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Pause(None)
    try:
        return Pause(int(datetime.fromisoformat(text).timestamp() * 1000)) if text else Pause(None)
    except (ValueError, OverflowError, OSError):
        return Pause(None)


def write_pause(path: Path, *, until_ms: int | None) -> None:
    """Pauses from now on. Raises OSError."""
    text = "" if until_ms is None else datetime.fromtimestamp(until_ms / 1000, UTC).isoformat(timespec="seconds") + "\n"
    write_private(path, text.encode())


def stated_in(path: Path) -> dict[str, Any]:
    """The keys of the file as they stand there; none without a file. Raises InvalidArgument, as `read_terms`."""
    import yaml  # a megabyte, for the owner's program alone

    if not path.exists():
        return {}
    read_terms(OwnerConfig(), path)
    return dict(yaml.safe_load(path.read_text("utf-8")) or {})


def write_terms(settings: OwnerConfig, path: Path, stated: Mapping[str, Any]) -> Terms:
    """Replaces the file in one step by these keys, after a look at what they mean over the settings. Raises
    InvalidArgument (BadOwnerTerms), and the file stays what it was; OSError."""
    import yaml

    data = (_HEADER + (yaml.safe_dump(dict(stated), sort_keys=False) if stated else "")).encode()
    trial = path.with_name(f".{path.name}.trial")
    write_private(trial, data)
    try:
        found = read_terms(settings, trial)
    except InvalidArgument as error:
        raise InvalidArgument(error.message.replace(f"{trial}: ", ""), reason=error.reason) from None
    finally:
        trial.unlink(missing_ok=True)
    write_private(path, data)
    return found


def _bad(message: str) -> InvalidArgument:
    return InvalidArgument(
        message, reason="BadOwnerTerms", remedy="correct it: `cloudless-agent owner show` says whether it is good"
    )
