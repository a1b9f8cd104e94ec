"""What the owner of the device allows now: terms and the situation of the device in, a verdict out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cloudless.core.hours import Window, inside, parse
from cloudless.core.model import OwnerTerms

_RESUME_ABOVE_FLOOR_PERCENT = 10


class Reason(StrEnum):
    """Why the device takes no work, in order of precedence."""

    PAUSED = "Paused"
    OUTSIDE_HOURS = "OutsideHours"
    BATTERY_LOW = "BatteryLow"
    TERMS_UNREADABLE = "OwnerTermsUnreadable"
    METERED = "Metered"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the owner states. `windows` are those of `hours`, parsed; none: always. Percentages of 0 are not stated."""

    share: float = 1.0
    cpu_millis: int = 0
    memory_bytes: int = 0
    hours: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    battery_floor_percent: int = 0
    battery_resume_percent: int = 0
    allow_metered: bool = False
    namespaces: tuple[str, ...] = ()

    @property
    def limits_capacity(self) -> bool:
        return self.share < 1 or bool(self.cpu_millis or self.memory_bytes)

    def allows_namespace(self, namespace: str) -> bool:
        return not self.namespaces or namespace in self.namespaces


@dataclass(frozen=True, slots=True)
class Situation:
    """The device now. `weekday` (0: Monday) and `minute` are what its clock shows."""

    weekday: int
    minute: int
    paused: bool = False
    power_source: str = "mains"  # mains, battery, unknown
    battery_percent: int = -1  # -1: none, or it does not tell
    metered: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`evicting`: nothing may run. `battery_low` is what the next decision must know of this one."""

    accepting: bool = True
    reason: str = ""
    message: str = ""
    evicting: bool = False
    battery_low: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What one replica reserves of the device. `since_ms` says when it came."""

    replica_id: str
    system: bool
    priority: int
    since_ms: int
    cpu_millis: int
    memory_bytes: int


def surplus(claims: Iterable[Claim], *, cpu_millis: int, memory_bytes: int) -> tuple[str, ...]:
    """The replicas that have to go so that the others fit into this much: the lowest priority first, then the youngest,
    those that run on every node (system) after all others."""
    order = sorted(claims, key=lambda c: (c.system, c.priority, -c.since_ms, c.replica_id))
    cpu, memory = sum(c.cpu_millis for c in order), sum(c.memory_bytes for c in order)
    gone: list[str] = []
    for claim in order:
        if cpu <= cpu_millis and memory <= memory_bytes:
            break
        gone.append(claim.replica_id)
        cpu, memory = cpu - claim.cpu_millis, memory - claim.memory_bytes
    return tuple(gone)


def terms(
    *,
    share: float,
    cpu_millis: int,
    memory_bytes: int,
    hours_text: tuple[str, ...],
    battery_floor_percent: int,
    battery_resume_percent: int,
    allow_metered: bool,
    namespaces: tuple[str, ...],
) -> Terms:
    """Checked terms. Raises ValueError for hours that are none and a resume level that is below the floor."""
    resume = battery_resume_percent
    if battery_floor_percent and not resume:
        resume = min(100, battery_floor_percent + _RESUME_ABOVE_FLOOR_PERCENT)
    if resume < battery_floor_percent:
        raise ValueError(f"battery_resume_percent {resume} is below battery_floor_percent {battery_floor_percent}")
    return Terms(
        share=share,
        cpu_millis=cpu_millis,
        memory_bytes=memory_bytes,
        hours=hours_text,
        windows=tuple(parse(text) for text in hours_text),
        battery_floor_percent=battery_floor_percent,
        battery_resume_percent=resume if battery_floor_percent else 0,
        allow_metered=allow_metered,
        namespaces=tuple(sorted(set(namespaces))),
    )


def decide(stated: Terms | None, now: Situation, *, battery_low: bool) -> Verdict:
    """What is allowed now. `stated` None: nobody knows what the owner wants, so nothing new is taken, and what runs is
    left. `battery_low`: what the last verdict said; the battery is low from below the floor until the resume level, and
    never on mains. A battery that does not tell its level stays what it was."""
    low = _battery_low(stated, now, before=battery_low)
    if now.paused:
        return Verdict(False, Reason.PAUSED, "the owner has paused this device", evicting=True, battery_low=low)
    if stated is None:
        message = "what the owner allows cannot be read"
        return Verdict(False, Reason.TERMS_UNREADABLE, message, evicting=False, battery_low=low)
    if not inside(stated.windows, weekday=now.weekday, minute=now.minute):
        message = f"the owner allows {', '.join(stated.hours)}"
        return Verdict(False, Reason.OUTSIDE_HOURS, message, evicting=True, battery_low=low)
    if low:
        message = (
            f"battery at {now.battery_percent} %, floor {stated.battery_floor_percent} %: work is taken again from"
            f" {stated.battery_resume_percent} % or on mains"
        )
        return Verdict(False, Reason.BATTERY_LOW, message, evicting=True, battery_low=True)
    if now.metered and not stated.allow_metered:
        return Verdict(False, Reason.METERED, "the link is metered: no new work", evicting=False)
    return Verdict()


def told(stated: Terms | None, verdict: Verdict) -> OwnerTerms:
    """What the coordinator is told."""
    known = stated or Terms()
    return OwnerTerms(
        share_percent=round(known.share * 100),
        hours=known.hours,
        battery_floor_percent=known.battery_floor_percent,
        battery_resume_percent=known.battery_resume_percent,
        allow_metered=known.allow_metered,
        namespaces=known.namespaces,
        accepting=verdict.accepting,
        not_accepting_reason=verdict.reason,
        evicting=verdict.evicting,
    )


def _battery_low(stated: Terms | None, now: Situation, *, before: bool) -> bool:
    if now.power_source == "mains":
        return False
    if stated is None or now.battery_percent < 0:
        return before and (stated is None or stated.battery_floor_percent > 0)
    return now.battery_percent < (stated.battery_resume_percent if before else stated.battery_floor_percent)
