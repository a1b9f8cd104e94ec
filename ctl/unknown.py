"""Commands that are not there: what was probably meant, or what there is instead of those that other systems have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

from cloudless.errors import CloudlessError, InvalidArgument

# Of `cloudlessctl` and its groups: commands that people rightly expect and this version has not, with another way.
_LATER: Final[Mapping[str, Mapping[str, str]]] = {
    "": {
        "annotate": "change the manifest's annotations and apply it",
        "attach": "`cloudlessctl logs -f` follows what it prints, `cloudlessctl exec -it` runs a shell beside it",
        "autoscale": "`cloudlessctl scale NAME --replicas COUNT` sets the number",
        "cp": "`cloudlessctl exec REPLICA -- cat FILE` reads a file, `cloudlessctl exec -i` with `tee` writes one",
        "diff": "`cloudlessctl apply --dry-run=server -f FILE` says which workloads would change",
        "edit": "`cloudlessctl get workload/NAME -o yaml > FILE`, change it, then `cloudlessctl apply -f FILE`",
        "label": "`cloudlessctl node label` for nodes; of a workload, change the manifest and apply it",
        "patch": "`cloudlessctl get workload/NAME -o yaml > FILE`, change it, then `cloudlessctl apply -f FILE`",
        "port-forward": "a container's hostPort is reached at its node's address: `cloudlessctl get replicas -o wide`",
        "top": "`cloudlessctl describe node NAME` shows what is reserved and what is in use",
    },
    "rollout": {
        "history": "`cloudlessctl events --for workload/NAME` shows what changed and when",
        "pause": "",
        "promote": "",
        "resume": "",
        "undo": "apply the earlier manifest again",
    },
}
# What a word of other systems is here; of several the first that the group has.
_MEANT: Final[Mapping[str, tuple[str, ...]]] = {
    "add": ("create", "put", "import"),
    "cluster-info": ("cluster status",),
    "context": ("config get-contexts", "get-contexts"),
    "create": ("put", "apply"),
    "del": ("delete", "remove", "revoke"),
    "delete": ("remove", "revoke", "delete-context"),
    "get": ("list",),
    "health": ("status", "cluster status"),
    "info": ("status", "describe", "cluster status"),
    "inspect": ("describe", "status"),
    "list": ("get", "get-contexts"),
    "login": ("config import",),
    "ls": ("list", "get", "get-contexts"),
    "new": ("create", "put"),
    "pods": ("get replicas",),
    "ps": ("list", "get replicas"),
    "remove": ("delete", "revoke", "delete-context"),
    "restart": ("rollout restart",),
    "rm": ("delete", "remove", "revoke", "delete-context"),
    "run": ("apply",),
    "set-context": ("use-context",),
    "show": ("describe", "list", "view", "status"),
    "status": ("describe", "cluster status"),
    "taint": ("node taint",),
    "undrain": ("uncordon",),
    "whoami": ("user whoami",),
}


def unknown_command(path: str, name: str, known: Sequence[str]) -> CloudlessError:
    """The refusal of a command that a group does not have. `path` is the group's, as in `cloudlessctl rollout`;
    `known` are its commands."""
    group = path.partition(" ")[2]
    later = _LATER.get(group, {})
    if name in later:
        full = f"{group} {name}" if group else name
        return InvalidArgument(f"`{full}` is not in this version", reason="NotInThisVersion", remedy=later[name])
    found = [meant for meant in _MEANT.get(name, ()) if meant in known or (" " in meant and not group)]
    found = found or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not found and len(known) == 1:
        found = list(known)
    if found:
        remedy = f"did you mean `{path} {found[0]}`?"
    else:
        remedy = f"see `{path} --help`" if not group else f"it has {', '.join(known)}"
    there = f"`{path}` has no command {name!r}" if group else f"there is no command {name!r}"
    return InvalidArgument(there, reason="Usage", remedy=remedy)
