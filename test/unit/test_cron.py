"""Due times of cron expressions, most of all on the days on which clocks change."""

from datetime import UTC, datetime

import pytest

from cloudless.core import cron
from cloudless.core.spec import Schedule

# The nights of 2026 on which clocks change.
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def ms(text, zone="UTC", fold=0):
    return round(datetime.fromisoformat(text).replace(tzinfo=cron.zone_of(zone), fold=fold).timestamp() * 1000)


def dues(expression, zone, after, until):
    """Local times with their offsets, as `03-29 03:00+02`."""
    found = cron.due_between(Schedule(expression, zone), ms(after, zone), ms(until, zone), 1000)
    return [datetime.fromtimestamp(at / 1000, cron.zone_of(zone)).strftime("%d %H:%M%z")[:-2] for at in found]


FIXED = [
    # a time that is skipped runs once, right after the gap
    (BERLIN, "30 2 * * *", "2026-03-28", "2026-03-31", ["28 02:30+01", "29 03:00+02", "30 02:30+02"]),
    (NEW_YORK, "30 2 * * *", "2026-03-07", "2026-03-10", ["07 02:30-05", "08 03:00-04", "09 02:30-04"]),
    (LORD_HOWE, "15 2 * * *", "2026-10-03", "2026-10-06", ["03 02:15+10", "04 02:30+11", "05 02:15+11"]),
    # several of them together, and with one that is due there anyway
    (BERLIN, "15,45 2 * * *", "2026-03-29", "2026-03-30", ["29 03:00+02"]),
    (BERLIN, "0 2,3 * * *", "2026-03-29", "2026-03-30", ["29 03:00+02"]),
    (NEW_YORK, "30 1,2,3 * * *", "2026-03-08", "2026-03-09", ["08 01:30-05", "08 03:00-04", "08 03:30-04"]),
    # a time that comes twice runs the first time
    (BERLIN, "30 2 * * *", "2026-10-24", "2026-10-27", ["24 02:30+02", "25 02:30+02", "26 02:30+01"]),
    (NEW_YORK, "30 1 * * *", "2026-10-31", "2026-11-03", ["31 01:30-04", "01 01:30-04", "02 01:30-05"]),
    (LORD_HOWE, "45 1 * * *", "2026-04-04", "2026-04-07", ["04 01:45+11", "05 01:45+11", "06 01:45+10"]),
    (LORD_HOWE, "0 2 * * *", "2026-04-05", "2026-04-06", ["05 02:00+10"]),
]
ELAPSED = [
    (BERLIN, "30 * * * *", "2026-03-29T00:00", "2026-03-29T04:00", ["29 00:30+01", "29 01:30+01", "29 03:30+02"]),
    (BERLIN, "0 * * * *", "2026-10-25T00:59", "2026-10-25T03:00",
     ["25 01:00+02", "25 02:00+02", "25 02:00+01", "25 03:00+01"]),
    (BERLIN, "*/15 2 * * *", "2026-03-29", "2026-03-30", []),
    (NEW_YORK, "*/30 * * * *", "2026-03-08T01:00", "2026-03-08T04:00",
     ["08 01:30-05", "08 03:00-04", "08 03:30-04", "08 04:00-04"]),
    (NEW_YORK, "*/30 * * * *", "2026-11-01T00:45", "2026-11-01T02:00",
     ["01 01:00-04", "01 01:30-04", "01 01:00-05", "01 01:30-05", "01 02:00-05"]),
    (LORD_HOWE, "*/30 * * * *", "2026-10-04T01:00", "2026-10-04T03:00",
     ["04 01:30+10", "04 02:30+11", "04 03:00+11"]),
    (LORD_HOWE, "*/30 * * * *", "2026-04-05T01:00", "2026-04-05T02:00", ["05 01:30+11", "05 01:30+10", "05 02:00+10"]),
    # where a library that moves by whole hours loses runs
    (LORD_HOWE, "0 */3 * * *", "2026-10-03T23:00", "2026-10-04T06:00", ["04 00:00+10", "04 03:00+11", "04 06:00+11"]),
    (LORD_HOWE, "30 * * * *", "2026-04-05T00:00", "2026-04-05T03:00",
     ["05 00:30+11", "05 01:30+11", "05 01:30+10", "05 02:30+10"]),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "expression", "after", "until", "expected"), [*FIXED, *ELAPSED])
def test_where_clocks_change(zone, expression, after, until, expected):
    assert dues(expression, zone, after, until) == expected


