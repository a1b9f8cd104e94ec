"""A steady stream of writes on a fabric of several coordinators, and the proof that none was lost or done twice.

writers = Writers(fabric)
...                                  # faults, changes of the members, backups
writers.wait_for_more()              # they go on
writers.stop()
writers.check_all_kept(fabric)       # no failed write; every acknowledged one is on every coordinator, once
"""

from __future__ import annotations

import random
import threading
import time
import uuid

from cloudless import contexts
from cloudless.api.v1 import control_pb2
from cloudless.clock import SystemClock
from cloudless.ctl.client import Client
from cloudless.dev.fabric import LocalFabric
from cloudless.errors import CloudlessError, Unavailable

WRITERS = 6
PAUSE_S = 0.02
WRITE_TIMEOUT_MS = 120_000


class Writers:
    """Threads with a client of the CLI's each, which write until they are stopped. Each write makes a join token of a
    node pattern of its own, so that a repeat that had a second effect is seen.

    `acknowledged`: id and node pattern of each token whose creation was acknowledged, in the order of the answers.
    `failed`: what clients gave up with. `follow`: the clients take over the addresses that they are told, as the CLI
    does; otherwise they know those of the fabric's context for good.
    """

    def __init__(self, fabric: LocalFabric, *, count: int = WRITERS, follow: bool = False) -> None:
        context = contexts.load(fabric.context_file).get()
        self.acknowledged: dict[str, str] = {}
        self.failed: list[CloudlessError] = []
        self.outage = False  # every coordinator may be down at once, for longer than a client waits for one to answer
        self._stop = threading.Event()
        self._clients = [
            Client(
                random.sample(context.coordinators, len(context.coordinators)),
                credentials=context.credentials(),
                clock=SystemClock(),
                timeout_ms=WRITE_TIMEOUT_MS,
                new_request_id=lambda: str(uuid.uuid4()),
                on_learnt=(lambda _: None) if follow else None,
            )
            for _ in range(count)
        ]
        self._threads = [
            threading.Thread(target=self._write, args=(number, client), daemon=True)
            for number, client in enumerate(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, number: int, client: Client) -> None:
        run = uuid.uuid4().hex[:8]
        count = 0
        while not self._stop.is_set():
            pattern = f"w{number}-{run}-{count}"
            count += 1
            try:
                answer = client.call(
                    "Token", "CreateToken", control_pb2.CreateTokenRequest(node_pattern=pattern), write=True
                )
            except CloudlessError as error:
                if not (self.outage and isinstance(error, Unavailable)):
                    self.failed.append(error)
                continue
            self.acknowledged[answer.token.id] = pattern
            time.sleep(PAUSE_S)

    def wait_for_more(self, count: int = 30, timeout_s: float = 60.0) -> None:
        """Until so many more writes are acknowledged. Raises AssertionError when they do not come."""
        enough = len(self.acknowledged) + count
        ends = time.monotonic() + timeout_s
        while len(self.acknowledged) < enough:
            assert time.monotonic() < ends, f"writes stopped: {self.failed[-1:]}"
            time.sleep(0.01)

    def ask_to_stop(self) -> None:
        """No further writes; returns at once."""
        self._stop.set()

    def stop(self) -> None:
        """Returns when the writes under way are answered, too."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WRITE_TIMEOUT_MS / 1000 + 10)
            assert not thread.is_alive()
        for client in self._clients:
            client.close()

    def check_all_kept(self, fabric: LocalFabric, *, hint: str = "", timeout_s: float = 60.0) -> None:
        """To be called behind `stop`: no client gave up, the coordinators that run hold one state, and on each of them
        every acknowledged write is there exactly once. Raises AssertionError, with `hint` in front."""
        assert self.failed == [], f"{hint}{len(self.failed)} writes failed: {self.failed[-1]}"
        wait_for_one_state(fabric, timeout_s=timeout_s)
        for name in fabric.coordinators():
            stored = tokens_by_pattern(fabric, name)
            missing = {key for key, pattern in self.acknowledged.items() if key not in stored.get(pattern, ())}
            assert not missing, f"{hint}{len(missing)} acknowledged writes are not on {name}"
            doubled = {pattern: ids for pattern, ids in stored.items() if len(ids) > 1}
            assert not doubled, f"{hint}repeated writes had a second effect on {name}: {doubled}"


def wait_for_one_state(fabric: LocalFabric, *, timeout_s: float = 60.0) -> str:
    """Until all coordinators that run hold the same state at the same entry; returns its hash."""

    def same() -> str:
        said = {(s.applied_index, s.state_hash) for s in map(fabric.status, fabric.coordinators())}
        return said.pop()[1] if len(said) == 1 else ""

    return str(fabric.wait_for(same, what="one state everywhere", timeout_s=timeout_s, retry=(CloudlessError,)))


def tokens_by_pattern(fabric: LocalFabric, coordinator_id: str = "") -> dict[str, list[str]]:
    """Ids of the nodes' join tokens by node pattern, as this coordinator tells them, or the first that answers."""
    found: dict[str, list[str]] = {}
    request = control_pb2.ListTokensRequest(page_size=1000)
    while True:
        answer = fabric.call("TokenService", "ListTokens", request, coordinator_id=coordinator_id)
        for token in (t for t in answer.tokens if not t.coordinator_id):
            found.setdefault(token.node_pattern, []).append(token.id)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
