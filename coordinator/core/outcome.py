"""What an entry of the log led to: the answer to its proposer and the list of objects that changed."""

from __future__ import annotations

from typing import Literal

from cloudless.core.quick import quick_frozen

ObjectKind = Literal["node", "workload", "replica", "token", "user", "coordinator"]


@quick_frozen
class ApplyResult:
    """The answer to the proposer; the shape of `log.proto`'s ApplyResult.

    Accepted: `revision` is the revision of the object that the command is about and `changed` says created,
    updated, unchanged or deleted. Refused: `code` is the word of a class in `cloudless.errors`, `reason` the
    CamelCase case, `message` the cause and `remedy` the next step (or empty), both for people, and the state is
    as it was.
    """

    accepted: bool = False
    code: str = ""
    message: str = ""
    revision: int = 0
    changed: str = ""
    reason: str = ""
    remedy: str = ""


@quick_frozen
class RememberedResult:
    """The first answer to a request id, given again to each repeat. `index` is where it was applied."""

    request_id: str = ""
    index: int = 0
    result: ApplyResult = ApplyResult()


@quick_frozen
class Change:
    """An object that an entry made, altered or deleted. It tells what to look at again, not what changed.

    `key` is the id or name; `namespace` is empty for cluster-wide kinds; `workload` names the owner of a
    replica, which is still known when the replica itself is gone. `metadata_only`: of a workload of which nothing but
    its labels and annotations changed.
    """

    kind: ObjectKind
    key: str
    namespace: str = ""
    deleted: bool = False
    workload: str = ""
    metadata_only: bool = False