@pytest.mark.parametrize(("zone", "expression", "after", "until", "expected"), [*FIXED, *ELAPSED])
def test_one_after_the_other_is_the_same_as_all_at_once(zone, expression, after, until, expected):
    """From every second in between, too: who asks, and when, changes nothing."""
    schedule, at, end = Schedule(expression, zone), ms(after, zone), ms(until, zone)
    found = []
    while (due := cron.next_due(schedule, at)) is not None and due <= end:
        assert cron.next_due(schedule, (at + due) // 2) == due
        assert cron.next_due(schedule, due - 1) == due
        found.append(due)
        at = due
    assert tuple(found) == cron.due_between(schedule, ms(after, zone), end, 1000)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("@hourly", "2026-01-01T01:00"),
        ("@daily", "2026-01-02T00:00"),
        ("@weekly", "2026-01-04T00:00"),
        ("@monthly", "2026-02-01T00:00"),
        ("@yearly", "2027-01-01T00:00"),
        ("0 9 * * MON-FRI", "2026-01-01T09:00"),
        ("0 0 13 * 5", "2026-01-02T00:00"),  # one of the two
        ("0 0 */13 * 5", "2026-02-27T00:00"),  # both: it begins with a star
        ("0 0 L * *", "2026-01-31T00:00"),
        ("0 0 LW 2 *", "2026-02-27T00:00"),
        ("0 0 * * MON#2", "2026-01-12T00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("0 0 * * 7", "2026-01-04T00:00"),
        ("5/20 0 * * *", "2026-01-01T00:05"),
    ],
)
def test_expressions(expression, expected):
    assert cron.problem(expression) is None
    assert cron.next_due(Schedule(expression), ms("2026-01-01T00:00")) == ms(expected)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("", "0 fields, not 5"),
        ("* * * *", "4 fields, not 5"),
        ("0 * * * * *", "6 fields, not 5"),
        ("60 * * * *", "'60' is no minute (field 1)"),
        ("1,2,x * * * *", "'X' is no minute (field 1)"),
        ("*/0 * * * *", "'*/0' is no minute (field 1)"),
        ("* 24 * * *", "'24' is no hour (field 2)"),
        ("0 0 0 * *", "'0' is no day of month (field 3)"),
        ("0 0 ? * *", "'?' is no day of month (field 3)"),
        ("0 0 * 13 *", "'13' is no month (field 4)"),
        ("0 0 * JANUARY *", "'JANUARY' is no month (field 4)"),
        ("0 0 * * FRI-MON", "'FRI-MON' is no day of week (field 5)"),
        ("0 0 * * MON#6", "'MON#6' is no day of week (field 5)"),
        ("0 0 * * 8", "'8' is no day of week (field 5)"),
        (", * * * *", "'' is no minute (field 1)"),
        ("0 0 31 2,4,6 *", "never comes"),
        ("0 0 30 2 */7", "never comes"),
        ("@reboot", "'@reboot' is not known"),
        ("@every 5m", "'@every' is not known"),
        ("CRON_TZ=Europe/Berlin 0 0 * * *", "a time zone is not part of the expression"),
        ("0 " * 200, "characters"),
        ("² * * * *", "is no minute"),
        ("99999999999 * * * *", "is no minute"),
    ],
)
def test_what_is_wrong_and_where(expression, part):
    found = cron.problem(expression)
    assert found is not None
    assert part in found.message
    assert found.remedy


def test_a_long_outage_costs_no_more_than_what_is_asked_for():
    newest = cron.due_between(Schedule("* * * * *", BERLIN), 0, ms("2026-06-01T00:00"), 100)
    assert len(newest) == 100
    assert newest[-1] == ms("2026-06-01T00:00")
    assert newest[0] == newest[-1] - 99 * 60_000


def test_nothing_is_due_when_time_stands_still_or_runs_back():
    schedule, at = Schedule("* * * * *"), ms("2026-06-01T00:00")
    assert cron.due_between(schedule, at, at, 5) == ()
    assert cron.due_between(schedule, at, at - 3_600_000, 5) == ()
    assert cron.due_between(schedule, at - 60_000, at, 5) == (at,)


def test_the_zones_are_those_of_the_package():
    assert {"UTC", BERLIN, NEW_YORK, LORD_HOWE} <= cron.zone_names()
    for name in sorted(cron.zone_names()):
        assert cron.next_due(Schedule("0 12 * * *", name), ms("2026-06-01T00:00")) is not None
    for name in ("Europe/Atlantis", "../../etc/passwd", "zones"):
        with pytest.raises(ValueError, match="is no time zone"):
            cron.next_due(Schedule("0 12 * * *", name), 0)


def test_far_away_is_never():
    schedule = Schedule("0 0 1 1 *", BERLIN)
    assert cron.next_due(schedule, 2**62) is None
    assert cron.next_due(schedule, -1) is None
    assert cron.next_due(schedule, 0) == round(datetime(1970, 12, 31, 23, tzinfo=UTC).timestamp() * 1000)
