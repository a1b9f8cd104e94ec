"""`delete`: workloads, tokens, users and nodes, by name or by manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from cloudless.api.v1 import control_pb2
from cloudless.ctl import manifests, options, resources, waiting
from cloudless.ctl.app import App
from cloudless.ctl.arguments import duration_ms, targets, usage
from cloudless.ctl.cli import command
from cloudless.ctl.client import gather
from cloudless.ctl.resources import Query
from cloudless.errors import CloudlessError, NotFound

LINES_MAX: Final = 50


@command("delete")
@click.argument("what", nargs=-1, metavar="[TYPE NAME... | TYPE/NAME...]", shell_complete=options.complete_targets)
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Delete what is in manifests.",
              type=click.Path(allow_dash=True))  # fmt: skip
@click.option("-R", "--recursive", is_flag=True, help="Look into folders of folders, too.")
@options.selector
@click.option("--all", "every", is_flag=True, help="All workloads of the namespace.")
@click.option("--force", is_flag=True, help="Remove a node although replicas are assigned to it.")
@options.ignore_not_found
@click.option("--wait", is_flag=True, help="Block until workloads and their replicas are gone.")
@options.timeout("2m")
def delete(app: App, what: tuple[str, ...], files: tuple[str, ...], **flags: Any) -> int:
    """Delete workloads, tokens, users or nodes."""
    return run(app, what, files=files, **flags)


def run(
    app: App,
    what: tuple[str, ...],
    *,
    files: tuple[str, ...] = (),
    recursive: bool = False,
    selector: str = "",
    every: bool = False,
    force: bool = False,
    ignore_not_found: bool = False,
    wait: bool = False,
    timeout: str = "2m",
) -> int:
    """What `delete` does, for the noun-first commands too."""
    timeout_ms = duration_ms(timeout, "--timeout")
    if files and what:
        raise usage("either names or -f, not both")
    if files:
        found = manifests.read(app, files, recursive=recursive)
        keys = [manifest.key for manifest in found]
        jobs = [(f"workload/{name}", _workload(app, namespace, name)) for namespace, name in keys]
    else:
        keys, jobs = _named(app, what, selector=selector, every=every, force=force)
    namespaces = {f"workload/{name}": namespace for namespace, name in keys}
    code = _run(app, jobs, ignore_not_found=ignore_not_found, namespaces=namespaces)
    if wait:
        for key in keys:
            waiting.gone(app, key, timeout_ms=timeout_ms)
    return code


Job = tuple[str, Callable[[], Any]]


def _named(
    app: App, what: tuple[str, ...], *, selector: str, every: bool, force: bool
) -> tuple[list[tuple[str, str]], list[Job]]:
    namespace = app.namespace
    if selector or every:
        if len(what) != 1 or resources.find(what[0]) is not resources.WORKLOAD:
            raise usage("-l and --all go with `delete workloads`", "name the type alone")
        items, _ = resources.WORKLOAD.items(app, Query(namespace, False, selector))
        keys = [(namespace, item.metadata.name) for item in items]
        if not keys:
            app.note(f"no workloads in namespace {namespace}")
        return keys, [(f"workload/{name}", _workload(app, namespace, name)) for _, name in keys]
    keys, jobs = [], []
    for kind, name in targets(what):
        resource = resources.find(kind)
        if resource is resources.WORKLOAD:
            keys.append((namespace, name))
        jobs.append((f"{resource.singular}/{name}", _job(app, resource, name, namespace, force)))
    return keys, jobs


def _job(app: App, resource: resources.Resource, name: str, namespace: str, force: bool) -> Callable[[], Any]:
    if resource is resources.WORKLOAD:
        return _workload(app, namespace, name)
    if resource is resources.NODE:
        request = control_pb2.RemoveNodeRequest(id=name, force=force)
        return lambda: app.client.call("Node", "RemoveNode", request, write=True)
    if resource is resources.TOKEN:
        return lambda: app.client.call("Token", "RevokeToken", control_pb2.RevokeTokenRequest(id=name), write=True)
    if resource is resources.USER:
        return lambda: app.client.call("User", "RevokeUser", control_pb2.RevokeUserRequest(name=name), write=True)
    remedy = "scale or delete its workload" if resource is resources.REPLICA else ""
    raise usage(f"{resource.plural} cannot be deleted", remedy)


def _workload(app: App, namespace: str, name: str) -> Callable[[], Any]:
    request = control_pb2.DeleteWorkloadRequest(namespace=namespace, name=name)
    return lambda: app.client.call("Workload", "DeleteWorkload", request, write=True)


def _cause(name: str, error: CloudlessError, namespace: str) -> str:
    """What is not there is said as `get` says it; anything else names the thing first."""
    if not isinstance(error, NotFound):
        return f"{name}: {error.message}"
    kind, _, bare = name.partition("/")
    return f"{kind} {bare!r} was not found" + (f" in namespace {namespace}" if namespace else "")


def _run(app: App, jobs: list[Job], *, ignore_not_found: bool, namespaces: Mapping[str, str]) -> int:
    """Runs them side by side and says what became of each; the exit code of the first failure, or 0."""
    code = deleted = 0
    words = {"token": "revoked", "user": "revoked", "node": "removed"}
    for (name, _), outcome in zip(jobs, gather([job for _, job in jobs]), strict=True):
        if isinstance(outcome, CloudlessError):
            if isinstance(outcome, NotFound) and ignore_not_found:
                continue
            app.note(f"error: {_cause(name, outcome, namespaces.get(name, ''))}")
            if outcome.remedy:
                app.note(f"hint: {outcome.remedy}")
            code = code or outcome.exit_code
            continue
        deleted += 1
        if len(jobs) <= LINES_MAX:
            app.print(f"{name} {words.get(name.partition('/')[0], 'deleted')}")
    if len(jobs) > LINES_MAX:
        app.print(f"{deleted} deleted")
    return code
