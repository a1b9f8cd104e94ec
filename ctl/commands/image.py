"""`image`: archives to nodes, through the coordinator, so that no node needs an open port or a registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import options, output, resources, table
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.cli import command, group
from cloudless.ctl.client import gather
from cloudless.ctl.output import field_word
from cloudless.ctl.progress import Progress
from cloudless.ctl.resources import Query, rough_bytes
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument

CHUNK_BYTES: Final = 512 * 1024
NODES_AT_ONCE: Final = 4

image = group("image", "Bring images to nodes.")


@command("import")
@click.argument("archive", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--node", "nodes", multiple=True, metavar="NODE", shell_complete=options.names_of("node"),
              help="Node to bring it to; repeatable.  [default: all ready ones]")  # fmt: skip
@click.option("--reference", default="", metavar="NAME", help="Name for an archive that carries none.")
def import_(app: App, archive: str, nodes: tuple[str, ...], reference: str) -> int:
    """Import an image archive (OCI or docker save) on nodes."""
    path = Path(archive)
    try:
        size = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}", remedy="check the path") from None
    wanted = [resources.NODE.get(app, name).node.id for name in nodes] or _ready_nodes(app)
    with Progress(app) as progress:
        meter = _Meter(progress, total=size * len(wanted))
        outcomes = gather([_importer(app, path, node, reference, meter.add) for node in wanted], threads=NODES_AT_ONCE)
    code = 0
    for node, outcome in zip(wanted, outcomes, strict=True):
        if isinstance(outcome, CloudlessError):
            app.note(f"error: node/{node}: {outcome.message}")
            if outcome.remedy:
                app.note(f"hint: {outcome.remedy}")
            code = code or outcome.exit_code
            continue
        names = ", ".join(found.reference or found.digest for found in outcome) or "nothing new"
        app.print(f"node/{node}: imported {names}")
    return code


def _ready_nodes(app: App) -> list[str]:
    """Those that are ready and have a runtime for images. Raises FailedPrecondition when there are none."""
    views, _ = resources.NODE.items(app, Query())
    found = [
        view.node.id
        for view in views
        if field_word(view.node, "state") == "Ready"
        and any(r.available and r.name != "process" for r in view.node.device.runtimes)
    ]
    if not found:
        raise FailedPrecondition(
            "no ready node has a runtime for images",
            reason="NoNode",
            remedy="`cloudlessctl get nodes -o wide` shows nodes and their runtimes",
        )
    return found


class _Meter:
    """Progress over all nodes together."""

    def __init__(self, progress: Progress, *, total: int) -> None:
        self._progress, self._total, self._sent = progress, total, 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._sent += count
            percent = 100 * self._sent // max(self._total, 1)
            self._progress.show(f"{rough_bytes(self._sent)} of {rough_bytes(self._total)} sent ({percent} %)")


def _importer(app: App, path: Path, node: str, reference: str, sent: Callable[[int], None]) -> Callable[[], list[Any]]:
    def requests() -> Iterator[Any]:
        start = control_pb2.ImportStart(node_id=node, reference=reference)
        yield control_pb2.ImportImageRequest(start=start)
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield control_pb2.ImportImageRequest(data=data)
                sent(len(data))
        yield control_pb2.ImportImageRequest(end=True)

    def run() -> list[Any]:
        messages, cancel = app.client.stream("Image", "ImportImage", requests())
        found: list[Any] = []
        try:
            for message in messages:
                found += message.images
        finally:
            cancel()
        return found

    return run


@command("list")
@click.option("--node", "nodes", multiple=True, metavar="NODE", shell_complete=options.names_of("node"),
              help="Only of this node; repeatable.")  # fmt: skip
@options.output
@options.no_headers
def list_(app: App, nodes: tuple[str, ...], format: str, no_headers: bool) -> int:
    """List the images that nodes have."""
    if format not in ("table", "wide", "json", "yaml", "name"):
        raise usage(f"-o: unknown format {format!r}", "use table, wide, json, yaml or name")
    wanted = [resources.NODE.get(app, name).node.id for name in nodes] or _ready_nodes(app)
    answers = gather([_lister(app, node) for node in wanted], threads=NODES_AT_ONCE)
    code = 0
    rows: list[dict[str, Any]] = []
    for node, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, CloudlessError):
            app.note(f"error: node/{node}: {answer.message}")
            if answer.remedy:
                app.note(f"hint: {answer.remedy}")
            code = code or answer.exit_code
            continue
        rows += [{"node": node} | output.plain(found) for found in answer]
    if format == "json":
        app.print(json.dumps({"items": rows}, indent=2))
    elif format == "yaml":
        app.print("---\n".join(map(output.to_yaml, rows)), end="")
    elif format == "name":
        for row in rows:
            app.print(row["reference"])
    else:
        cells = [[row["node"], row["reference"], row["digest"][:19], rough_bytes(row["sizeBytes"])] for row in rows]
        table.show(app, ["NODE", "IMAGE", "DIGEST", "SIZE"], cells, show_header=not no_headers)
    return code


def _lister(app: App, node: str) -> Callable[[], list[Any]]:
    request = control_pb2.ListImagesRequest(node_id=node)
    return lambda: list(app.client.call("Image", "ListImages", request).images)


image.add_command(import_)
image.add_command(list_)
