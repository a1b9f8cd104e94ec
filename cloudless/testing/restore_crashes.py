"""`python -m cloudless.testing.restore_crashes BACKUP DIR`: a restore killed at each of its steps, then repeated.

A step is whatever the interpreter tells its audit hooks of files: opening, renaming, removing, making folders. Before
each one in turn the process ends at once, as under kill -9; the next start must come to the same end as an undisturbed
one. Prints the number of steps, or what went wrong.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from cloudless import backup
from cloudless.config import CoordinatorConfig, IdentityConfig
from cloudless.coordinator import restoring
from cloudless.coordinator.core import snapshot as states
from cloudless.coordinator.wal.files import OsFilesystem
from cloudless.coordinator.wal.snapshots import Snapshots

KILLED = 9
_FILES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"})
FOUND = ["ca", "log", "restored.json", "tokens.key"]


def run(work: object, argument: CoordinatorConfig, *, kill_before: int = 0) -> int:
    """Runs `work(argument)` in a process of its own; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    steps = 0

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _FILES or writes:
            steps += 1
            if steps == kill_before:
                os._exit(KILLED)

    sys.addaudithook(audit)
    try:
        assert callable(work)
        work(argument)
    except BaseException as error:
        sys.stdout.write(f"killed before step {kill_before}: {error!r}\n")
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)


def check(config: CoordinatorConfig) -> None:
    """A start after the crash: everything is there, and nothing else."""
    info = restoring.restore_if_asked(config)
    assert info is not None
    found = sorted(path.name for path in config.data_dir.iterdir())
    assert found == FOUND, found
    (stored,) = Snapshots(OsFilesystem(), config.data_dir / "log" / "snapshots").good()
    state, index, term = states.decode(stored.body)
    assert (index, term) == (stored.index, stored.term) == (info.index + restoring.REVISION_GAP, info.term)
    assert states.state_hash(state) == info.state_hash
    assert restoring.restore_if_asked(config) == info, "and again, until its last step is done"


def main(source: Path, directory: Path) -> None:
    info = backup.verify(source)
    for step in range(1, 10_000):
        data_dir = directory / f"{step:04d}"
        backup.place(source, data_dir)
        config = CoordinatorConfig(data_dir=data_dir, identity=IdentityConfig(trust_domain=info.trust_domain))
        code = run(restoring.restore_if_asked, config, kill_before=step)
        if code not in (0, KILLED) or run(check, dataclasses.replace(config)) != 0:
            raise SystemExit(1)
        if code == 0:
            sys.stdout.write(f"{step - 1}\n")
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
