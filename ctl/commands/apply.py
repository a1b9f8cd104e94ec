"""`apply`: manifests to the fabric, all or nothing as far as their form goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import manifests, options, output, verdicts, waiting
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, usage
from cloudless.ctl.cli import command
from cloudless.errors import BY_CODE, CloudlessError, Internal

if TYPE_CHECKING:
    from cloudless.manifest import Manifest

BATCH_MAX: Final = 500
BATCH_BYTES_MAX: Final = 3 * 2**20  # below the transport's 4 MiB
LINES_MAX: Final = 50  # above it a summary is shown instead of a line each
_WORDS: Final = {"created": "created", "updated": "configured", "unchanged": "unchanged"}


@command("apply")
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Manifests; repeatable.",
              type=click.Path(allow_dash=True))  # fmt: skip
@click.option("-R", "--recursive", is_flag=True, help="Look into folders of folders, too.")
@click.option("--dry-run", type=click.Choice(["none", "client", "server"]), default="none", is_flag=False,
              flag_value="client",
              help="client (the bare flag): only check the manifests; server: ask what would change.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Block until every replica is ready, and every job has run.")
@options.timeout("5m")
@click.option("-o", "--output", "format", default="table", metavar="FORMAT", help="table, name, json or yaml.")
def apply(
    app: App, files: tuple[str, ...], recursive: bool, dry_run: str, wait: bool, timeout: str, format: str
) -> int:
    """Create or update workloads from manifests.

    Every document of every file is checked first: if one is bad, all problems are shown and nothing is applied.
    """
    if format not in ("table", "name", "json", "yaml"):
        raise usage(f"-o: unknown format {format!r}", "use table, name, json or yaml")
    timeout_ms = duration_ms(timeout, "--timeout")
    parsed = manifests.read(app, files, recursive=recursive)
    suffix = f" ({dry_run} dry run)" if dry_run != "none" else ""
    if dry_run == "client":
        _print_manifests(app, parsed, format, suffix)
        return 0
    outcomes = list(_send(app, parsed, dry_run=dry_run == "server"))
    failure = _report(app, outcomes, format, suffix)
    if wait and not suffix:
        keys = [(outcome.namespace, outcome.name) for outcome in outcomes if not outcome.error_code]
        if keys:
            waiting.available(app, keys, timeout_ms=timeout_ms, done=lambda workload: _done(app, workload, format))
    return failure


def _done(app: App, workload: Any, format: str) -> None:
    if format == "table" and verdicts.has_runs(workload):
        app.print(
            f"workload/{workload.metadata.name} is {verdicts.status(workload).lower()}: {workload.status.message}"
        )
    elif format == "table":
        status = workload.status
        app.print(f"workload/{workload.metadata.name} is available ({status.ready} of {status.desired} ready)")


def _print_manifests(app: App, parsed: Sequence[Manifest], format: str, suffix: str) -> None:
    if format in ("json", "yaml"):
        from cloudless.manifest.encode import manifest

        documents = [manifest(item.metadata, item.spec) for item in parsed]
        if format == "json":
            app.print(output.to_json({"items": documents}))
        else:
            app.print("---\n".join(map(output.to_yaml, documents)), end="")
        return
    if len(parsed) > LINES_MAX:
        app.print(f"{len(parsed)} workloads are well formed{suffix}")
        return
    for item in parsed:
        app.print(f"workload/{item.metadata.name}" + ("" if format == "name" else f" is well formed{suffix}"))


def _send(app: App, parsed: Sequence[Manifest], *, dry_run: bool) -> Iterator[Any]:
    """The outcome of each workload, in order."""
    from cloudless.api.v1 import convert

    batch = control_pb2.ApplyWorkloadsRequest(dry_run=dry_run)
    size = 0
    for item in parsed:
        message = control_pb2.WorkloadManifest()
        convert.fill(item.metadata, message.metadata)
        convert.fill(item.spec, message.spec)
        bytes_more = message.ByteSize()
        if batch.workloads and (len(batch.workloads) >= BATCH_MAX or size + bytes_more > BATCH_BYTES_MAX):
            yield from app.client.call("Workload", "ApplyWorkloads", batch, write=True).outcomes
            batch, size = control_pb2.ApplyWorkloadsRequest(dry_run=dry_run), 0
        batch.workloads.append(message)
        size += bytes_more
    yield from app.client.call("Workload", "ApplyWorkloads", batch, write=True).outcomes


def _report(app: App, outcomes: Sequence[Any], format: str, suffix: str) -> int:
    """Prints what became of each; the exit code of the first that was refused, or 0."""
    refused = [outcome for outcome in outcomes if outcome.error_code]
    if format == "json":
        app.print(output.to_json({"items": [output.plain(outcome) for outcome in outcomes]}))
    elif format == "yaml":
        app.print("---\n".join(output.to_yaml(output.plain(outcome)) for outcome in outcomes), end="")
    else:
        _lines(app, outcomes, format, suffix)
    for outcome in refused:
        app.note(f"error: workload/{outcome.name}: {outcome.error_message or outcome.error_code}")
        if outcome.error_remedy:
            app.note(f"hint: {outcome.error_remedy}")
    if not refused:
        return 0
    cls: type[CloudlessError] = BY_CODE.get(refused[0].error_code, Internal)
    return cls.exit_code


def _lines(app: App, outcomes: Sequence[Any], format: str, suffix: str) -> None:
    done = [outcome for outcome in outcomes if not outcome.error_code]
    many = len(outcomes) > LINES_MAX
    for outcome in done:
        if format == "name":
            app.print(f"workload/{outcome.name}")
        elif not many or (outcome.changed != "unchanged" and len(done) <= 2 * LINES_MAX):
            app.print(f"workload/{outcome.name} {_WORDS.get(outcome.changed, outcome.changed)}{suffix}")
    if many and format != "name":
        counts = Counter(_WORDS.get(outcome.changed, outcome.changed) for outcome in done)
        parts = [f"{counts[word]} {word}" for word in _WORDS.values() if counts[word]]
        refused = len(outcomes) - len(done)
        app.print(", ".join(parts + ([f"{refused} refused"] if refused else [])) + suffix)
