"""The owner's terms: hours, battery, pauses, the files they stand in, and what the node does about them."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from cloudless.agent import owner_cli, owner_file
from cloudless.agent.core import owner
from cloudless.agent.core.owner import Situation
from cloudless.agent.device import Conditions, System
from cloudless.agent.owner_rules import OwnerRules
from cloudless.agent.owner_watch import STATE_FILE, OwnerWatch, local_time
from cloudless.agent.reports import ReportBook
from cloudless.config import AgentConfig, OwnerConfig
from cloudless.core import hours
from cloudless.core.model import Assignment, ReplicaStatus
from cloudless.core.spec import Container, ResourceAmounts, Resources, WorkloadSpec
from cloudless.errors import InvalidArgument


def terms(**stated: object) -> owner.Terms:
    return owner_file.read_terms(OwnerConfig(**stated))  # type: ignore[arg-type]


def at(day: str, time: str) -> dict[str, int]:
    hour, minute = map(int, time.split(":"))
    return {"weekday": hours.DAYS.index(day), "minute": hour * 60 + minute}


@pytest.mark.parametrize(
    ("window", "day", "time", "expected"),
    [
        ("22:00-06:00", "Mon", "21:59", False),
        ("22:00-06:00", "Mon", "22:00", True),
        ("22:00-06:00", "Tue", "05:59", True),
        ("22:00-06:00", "Tue", "06:00", False),
        ("Mon-Fri 18:00-23:00", "Fri", "22:59", True),
        ("Mon-Fri 18:00-23:00", "Sat", "20:00", False),
        ("Sun 22:00-06:00", "Mon", "05:00", True),  # the days are those on which it begins
        ("Sun 22:00-06:00", "Sun", "05:00", False),
        ("Sat-Mon 08:00-09:00", "Sun", "08:30", True),
        ("Sat-Mon 08:00-09:00", "Tue", "08:30", False),
        ("00:00-24:00", "Wed", "23:59", True),
        ("sat 12:00-24:00", "Sat", "23:59", True),
    ],
)
def test_hours(window: str, day: str, time: str, expected: bool) -> None:
    assert hours.inside([hours.parse(window)], **at(day, time)) is expected


@pytest.mark.parametrize(
    "text",
    ["", "22:00", "22-06", "25:00-26:00", "10:60-11:00", "10:00-10:00", "Mo 10:00-11:00", "Xyz 10:00-11:00", "x" * 99],
)
def test_what_is_no_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|names a|is empty"):
        hours.parse(text)


def test_the_next_change_is_the_first_moment_that_differs() -> None:
    windows = [hours.parse(text) for text in ("18:00-23:00", "Fri 22:00-02:00")]
    assert hours.next_change(windows, **at("Fri", "19:00")) == (5, 120)
    assert hours.next_change(windows, **at("Thu", "19:00")) == (3, 23 * 60)
    assert hours.next_change(windows, **at("Thu", "23:00")) == (4, 18 * 60)
    assert hours.next_change([hours.parse("00:00-24:00")], **at("Thu", "23:00")) is None
    assert hours.next_change([], **at("Thu", "23:00")) is None


@pytest.mark.parametrize(
    ("stated", "now", "reason", "evicting"),
    [
        ({}, {}, "", False),
        ({}, {"paused": True}, "Paused", True),
        ({"hours": ("22:00-06:00",)}, {}, "OutsideHours", True),
        ({"hours": ("22:00-06:00",)}, {"paused": True}, "Paused", True),
        ({}, {"metered": True}, "Metered", False),
        ({"allow_metered": True}, {"metered": True}, "", False),
        ({"battery_floor_percent": 30}, {"power_source": "battery", "battery_percent": 29}, "BatteryLow", True),
        ({"battery_floor_percent": 30}, {"power_source": "unknown", "battery_percent": 29}, "BatteryLow", True),
        ({"battery_floor_percent": 30}, {"power_source": "battery", "battery_percent": 30}, "", False),
        ({"battery_floor_percent": 30}, {"power_source": "mains", "battery_percent": 1}, "", False),
        ({}, {"power_source": "battery", "battery_percent": 1}, "", False),
    ],
)
def test_verdicts(stated: dict, now: dict, reason: str, evicting: bool) -> None:
    verdict = owner.decide(terms(**stated), Situation(**at("Mon", "12:00"), **now), battery_low=False)
    assert (verdict.accepting, verdict.reason, verdict.evicting) == (not reason, reason, evicting)
    assert bool(verdict.message) == bool(reason)
    said = owner.told(terms(**stated), verdict)
    assert (said.accepting, said.not_accepting_reason, said.evicting) == (not reason, reason, evicting)


def test_a_low_battery_stays_low_until_the_resume_level_or_mains() -> None:
    stated = terms(battery_floor_percent=30, battery_resume_percent=50)
    low, seen = False, []
    for source, level in [
        ("battery", 31), ("battery", 29), ("battery", 35), ("battery", 49), ("battery", -1), ("battery", 50),
        ("battery", 40), ("battery", 20), ("mains", 20), ("battery", 35),
    ]:  # fmt: skip
        now = Situation(0, 0, power_source=source, battery_percent=level)
        low = owner.decide(stated, now, battery_low=low).battery_low
        seen.append(low)
    assert seen == [False, True, True, True, True, False, False, True, False, False]
    assert terms(battery_floor_percent=95).battery_resume_percent == 100


def test_terms_that_nobody_can_read_take_nothing_new_and_end_nothing() -> None:
    verdict = owner.decide(None, Situation(0, 0), battery_low=False)
    assert (verdict.accepting, verdict.reason, verdict.evicting) == (False, "OwnerTermsUnreadable", False)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_hours_are_those_of_the_clock_on_the_wall_through_both_changes_of_the_year(zone: str) -> None:
    there = ZoneInfo(zone)
    windows = [hours.parse("22:00-06:00"), hours.parse("Sun 01:30-02:30")]
    midnight = datetime(2026, 1, 1, tzinfo=UTC)
    days = [midnight + timedelta(days=n) for n in range(366)]
    changes = [
        d for d, e in itertools.pairwise(days) if d.astimezone(there).utcoffset() != e.astimezone(there).utcoffset()
    ]
    assert len(changes) == 2
    for change in changes:
        answers = []
        for minute in range(-24 * 60, 48 * 60):
            moment = change + timedelta(minutes=minute)
            shown = moment.astimezone(there)
            weekday, of_day = local_time(int(moment.timestamp() * 1000), there)
            expected = shown.hour >= 22 or shown.hour < 6
            assert hours.inside(windows, weekday=weekday, minute=of_day) is expected
            answers.append(expected)
        nights = [len(list(run)) for is_open, run in itertools.groupby(answers) if is_open][1:-1]
        # one night is longer or shorter, by what the clock was moved
        assert {abs(night - 8 * 60) for night in nights} & {30, 60}, nights


def test_the_devices_own_zone_is_the_one_it_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = int(datetime(2026, 7, 6, 12, tzinfo=UTC).timestamp() * 1000)
    for zone, expected in (("UTC", (0, 720)), ("Asia/Tokyo", (0, 21 * 60)), ("Pacific/Kiritimati", (1, 120))):
        monkeypatch.setenv("TZ", zone)
        assert local_time(noon) == expected == local_time(noon, ZoneInfo(zone))
    monkeypatch.delenv("TZ")
    local_time(noon)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("share: 2", "share"),
        ("share: [", "owner.yaml"),
        ("sharee: 1", "unknown setting sharee"),
        ("hours: [late]", "hours"),
        ("namespaces: [Not_One]", "namespaces"),
        ("battery_floor_percent: 50\nbattery_resume_percent: 40", "below battery_floor_percent"),
        ("- 1", "must be a mapping"),
        ("file: /elsewhere", "unknown setting file"),
        ("#" * 70_000, "larger than"),
        ("\x00", "owner.yaml"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "owner.yaml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=said) as raised:
        owner_file.read_terms(OwnerConfig(), path)
    assert raised.value.reason == "BadOwnerTerms"


def test_the_file_wins_over_the_settings_key_by_key(tmp_path: Path) -> None:
    settings = OwnerConfig(share=0.5, hours=("08:00-09:00",), memory_bytes=2**30)
    path = tmp_path / "owner.yaml"
    path.write_text("hours: []\nmemory: 512Mi\nallow_metered: true\n")
    found = owner_file.read_terms(settings, path)
    assert (found.share, found.hours, found.memory_bytes, found.allow_metered) == (0.5, (), 2**29, True)
    assert owner_file.read_terms(settings, tmp_path / "none").share == 0.5


@pytest.mark.parametrize(
    ("text", "now_ms", "expected"),
    [
        ("", 0, True),
        ("1970-01-01T00:00:10+00:00", 9_999, True),
        ("1970-01-01T00:00:10Z", 10_000, False),
        ("soon", 0, True),
    ],
)
def test_pauses(tmp_path: Path, text: str, now_ms: int, expected: bool) -> None:
    path = tmp_path / "owner.pause"
    assert owner_file.read_pause(path) is None
    path.write_text(text)
    pause = owner_file.read_pause(path)
    assert pause is not None
    assert pause.holds(now_ms) is expected


def test_bad_settings_of_the_owner_are_refused_before_the_start() -> None:
    with pytest.raises(InvalidArgument, match="time zone") as raised:
        owner_file.check(OwnerConfig(time_zone="Europe/Atlantis"))
    assert raised.value.reason == "BadSetting"
    with pytest.raises(InvalidArgument, match="below"):
        owner_file.check(OwnerConfig(battery_floor_percent=50, battery_resume_percent=10))


# The watch ----------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.wall_ms = int(datetime(2026, 7, 6, 12, tzinfo=UTC).timestamp() * 1000)  # a Monday
        self.ms = 0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_ms(self) -> int:
        return self.ms

    def pass_ms(self, ms: int) -> None:
        self.wall_ms += ms
        self.ms += ms


class Device:
    """An agent's folder, a battery, and a clock, through several lives of the agent."""

    def __init__(self, directory: Path, **stated: object) -> None:
        self.clock = Clock()
        self.data = directory / "data"
        self.data.mkdir()
        self.battery = directory / "supplies" / "BAT0"
        self.battery.mkdir(parents=True)
        self.set_battery(100)
        (self.battery / "type").write_text("Battery")
        settings = OwnerConfig(time_zone="UTC", **stated)  # type: ignore[arg-type]
        self.config = AgentConfig(data_dir=self.data, power_supply_dir=self.battery.parent, owner=settings)
        self.file = self.data / "owner.yaml"

    def set_battery(self, percent: int, status: str = "Discharging") -> None:
        (self.battery / "capacity").write_text(str(percent))
        (self.battery / "status").write_text(status)
        self.clock.pass_ms(10_000)

    async def agent(self) -> OwnerWatch:
        conditions = Conditions(System.here(self.config.power_supply_dir), self.clock)
        watch = OwnerWatch(self.config, conditions, self.clock)
        await watch.start()
        return watch

    def state(self) -> dict:
        return json.loads((self.data / STATE_FILE).read_text())


