"""Which replicas a word means: one by id or prefix, or those of a workload."""

from __future__ import annotations

from typing import Any

from cloudless.api.v1 import control_pb2
from cloudless.ctl import resources
from cloudless.ctl.app import App
from cloudless.ctl.arguments import usage
from cloudless.ctl.output import field_word
from cloudless.ctl.resources import Query
from cloudless.errors import CloudlessError, FailedPrecondition, InvalidArgument, NotFound


def of(app: App, word: str, *, verb: str, selector: str = "") -> tuple[list[Any], bool]:
    """The replicas that `ID`, `replica/ID` or `workload/NAME` means, and whether one was named by itself. `verb` is
    the command that asks, for the hint.

    Raises NotFound where there are none, InvalidArgument for a prefix of several.
    """
    if selector:
        found, _ = resources.REPLICA.items(app, Query(app.namespace, False, selector))
        return _some(found, f"{selector!r} selects no replicas"), False
    kind, slash, name = word.partition("/")
    if not slash:
        try:
            return [resources.REPLICA.get(app, word)], True
        except NotFound:
            found = _of_workload(app, word)
            if found:
                return found, False
            raise
        except InvalidArgument as ambiguous:
            if _is_workload(app, word):
                ambiguous.remedy = f"`cloudlessctl {verb} workload/{word}` means the workload; else give more of the id"
            raise
    resource = resources.find(kind)
    if resource is resources.REPLICA:
        return [resource.get(app, name)], True
    if resource is not resources.WORKLOAD:
        raise usage(f"{word} has no replicas", "name a replica, or workload/NAME")
    resource.get(app, name)
    return _some(_of_workload(app, name), f"workload/{name} has no replicas"), False


def one(app: App, word: str, *, verb: str) -> Any:
    """The replica to work in: the named one, else the first ready one of a workload. Raises FailedPrecondition."""
    found, single = of(app, word, verb=verb)
    if single:
        return found[0]
    running = [
        r for r in found if r.node_id and not r.stopping and field_word(r.status, "phase") in ("Ready", "Running")
    ]
    running.sort(key=lambda r: field_word(r.status, "phase") != "Ready")
    if not running:
        raise FailedPrecondition(
            f"{word}: none of its {len(found)} replicas runs",
            reason="ReplicaNotRunning",
            remedy=f"`cloudlessctl describe {word if '/' in word else f'workload {word}'}` tells why",
        )
    return running[0]


def _is_workload(app: App, name: str) -> bool:
    try:
        resources.WORKLOAD.get(app, name)
    except CloudlessError:  # not there, or not to be seen: either way no hint to give
        return False
    return True


def _of_workload(app: App, name: str) -> list[Any]:
    request = control_pb2.ListReplicasRequest(options=control_pb2.ListOptions(namespace=app.namespace), workload=name)
    items, _ = app.client.pages("Workload", "ListReplicas", request, "replicas")
    return items


def _some(found: list[Any], message: str) -> list[Any]:
    if not found:
        raise NotFound(message, reason="ReplicaNotFound", remedy="`cloudlessctl get replicas` lists them")
    return found
