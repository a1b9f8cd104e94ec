"""Manifests from files, folders and stdin: all of them, or every problem and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from cloudless.manifest import Manifest, Source

SUFFIXES: Final = (".yaml", ".yml", ".json")
PROBLEMS_SHOWN: Final = 100


def read(app: App, files: Sequence[str], *, recursive: bool) -> tuple[Manifest, ...]:
    """The workloads of all files. Prints every problem and raises InvalidArgument when there is one."""
    from cloudless.manifest import parse

    if not files:
        raise usage("no manifest is named", "name files or folders with -f, or - for stdin")
    sources = list(_sources(files, recursive))
    # Where every manifest says its namespace, no context is needed to read them.
    parsed = parse(sources, namespace=app.settings.text("namespace", "CLOUDLESS_NAMESPACE") or _namespace(app))
    problems = list(parsed.problems)
    wanted = app.explicit_namespace
    if wanted and not problems:
        for manifest in parsed.manifests:
            if manifest.metadata.namespace != wanted:
                raise InvalidArgument(
                    f"{manifest.file}:{manifest.line}: the manifest is for namespace "
                    f"{manifest.metadata.namespace!r}, -n says {wanted!r}",
                    remedy="leave out -n, or the manifest's namespace",
                )
    if problems:
        for problem in problems[:PROBLEMS_SHOWN]:
            app.note(str(problem))
        if len(problems) > PROBLEMS_SHOWN:
            app.note(f"... and {len(problems) - PROBLEMS_SHOWN} more")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InvalidArgument(f"{count} in the manifests; nothing was applied", reason="BadManifest")
    if not parsed.manifests:
        raise InvalidArgument(f"there is no manifest in {', '.join(files)}", reason="BadManifest")
    return parsed.manifests


def _namespace(app: App) -> str:
    try:
        return app.context.namespace
    except NotFound:
        return "default"


def _sources(files: Sequence[str], recursive: bool) -> Iterator[Source]:
    from cloudless.manifest import Source

    for name in files:
        if name == "-":
            yield Source("stdin", sys.stdin.buffer.read())
            continue
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in (path.rglob("*") if recursive else path.glob("*")) if p.suffix in SUFFIXES)
            if not found:
                deeper = "" if recursive else ", or use -R to look into its folders"
                raise InvalidArgument(
                    f"{name} holds no manifests", remedy=f"put files that end in {', '.join(SUFFIXES)} there{deeper}"
                )
            yield from (Source(str(p), _bytes(p)) for p in found if p.is_file())
        else:
            yield Source(name, _bytes(path))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidArgument(f"{path} does not exist", remedy="check the path") from None
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
