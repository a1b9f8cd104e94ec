"""What the node runs short of, and which replica goes first.

Each word has a threshold and a release level above it. A word is said when its measure has been below the threshold
for `SETTLE_MS`, and taken back when it has been at or above the release level for `RELEASE_MS`; between the two levels
nothing changes. So noise around either level says nothing, and a word changes at most twice in the sum of both times.
A battery is no noise: its word has the two levels and no times, and mains end it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

SETTLE_MS: Final = 3_000
RELEASE_MS: Final = 30_000
EVICTION_INTERVAL_MS: Final = 10_000
# The release level, as a multiple of the threshold.
_RELEASE_PERMILLE: Final = 1_500
# While memory is this many times the threshold, tasks that wait for it wait for their own limits.
_STALL_MEMORY_TIMES: Final = 3
_BATTERY_RELEASE_PERCENT: Final = 5


class Word(StrEnum):
    MEMORY = "memory"
    DISK = "disk"
    BATTERY = "battery"


# What replicas are evicted for, the most pressing first. A battery is the owner's terms' business.
EVICTED_FOR: Final = (Word.MEMORY, Word.DISK)


@dataclass(frozen=True, slots=True)
class Limits:
    """0 of an amount: what `automatic` makes of it. `memory_stall_percent` 100: waiting does not count."""

    memory_bytes: int = 0
    memory_stall_percent: int = 100
    disk_bytes: int = 0
    inodes_percent: int = 0
    battery_floor_percent: int = 0  # the owner's; 0: none, and no word of the battery
    battery_percent: int = 0  # above that floor


@dataclass(frozen=True, slots=True)
class Volume:
    """A file system. `inodes` 0: it counts none."""

    where: str
    free_bytes: int
    size_bytes: int
    inodes_free: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    memory_available_bytes: int
    memory_bytes: int
    memory_stall_percent: float = 0.0  # PSI `full`, of the last 10 s; 0 where the kernel tells none
    volumes: tuple[Volume, ...] = ()
    on_mains: bool = True
    battery_percent: int = -1


@dataclass(frozen=True, slots=True)
class Measure:
    """One word's state of need. `short`: below its threshold; `well`: at or above the release level."""

    short: bool
    well: bool
    story: str  # the figures, for people


@dataclass(frozen=True, slots=True)
class Watched:
    """What is remembered of one word. The times say since when it is what it is without a break; None: it is not."""

    said: bool = False
    short_since_ms: int | None = None
    well_since_ms: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    words: Mapping[Word, Watched] = field(default_factory=dict)
    evicted_at_ms: int | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """The words of a heartbeat."""
        return tuple(word.value for word in Word if self.words.get(word, Watched()).said)


@dataclass(frozen=True, slots=True)
class Decision:
    """`evict_for`: one replica shall go now, for this; None: none."""

    state: State
    evict_for: Word | None
    stories: Mapping[Word, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that could go. Amounts are of what is short; `since_ms` says when it came."""

    replica_id: str
    system: bool
    priority: int
    used_bytes: int
    requested_bytes: int
    since_ms: int


def step(state: State, reading: Reading, limits: Limits, *, now_ms: int) -> Decision:
    """The next state. `now_ms` is monotonic. A replica is wanted gone while a word of `EVICTED_FOR` is said and its
    measure is below the threshold at this moment, at most one each `EVICTION_INTERVAL_MS`: tell with `evicted`."""
    measures = {
        Word.MEMORY: _memory(reading, limits),
        Word.DISK: _disk(reading, limits),
        Word.BATTERY: _battery(reading, limits),
    }
    words = {
        word: _watch(state.words.get(word, Watched()), measure, now_ms=now_ms, waits=word is not Word.BATTERY)
        for word, measure in measures.items()
    }
    due = state.evicted_at_ms is None or now_ms - state.evicted_at_ms >= EVICTION_INTERVAL_MS
    wanted = next((word for word in EVICTED_FOR if words[word].said and measures[word].short), None)
    stories = {word: measure.story for word, measure in measures.items()}
    return Decision(replace(state, words=words), wanted if due else None, stories)


def evicted(state: State, *, now_ms: int) -> State:
    """The state after a replica was told to go."""
    return replace(state, evicted_at_ms=now_ms)


def victim(candidates: Iterable[Candidate]) -> Candidate | None:
    """The one that goes first: the lowest priority, then the one that is furthest above its request, then the youngest;
    those that run on every node (system) after all others."""
    return min(
        candidates,
        key=lambda c: (c.system, c.priority, c.requested_bytes - c.used_bytes, -c.since_ms, c.replica_id),
        default=None,
    )


def automatic(stated: int, *, of: int, at_most: int) -> int:
    """A threshold: what is stated, or a twentieth of what there is, at most `at_most`."""
    return stated or min(of // 20, at_most)


def _watch(watched: Watched, measure: Measure, *, now_ms: int, waits: bool) -> Watched:
    short = (now_ms if watched.short_since_ms is None else watched.short_since_ms) if measure.short else None
    well = (now_ms if watched.well_since_ms is None else watched.well_since_ms) if measure.well else None
    said = watched.said
    if not said and short is not None and now_ms - short >= SETTLE_MS * waits:
        said = True
    elif said and well is not None and now_ms - well >= RELEASE_MS * waits:
        said = False
    return Watched(said, short, well)


def _memory(reading: Reading, limits: Limits) -> Measure:
    threshold = automatic(limits.memory_bytes, of=reading.memory_bytes, at_most=100 * 2**20)
    available = reading.memory_available_bytes
    stalled = (
        limits.memory_stall_percent < 100
        and reading.memory_stall_percent >= max(1, limits.memory_stall_percent)
        and available < _STALL_MEMORY_TIMES * threshold
    )
    story = f"{_mib(available)} of memory available, {_mib(threshold)} needed"
    if stalled:
        story += f", all tasks waited for memory {reading.memory_stall_percent:.0f} % of the time"
    well = available * 1000 >= threshold * _RELEASE_PERMILLE and not stalled
    return Measure(available < threshold or stalled, well, story)


def _disk(reading: Reading, limits: Limits) -> Measure:
    short, well, stories = False, True, []
    for volume in reading.volumes:
        threshold = automatic(limits.disk_bytes, of=volume.size_bytes, at_most=2**30)
        inodes = volume.inodes * limits.inodes_percent // 100
        full = volume.free_bytes < threshold
        crowded = volume.inodes_free < inodes
        short = short or full or crowded
        well = well and volume.free_bytes * 1000 >= threshold * _RELEASE_PERMILLE
        well = well and volume.inodes_free * 1000 >= inodes * _RELEASE_PERMILLE
        if full:
            stories.append(f"{_mib(volume.free_bytes)} free at {volume.where}, {_mib(threshold)} needed")
        if crowded:
            stories.append(f"{volume.inodes_free} inodes free at {volume.where}, {inodes} needed")
    return Measure(short, well, "; ".join(stories))


def _battery(reading: Reading, limits: Limits) -> Measure:
    floor = limits.battery_floor_percent
    threshold = min(100, floor + limits.battery_percent)
    if not floor or reading.on_mains:
        return Measure(False, True, "")
    level = reading.battery_percent
    if level < 0:
        return Measure(False, False, "")
    story = f"battery at {level} %, new work from {threshold} % on"
    return Measure(level < threshold, level >= min(100, threshold + _BATTERY_RELEASE_PERCENT), story)


def _mib(amount: int) -> str:
    return f"{amount / 2**20:.0f}Mi"
