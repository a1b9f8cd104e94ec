"""What the log led to once, it leads to for ever: entries that are committed keep their bytes and their effect."""

from pathlib import Path

import pytest

from cloudless.coordinator.core import commands, machine
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.testing import golden_log

GOLDEN = Path(__file__).parents[1] / "golden" / "core"
LOGS = {
    name: [bytes.fromhex(line) for line in (GOLDEN / f"{name}.hex").read_text().splitlines()]
    for name in golden_log.LOGS
}
every_log = pytest.mark.parametrize("name", golden_log.LOGS)


@every_log
def test_the_golden_log_replays_to_the_same_hashes(name):
    hashes = (GOLDEN / f"{name}.hashes").read_text().splitlines()
    assert [state_hash(state) for state in golden_log.replay(LOGS[name])] == hashes


@every_log
def test_entries_are_still_written_with_the_same_bytes(name):
    assert golden_log.LOGS[name]() == LOGS[name]


def test_every_command_is_in_a_golden_log():
    seen = set()
    for data in (data for log in LOGS.values() for data in log):
        try:
            seen.add(type(commands.decode(data).command))
        except ValueError:
            continue
    assert seen == set(machine.APPLY)


@every_log
def test_no_entry_of_the_golden_log_hides_a_bug(name):
    state = State.empty(golden_log.TRUST_DOMAIN)
    for index, data in enumerate(LOGS[name], 1):
        state = machine.apply(state, data, index=index, term=1, strict=True).state
        state.validate()


def test_software_of_schema_1_reads_its_log_as_ever():
    before = State.empty(golden_log.TRUST_DOMAIN)
    for index, data in enumerate(LOGS["log"], 1):
        before = machine.apply(before, data, index=index, term=1, known=1).state
    assert state_hash(before) == (GOLDEN / "log.hashes").read_text().splitlines()[-1]
