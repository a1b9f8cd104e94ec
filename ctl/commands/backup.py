"""`cluster backup` and `cluster restore`: the whole fabric as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cloudless import backup as file
from cloudless.api.v1 import control_pb2
from cloudless.ctl.app import App
from cloudless.ctl.cli import command
from cloudless.ctl.progress import Progress
from cloudless.ctl.times import instant
from cloudless.errors import FailedPrecondition, NotFound

# Making it takes a while on a large fabric before the first byte comes.
_BACKUP_TIMEOUT_MS = 10 * 60_000


@command("backup")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace the file.")
def backup(app: App, path: Path, force: bool) -> None:
    """Save the whole fabric, its keys included, into one file.

    It is consistent as of one entry of the log and checksummed throughout, and it appears under its name whole or not
    at all. Whoever has it can be this fabric: keep it where private keys belong. Writes go on meanwhile.
    """
    if path.exists() and not force:
        raise FailedPrecondition(
            f"{path} is there already", reason="FileExists", remedy="choose another name, or replace it with --force"
        )
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}", reason="NoSuchFile")
    answers, cancel = app.client.stream("Cluster", "Backup", control_pb2.BackupRequest(), timeout_ms=_BACKUP_TIMEOUT_MS)
    try:
        with file.BackupWriter(path) as writer, Progress(app) as progress:
            received = 0
            for answer in answers:
                writer.write(answer.data)
                received += len(answer.data)
                progress.show(f"received {received / 1e6:.1f} MB of {max(answer.total_bytes, received) / 1e6:.1f} MB")
            info = writer.finish()
    finally:
        cancel()
    app.print(f"{path}: entry {info.index} of {info.trust_domain}, {received} bytes, state {info.state_hash}")


@command("restore")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--data-dir", "directory", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="The new coordinator's data folder, empty or not there yet.")  # fmt: skip
@click.option("--check", is_flag=True, help="Only read the file and say what it is.")
def restore(app: App, path: Path, directory: Path | None, check: bool) -> None:
    """Begin a new cluster from a backup, on the machine of its first coordinator.

    Every byte of the file is checked, and it is put into the data folder; the coordinator that is then started with
    that folder continues the fabric, alone, as of the backup. Add the other coordinators anew, under new ids. Stop the
    old ones for good first: nodes go with whoever they reach.
    """
    from cloudless.ctl.arguments import usage

    if check == (directory is not None):
        raise usage("either --data-dir or --check")
    info = file.verify(path) if directory is None else file.place(path, directory.absolute())
    _say(app, path, info)
    if directory is not None:
        app.print(
            f"start it with: cloudless-coordinator --id NEW_ID --data-dir {directory} "
            f"--identity-trust-domain {info.trust_domain}"
        )


def _say(app: App, path: Path, info: Any) -> None:
    made = f"made {instant(info.created_at_ms)} by version {info.version}"
    app.print(
        f"{path}: entry {info.index} of {info.trust_domain}, state {info.state_hash}, {made}; every byte is right"
    )