async def changed(watch: OwnerWatch, *, by_itself: bool = False) -> None:
    """Runs the watch until it tells of a change, which it shall look for at once or, `by_itself`, when it does."""
    told = asyncio.Event()
    if not by_itself:
        watch.poke()
    running = asyncio.ensure_future(watch.run(told.set))
    try:
        async with asyncio.timeout(10):
            await told.wait()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_the_battery_of_the_device_decides(tmp_path: Path) -> None:
    device = Device(tmp_path, battery_floor_percent=30, battery_resume_percent=50)
    watch = await device.agent()
    seen = []
    for level, status in [
        (40, "Discharging"),
        (29, "Discharging"),
        (45, "Discharging"),
        (45, "Charging"),
        (20, "Discharging"),
    ]:
        device.set_battery(level, status)
        await watch.look()
        seen.append(watch.told.not_accepting_reason)
    assert seen == ["", "BatteryLow", "BatteryLow", "", "BatteryLow"]


async def test_a_floor_that_nobody_can_hold_is_said(tmp_path: Path) -> None:
    device = Device(tmp_path, battery_floor_percent=30)
    watch = await device.agent()
    assert device.state()["warning"] == ""
    (device.battery / "capacity").write_text("?")
    device.clock.pass_ms(10_000)
    await changed(watch)
    assert "cannot be read" in device.state()["warning"]
    assert watch.told.accepting
    device.set_battery(80)
    await changed(watch)
    assert device.state()["warning"] == ""


