"""Lists of any kind: selectors, namespaces, pages. Written once; `kinds` says what differs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import heapq
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from cloudless.coordinator.core.state import State
from cloudless.coordinator.rpc.access import namespace_or_default
from cloudless.coordinator.rpc.call import Call
from cloudless.coordinator.rpc.kinds import Collection, Key
from cloudless.core import selectors
from cloudless.core.model import Role
from cloudless.core.selectors import Selector
from cloudless.errors import InvalidArgument, NotFound

T = TypeVar("T")

PAGE_SIZE_DEFAULT: Final = 500
PAGE_SIZE_MAX: Final = 1000
# A page also ends here, well below the limit of a message (4 MiB): one object may have a quarter of a megabyte.
PAGE_BYTES_MAX: Final = 3 * 2**20


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """What a list or watch asks for. `visible` says of a namespace whether the caller asked for it and may see it
    (always, for what is cluster-wide); `where` is the kind's own filter. `digest` ties page tokens to the question."""

    selector: Selector
    visible: Callable[[str], bool]
    where: Callable[[T], bool]
    digest: str

    def matches(self, collection: Collection[T], state: State, item: T) -> bool:
        return (
            self.visible(collection.namespace(item))
            and self.where(item)
            and self.selector.matches(collection.labels(state, item))
        )


@dataclass(frozen=True, slots=True)
class Page:
    """`items` are messages. `revision` is that of the first page, on every page: a watch from it misses nothing that
    changed while the pages were read."""

    items: tuple[Any, ...]
    next_page_token: str
    revision: int


def everything(_item: Any) -> bool:
    return True


def query(call: Call, options: Any, *, where: Callable[[Any], bool] = everything, asked: str = "") -> Query[Any]:
    """The question that `ListOptions` ask; `asked` spells the kind's own filters, for the page token. Raises
    InvalidArgument (BadSelector)."""
    namespace = namespace_or_default(options.namespace)
    every = bool(options.all_namespaces)

    def visible(of: str) -> bool:
        # The caller's bindings are read each time: they may change while a watch is open.
        return not of or (call.caller.may(Role.VIEWER, of) if every else of == namespace)

    spelled = json.dumps([options.label_selector, every or namespace, asked])
    return Query(
        selector=selectors.parse(options.label_selector),
        visible=visible,
        where=where,
        digest=hashlib.sha256(spelled.encode()).hexdigest()[:12],
    )


def unfiltered() -> Query[Any]:
    """Everything of a cluster-wide kind without labels."""
    return Query(selectors.EVERYTHING, lambda namespace: True, everything, "")


def page(
    collection: Collection[T],
    state: State,
    *,
    index: int,
    query: Query[T],
    page_size: int,
    page_token: str,
    render: Callable[[T], Any],
) -> Page:
    """One page, ordered by key, of what `render` makes of each item; fewer than asked for where they are large.

    A later page is read from the present state, after the last key of the page before: what is created or removed
    meanwhile may or may not appear, everything else appears exactly once.

    Raises InvalidArgument (BadPageToken, BadPageSize).
    """
    if page_size < 0 or page_size > PAGE_SIZE_MAX:
        raise InvalidArgument(f"page_size must be 0 to {PAGE_SIZE_MAX}", reason="BadPageSize")
    size = page_size or PAGE_SIZE_DEFAULT
    revision, last = decode_token(page_token, collection, query.digest) if page_token else (index, None)
    candidates = _matching(collection, state, query, last)
    # nsmallest is stable, bounded by the page, and sorts no more than it returns.
    chosen = heapq.nsmallest(size + 1, candidates, key=lambda pair: pair[0])
    messages: list[Any] = []
    size_bytes = 0
    for _, item in chosen[:size]:
        message = render(item)
        size_bytes += message.ByteSize()
        if messages and size_bytes > PAGE_BYTES_MAX:
            break
        messages.append(message)
    token = ""
    if len(chosen) > len(messages):
        token = encode_token(collection, query.digest, revision, chosen[len(messages) - 1][0])
    return Page(tuple(messages), token, revision)


def _matching(collection: Collection[T], state: State, query: Query[T], last: Key | None) -> Iterator[tuple[Any, T]]:
    for item in collection.table(state).values():
        key: Any = collection.key(item)
        if (last is None or key > last) and query.matches(collection, state, item):
            yield key, item


def encode_token(collection: Collection[Any], digest: str, revision: int, last: Key) -> str:
    """An opaque token: where the next page starts, for this kind and question."""
    fields = [collection.name, digest, revision, list(last) if isinstance(last, tuple) else last]
    return base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_token(token: str, collection: Collection[Any], digest: str) -> tuple[int, Key]:
    """(revision of the first page, last key of the page before). Raises InvalidArgument (BadPageToken)."""
    bad = InvalidArgument(
        "the page token is not one that this list gave out",
        reason="BadPageToken",
        remedy="start again without a page token; keep the filters the same from page to page",
    )
    try:
        fields = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        name, asked, revision, last = fields
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise bad from None
    # Anybody can write one: what does not fit the kind's keys or a message's numbers must not get further.
    if name != collection.name or asked != digest or type(revision) is not int or not 0 <= revision < 2**63:
        raise bad
    parts = [last] if collection.key_parts == 1 else last
    if not isinstance(parts, list) or len(parts) != collection.key_parts:
        raise bad
    if not all(isinstance(part, str) for part in parts):
        raise bad
    return revision, parts[0] if len(parts) == 1 else tuple(parts)


def by_prefix(collection: Collection[T], state: State, text: str, *, namespace: str = "") -> T:
    """The item whose id is `text` or the only one whose id starts with it. Raises NotFound, and InvalidArgument
    (AmbiguousPrefix)."""
    table = collection.table(state)
    exact = table.get(text)
    if exact is not None and collection.namespace(exact) == namespace:
        return exact
    found: list[T] = []
    if text:
        found = [
            item for key, item in table.items() if key.startswith(text) and collection.namespace(item) == namespace
        ]
    if len(found) == 1:
        return found[0]
    if found:
        names = sorted(str(collection.key(item)) for item in found)
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InvalidArgument(
            f"{text!r} is a prefix of {len(names)} {collection.name}s: {shown}",
            reason="AmbiguousPrefix",
            remedy="give more of the id",
        )
    where = f" in namespace {namespace}" if namespace else ""
    raise NotFound(f"{collection.name} {text!r} was not found{where}", reason=f"{collection.name.capitalize()}NotFound")
