"""`python -m cloudless.testing.store_writer DIR`: writes through the store until it is killed.

It prints `ready INDEX`, then `ack INDEX REQUEST_ID` after each acknowledged write, and `refused CODE` for one that
was refused. For proofs with real processes: see `cloudless.testing.kill`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
from pathlib import Path

from cloudless.clock import SystemClock
from cloudless.config import LogConfig, StoreConfig
from cloudless.coordinator.core.commands import PutUser
from cloudless.coordinator.core.state import State
from cloudless.coordinator.store import Store
from cloudless.coordinator.wal.machine import FabricMachine
from cloudless.core.model import Role, RoleBinding, User
from cloudless.errors import CloudlessError
from cloudless.observe.log import configure

TRUST_DOMAIN = "kill.test"


def say(line: str) -> None:
    # One write to the pipe per line: a killed process leaves whole lines, or a last one without its end.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def write(store: Store[State], run: str, numbers: itertools.count[int], limit: int, names: int) -> None:
    for number in numbers:
        if limit and number >= limit:
            return
        request_id = f"{run}-{number}"
        user = User(f"u{number % names}", (RoleBinding(Role.VIEWER, f"n{number}"),))
        try:
            await store.propose(PutUser(user), actor="user/writer", request_id=request_id)
        except CloudlessError as error:
            say(f"refused {error.code} {error}")
            await asyncio.sleep(0.01)
        else:
            say(f"ack {store.snapshot.state.results[request_id].index} {request_id}")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--run", default="r", help="prefix of the request ids")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--limit", type=int, default=0, help="writes before a clean end; 0: for ever")
    parser.add_argument("--names", type=int, default=200)
    parser.add_argument("--snapshot-entries", type=int, default=300)
    parser.add_argument("--segment-bytes", type=int, default=16 * 2**20)
    options = parser.parse_args()
    configure(LogConfig(), "store-writer")
    store = await Store.open(
        options.directory,
        machine=FabricMachine(TRUST_DOMAIN),
        clock=SystemClock(),
        config=StoreConfig(snapshot_entries=options.snapshot_entries, segment_bytes=options.segment_bytes),
        random_bits=random.SystemRandom().getrandbits,
    )
    say(f"ready {store.snapshot.index}")
    numbers = itertools.count()
    writers = (write(store, options.run, numbers, options.limit, options.names) for _ in range(options.in_flight))
    await asyncio.gather(*writers)
    await store.close()
    say("done")


if __name__ == "__main__":
    asyncio.run(main())
