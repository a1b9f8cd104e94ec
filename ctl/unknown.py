"""Commands that are not there: what was probably meant, or what there is instead of those that other systems have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

from cloudless.errors import CloudlessError, InvalidArgument

# Of `cloudlessctl`: commands that people rightly expect and this version has not, with another way.
_LATER: Final[Mapping[str, Mapping[str, str]]] = {
    "": {
        "annotate": "change the manifest's annotations and apply it",
        "attach": "`cloudlessctl logs -f` follows what it prints, `cloudlessctl exec -it` runs a shell beside it",
        "autoscale": "`cloudlessctl scale NAME --replicas COUNT` sets the number",
        "cp": "`cloudlessctl exec REPLICA -- cat FILE` reads a file, `cloudlessctl exec -i` with `tee` writes one",
        "diff": "`cloudlessctl plan -f FILE` says what would change, and where new replicas would go",
        "edit": "`cloudlessctl get workload/NAME -o yaml > FILE`, change it, then `cloudlessctl apply -f FILE`",
        "label": "`cloudlessctl node label` for nodes; of a workload, change the manifest and apply it",
        "patch": "`cloudlessctl get workload/NAME -o yaml > FILE`, change it, then `cloudlessctl apply -f FILE`",
        "port-forward": "a container's hostPort is reached at its node's address: `cloudlessctl get replicas -o wide`",
        "top": "`cloudlessctl describe node NAME` shows what is reserved and what is in use",
    },
}
# What a word of other systems is here; of several the first that the group has.
_MEANT: Final[Mapping[str, tuple[str, ...]]] = {
    "add": ("create", "put", "import"),
    "abort": ("undo", "rollout undo"),
    "cluster-info": ("cluster status",),
    "context": ("config get-contexts", "get-contexts"),
    "create": ("put", "apply"),
    "del": ("delete", "remove", "revoke"),
    "delete": ("remove", "revoke", "delete-context"),
    "get": ("list",),
    "dispatch": ("run",),
    "force": ("run",),
    "health": ("status", "cluster status"),
    "history": ("rollout history",),
    "info": ("status", "describe", "cluster status"),
    "inspect": ("describe", "status"),
    "list": ("get", "get-contexts"),
    "login": ("config import",),
    "ls": ("list", "get", "get-contexts"),
    "new": ("create", "put"),
    "pause": ("rollout pause",),
    "pods": ("get replicas",),
    "promote": ("rollout promote",),
    "ps": ("list", "get replicas"),
    "remove": ("delete", "revoke", "delete-context"),
    "restart": ("rollout restart",),
    "resume": ("rollout resume",),
    "revert": ("undo", "rollout undo"),
    "rm": ("delete", "remove", "revoke", "delete-context"),
    "rollback": ("undo", "rollout undo"),
    "set-context": ("use-context",),
    "show": ("describe", "list", "view", "status"),
    "status": ("describe", "cluster status"),
    "taint": ("node taint",),
    "trigger": ("run",),
    "undo": ("rollout undo",),
    "undrain": ("uncordon",),
    "unpause": ("resume", "rollout resume"),
    "whoami": ("user whoami",),
}
# Commands of two words that Kubernetes, Nomad and Swarm have, each with what does that here.
_ELSEWHERE: Final[Mapping[str, Mapping[str, str]]] = {
    "alloc": {"exec": "exec", "fs": "exec", "logs": "logs", "restart": "rollout restart", "status": "describe replica"},
    "create": {"cronjob": "apply -f FILE", "deployment": "apply -f FILE", "job": "run NAME", "token": "token create"},
    "deployment": {
        "fail": "rollout undo",
        "list": "get workloads",
        "pause": "rollout pause",
        "promote": "rollout promote",
        "resume": "rollout resume",
        "status": "rollout status",
        "unblock": "rollout promote",
    },
    "job": {
        "dispatch": "run NAME",
        "history": "rollout history",
        "inspect": "get workload NAME -o yaml",
        "periodic": "run NAME",
        "plan": "plan -f FILE",
        "promote": "rollout promote",
        "restart": "rollout restart",
        "revert": "rollout undo",
        "run": "apply -f FILE",
        "scale": "scale",
        "status": "describe workload",
        "stop": "delete workload",
        "validate": "apply --dry-run -f FILE",
    },
    "service": {
        "create": "apply -f FILE",
        "inspect": "describe workload",
        "logs": "logs",
        "ls": "get workloads",
        "ps": "get replicas",
        "rm": "delete workload",
        "rollback": "rollout undo",
        "scale": "scale",
        "update": "apply -f FILE",
    },
    "set": {"image": "apply -f FILE", "resources": "apply -f FILE"},
    "stack": {"deploy": "apply -f FILE", "ps": "get replicas", "rm": "delete workload", "services": "get workloads"},
}


def unknown_command(path: str, name: str, known: Sequence[str], *, followed_by: Sequence[str] = ()) -> CloudlessError:
    """The refusal of a command that a group does not have. `path` is the group's, as in `cloudlessctl rollout`;
    `known` are its commands; `followed_by` are the words after `name`."""
    group = path.partition(" ")[2]
    second = next((word for word in followed_by if not word.startswith("-")), "")
    elsewhere = "" if group else _ELSEWHERE.get(name, {}).get(second, "")
    if elsewhere:
        remedy = f"did you mean `{path} {elsewhere}`?"
        return InvalidArgument(f"there is no command '{name} {second}'", reason="Usage", remedy=remedy)
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
