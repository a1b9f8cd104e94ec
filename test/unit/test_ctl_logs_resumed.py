"""`logs -f` over a break: nothing is left out, and what came already does not come again where that can be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudless.ctl.resuming import Tail
from cloudless.errors import Unavailable
from cloudless.testing.ctl import Ctl
from cloudless.testing.fake_control import FakeControl

LINES = [b"line %d\n" % number for number in range(20)]


def chunks(lines: list[bytes], size: int) -> list[bytes]:
    return [b"".join(lines[at : at + size]) for at in range(0, len(lines), size)]


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("overlap", [0, 1, 7, 10])
def test_lines_that_continue_what_was_shown_are_dropped(size: int, overlap: int) -> None:
    tail = Tail(timestamps=False)
    shown = b"".join(tail.new(chunk) for chunk in chunks(LINES[:10], 4))
    tail.resume()
    shown += b"".join(tail.new(chunk) for chunk in chunks(LINES[10 - overlap :], size))
    assert shown == b"".join(LINES)


def test_what_began_before_anything_that_is_known_comes_again() -> None:
    tail = Tail(timestamps=False)
    tail.new(b"".join(LINES[5:10]))
    tail.resume()
    assert tail.new(b"".join(LINES)) == b"".join(LINES)


def test_a_break_in_the_midst_of_the_overlap() -> None:
    tail = Tail(timestamps=False)
    tail.new(b"".join(LINES[:10]))
    tail.resume()
    assert tail.new(b"".join(LINES[4:8])) == b""
    tail.resume()
    assert tail.new(b"".join(LINES[2:12])) == b"".join(LINES[10:12])


def stamped(second: float, text: bytes) -> bytes:
    return b"2027-01-15T08:00:%06.3fZ %s\n" % (second, text)


def test_times_come_out_only_where_they_are_wanted() -> None:
    data = stamped(1, b"one") + stamped(2, b"two") + b"no time\n"
    assert Tail(timestamps=True).new(data) == data
    assert Tail(timestamps=False).new(data) == b"one\ntwo\nno time\n"
    tail = Tail(timestamps=False)
    assert tail.new(stamped(1, b"half")[:-1]) == b""
    assert tail.end() == b"half"
    assert tail.end() == b""


def test_the_time_of_a_line_may_differ_a_little() -> None:
    tail = Tail(timestamps=False)
    tail.new(stamped(1.2, b"tick") + stamped(2.2, b"tack"))
    tail.resume()
    assert tail.new(stamped(1.25, b"tick") + stamped(2.1, b"tack") + stamped(3.2, b"tick")) == b"tick\n"


@given(
    st.lists(st.sampled_from([b"a", b"b"]), max_size=12),
    st.lists(st.sampled_from([b"a", b"b"]), max_size=12),
    st.integers(0, 12),
    st.integers(1, 5),
)
def test_nothing_new_is_ever_left_out(before: list[bytes], after: list[bytes], overlap: int, size: int) -> None:
    """Lines that are all alike, and a break of more than a moment."""
    tail = Tail(timestamps=True)
    old = [stamped(number, text) for number, text in enumerate(before)]
    new = [stamped(20 + number, text) for number, text in enumerate(after)]
    for line in old:
        tail.new(line)
    tail.resume()
    again = [*old[len(old) - min(overlap, len(old)) :], *new]
    shown = b"".join(tail.new(chunk) for chunk in chunks(again, size))
    assert shown.endswith(b"".join(new))


@pytest.fixture
def control() -> FakeControl:  # type: ignore[misc]
    with FakeControl() as started:
        yield started


def _ctl(control: FakeControl, tmp_path: Path) -> Ctl:
    ctl = Ctl(control, tmp_path)
    control.add_node("n1")
    manifest = (
        "apiVersion: cloudless.dev/v1\nkind: Workload\nmetadata: {name: web}\n"
        "spec: {containers: [{name: web, image: nginx}]}\n"
    )
    assert ctl("apply", "-f", "-", stdin=manifest.encode()).code == 0
    control.logs["web-00000"] = b"".join(LINES)
    return ctl


@pytest.mark.parametrize("arguments", [(), ("--prefix",)])
def test_following_goes_on_over_breaks(control: FakeControl, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ctl = _ctl(control, tmp_path)
    control.log_breaks.extend([5, 0, 12])
    done = ctl("logs", "-f", "web-00000", *arguments)
    assert done.code == 0, done.err
    prefix = "[web-00000] " if arguments else ""
    assert done.out == "".join(prefix + line.decode() for line in LINES)
    requests = [request for name, request, _ in control.calls if name == "Logs"]
    assert [request.since_ms > 0 for request in requests] == [False, True, True, True]


def test_what_is_not_followed_is_not_resumed(control: FakeControl, tmp_path: Path) -> None:
    ctl = _ctl(control, tmp_path)
    control.log_breaks.append(5)
    assert ctl("logs", "web-00000").code == Unavailable.exit_code
    control.fail("Logs", Unavailable("node n1 is not connected", reason="NodeUnreachable"))
    assert ctl("logs", "-f", "web-00000").code == Unavailable.exit_code