async def test_changes_of_the_files_are_told(tmp_path: Path) -> None:
    device = Device(tmp_path)
    watch = await device.agent()
    assert watch.told.accepting
    assert device.state()["accepting"]
    device.file.write_text("share: 0.25\nhours: ['22:00-06:00']\n")
    await changed(watch)
    assert watch.limits.share == 0.25
    assert (watch.told.share_percent, watch.told.not_accepting_reason, watch.told.evicting) == (
        25,
        "OutsideHours",
        True,
    )
    device.clock.pass_ms(10 * 3_600_000)
    await changed(watch)
    assert watch.told.accepting
    owner_file.write_pause(owner_file.pause_file(device.config), until_ms=device.clock.now_ms() + 60_000)
    await changed(watch)
    assert device.state()["reason"] == "Paused"
    device.clock.pass_ms(60_000)
    await changed(watch)
    assert watch.told.accepting
    device.file.unlink()
    await changed(watch)
    assert watch.told == dataclasses.replace(watch.told, share_percent=100, hours=())


async def test_a_bad_file_keeps_the_last_good_terms_also_of_an_earlier_life(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.file.write_text("share: 0.25\n")
    watch = await device.agent()
    device.file.write_text("share: lots\n")
    await changed(watch, by_itself=True)
    assert watch.told.accepting
    assert watch.limits.share == 0.25
    assert "share" in device.state()["problem"]
    again = await device.agent()
    assert again.limits.share == 0.25
    assert "share" in device.state()["problem"]
    device.file.write_text("share: 0.75\n")
    await changed(again)
    assert again.limits.share == 0.75
    assert device.state()["problem"] == ""


async def test_a_first_start_on_a_bad_file_takes_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.file.write_text("share: lots\n")
    watch = await device.agent()
    assert (watch.told.accepting, watch.told.not_accepting_reason, watch.told.evicting) == (
        False,
        "OwnerTermsUnreadable",
        False,
    )
    device.file.write_text("share: 1\n")
    watch.poke()
    await changed(watch)
    assert watch.told.accepting


# The rules ----------------------------------------------------------------------------------------------------


class Supervisor:
    def __init__(self) -> None:
        self.reports = ReportBook()
        self.calls: list[tuple[str, ...]] = []
        self.assigned: dict[str, Assignment] = {}

    def assign(self, replica_id: str, namespace: str = "home", *, priority: int = 50, cpu_millis: int = 100) -> None:
        container = Container(name="main", resources=Resources(requests=ResourceAmounts(cpu_millis=cpu_millis)))
        spec = WorkloadSpec(priority=priority, containers=(container,))
        self.assigned[replica_id] = Assignment(replica_id, "web", namespace, 1, spec)
        self.reports.put(replica_id, ReplicaStatus())

    def evict(self, replica_id: str, reason: str, message: str) -> bool:
        self.calls.append(("evict", replica_id, reason))
        del self.assigned[replica_id]
        self.reports.put_gone(replica_id)
        return True

    def hold(self, reason, message, *, only=None) -> None:
        self.calls.append(("hold", reason, *(["only"] if only else [])))

    def release(self) -> None:
        self.calls.append(("release",))

    def running(self) -> dict[str, Assignment]:
        return dict(self.assigned)


async def test_the_node_is_held_to_the_terms(tmp_path: Path) -> None:
    device, supervisor = Device(tmp_path), Supervisor()
    watch = await device.agent()
    rules = OwnerRules(watch, supervisor)
    rules.apply()
    rules.apply()
    assert supervisor.calls == [("release",)]
    owner_file.write_pause(owner_file.pause_file(device.config), until_ms=None)
    await changed(watch)
    rules.apply()
    assert supervisor.calls[1:] == [("hold", "Paused")]
    owner_file.pause_file(device.config).unlink()
    device.file.write_text("namespaces: [home]\n")
    supervisor.assign("a", "home")
    supervisor.assign("b", "work")
    await watch.look()
    rules.apply()
    assert supervisor.calls[2:] == [("hold", "OwnerTerms", "only"), ("evict", "b", "OwnerTerms")]
    running = asyncio.ensure_future(rules.run())
    supervisor.assign("c", "work")
    async with asyncio.timeout(10):
        while len(supervisor.calls) < 5:
            await asyncio.sleep(0.01)
    running.cancel()
    assert supervisor.calls[4:] == [("evict", "c", "OwnerTerms")]


async def test_what_no_longer_fits_into_the_share_goes_by_priority(tmp_path: Path) -> None:
    device, supervisor = Device(tmp_path, share=0.5), Supervisor()
    watch = await device.agent()
    rules = OwnerRules(watch, supervisor)
    for name, priority in (("high", 90), ("low", 10), ("middle", 50)):
        supervisor.assign(name, priority=priority, cpu_millis=500)
    rules.fit(ResourceAmounts(cpu_millis=1500, memory_bytes=1))
    assert supervisor.calls == []
    rules.fit(ResourceAmounts(cpu_millis=1000, memory_bytes=1))
    assert supervisor.calls == [("evict", "low", "OwnerTerms")]
    rules.fit(ResourceAmounts(cpu_millis=999, memory_bytes=1))
    assert supervisor.calls[1:] == [("evict", "middle", "OwnerTerms")]
    device.file.write_text("share: 1\n")  # what the device itself lacks is not the owner's doing
    await watch.look()
    rules.fit(ResourceAmounts())
    assert len(supervisor.calls) == 2


def test_only_as_many_go_as_must() -> None:
    claims = [
        owner.Claim("daemon", True, 0, 0, 100, 10),
        owner.Claim("old", False, 50, 1, 100, 10),
        owner.Claim("young", False, 50, 2, 100, 10),
        owner.Claim("high", False, 90, 3, 100, 10),
    ]
    assert owner.surplus(claims, cpu_millis=400, memory_bytes=40) == ()
    assert owner.surplus(claims, cpu_millis=400, memory_bytes=39) == ("young",)
    assert owner.surplus(claims, cpu_millis=150, memory_bytes=40) == ("young", "old", "high")
    assert owner.surplus(claims, cpu_millis=0, memory_bytes=0) == ("young", "old", "high", "daemon")


# The program --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = owner_cli.main([*arguments, f"--data-dir={tmp_path / 'agent'}"])
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_set_changes_what_is_named_and_unset_gives_it_back(run, tmp_path: Path) -> None:
    assert run("set", "--share", "0.5", "--hours", "22:00-06:00, Sat 00:00-24:00", "--memory", "1Gi")[0] == 0
    assert run("set", "--allow-metered", "true", "--unset", "memory")[0] == 0
    found = owner_file.read_terms(OwnerConfig(), tmp_path / "agent" / "owner.yaml")
    assert (found.share, found.memory_bytes, found.allow_metered) == (0.5, 0, True)
    assert found.hours == ("22:00-06:00", "Sat 00:00-24:00")
    code, out, _ = run("show")
    assert code == 0
    assert "50%" in out
    assert "does not run" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("set",), ("set", "--share", "2"), ("set", "--hours", "late"), ("set", "--unset", "nothing"), ("sett",), (),
        ("set", "--share", "1", "--unset", "share"), ("pause", "--for", "long"), ("pause", "--for", "0s"),
        ("set", "--battery-floor-percent", "50", "--battery-resume-percent", "40"),
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2_and_changes_nothing(run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert err
    folder = tmp_path / "agent"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_bad_file_is_shown_and_not_written_over_and_does_not_keep_from_pausing(run, tmp_path: Path) -> None:
    path = tmp_path / "agent" / "owner.yaml"
    path.parent.mkdir()
    path.write_text("share: lots\n")
    code, out, _ = run("show")
    assert code == 1
    assert "BAD" in out
    assert run("set", "--share", "1")[0] == 2
    assert path.read_text() == "share: lots\n"
    assert run("pause", "--for", "2h")[0] == 0
    code, out, _ = run("show", "-o", "json")
    shown = json.loads(out)
    assert code == 1
    assert shown["paused"]
    assert shown["pausedUntilMs"] > 0
    assert run("resume")[0] == 0
    assert not json.loads(run("show", "-o", "json")[1])["paused"]


def test_what_the_running_agent_says_is_shown(run, tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    folder.mkdir()
    state = {"accepting": False, "reason": "BatteryLow", "message": "at 3 %", "evicting": True, "sinceMs": 0}
    (folder / STATE_FILE).write_text(json.dumps({**state, "pid": os.getpid()}))
    assert "takes no work (BatteryLow: at 3 %), nothing runs" in run("show")[1]
    assert "has taken notice" in run("resume")[1]


def test_help_teaches(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "owner set --share 0.5 --hours" in out
    assert "Exit codes" in out
    code, out, _ = run("set", "--help")
    assert "--battery-floor-percent" in out


def test_the_agents_program_leads_there(tmp_path: Path) -> None:
    import subprocess

    program = Path(sys.executable).parent / "cloudless-agent"
    done = subprocess.run([program, "owner", "show", f"--data-dir={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "share" in done.stdout
