"""What the log led to once, it leads to for ever: entries that are committed keep their bytes and their effect."""

from pathlib import Path

from cloudless.coordinator.core import commands, machine
from cloudless.coordinator.core.snapshot import state_hash
from cloudless.coordinator.core.state import State
from cloudless.testing import golden_log

GOLDEN = Path(__file__).parents[1] / "golden" / "core"
LOG = [bytes.fromhex(line) for line in (GOLDEN / "log.hex").read_text().splitlines()]
HASHES = (GOLDEN / "hashes").read_text().splitlines()


def test_the_golden_log_replays_to_the_same_hashes():
    assert [state_hash(state) for state in golden_log.replay(LOG)] == HASHES


def test_entries_are_still_written_with_the_same_bytes():
    assert golden_log.entries() == LOG


def test_every_command_is_in_the_golden_log():
    seen = set()
    for data in LOG:
        try:
            seen.add(type(commands.decode(data).command))
        except ValueError:
            continue
    assert seen == set(machine.APPLY)


def test_no_entry_of_the_golden_log_hides_a_bug():
    state = State.empty(golden_log.TRUST_DOMAIN)
    for index, data in enumerate(LOG, 1):
        state = machine.apply(state, data, index=index, term=1, strict=True).state
        state.validate()
