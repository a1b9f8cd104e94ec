"""What the fabric did so far, as seen from outside: the one log, who led when, what agents were told, who was heard.

Everything is checked at the moment at which it happens. A check that fails is a failure of the run (`World.failures`),
for the callers are simulated processes, which must not go on as if it were an error of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloudless.coordinator.core import commands, snapshot
from cloudless.coordinator.core.assignments import assignments_for
from cloudless.coordinator.core.state import State
from cloudless.coordinator.engine import is_internal
from cloudless.coordinator.wal.record import LogEntry
from cloudless.core.model import Assignment, Event, NodeState
from cloudless.testing.sim import checks
from cloudless.testing.sim.lifecycle import Lifecycle
from cloudless.testing.sim.run_checks import RunChecks

if TYPE_CHECKING:
    from cloudless.testing.sim.agents import SimAgent
    from cloudless.testing.sim.world import World

GIVEN_UP: Final = (NodeState.UNREACHABLE, NodeState.LOST)
HEARD_MS_MAX: Final = 2_500  # heartbeats come each second; a session that is heard less is not good
# A session that broke may be re-made within one heartbeat, within two where there are others to dial; half a second
# goes by between two looks.
GAP_S_MAX: Final = 0.4
GAP_S_MAX_OF_SEVERAL: Final = 1.4
# A good node may be judged only on what was known before it was good, which may take a moment to be written.
UNREACHABLE_GRACE_S: Final = 6.0
LOST_GRACE_S: Final = 4.0
THOROUGHLY_EVERY: Final = 8  # entries; a state is checked against itself, which takes long

EventKey = tuple[int, int]


class Ledger:
    def __init__(self, world: World) -> None:
        self._world = world
        self._gap_s = GAP_S_MAX if world.profile.coordinators == 1 else GAP_S_MAX_OF_SEVERAL
        self.history = checks.History()
        self.entries: dict[int, tuple[int, bytes]] = {}  # index -> term, data
        self.states: dict[int, State] = {}
        self.last_index = 0
        self.events: list[EventKey] = []  # all that ever were, in their order
        self.counts: Counter[str] = Counter()  # of what happened, for people
        self._plans: dict[bytes, int] = {}  # what the leader's loops proposed: the term of the plan
        self._leaders: dict[int, str] = {}
        self._revisions: dict[str, int] = {}  # the newest assignments that each agent accepted
        self._placed: dict[str, dict[str, None]] = {}  # the nodes that each replica was ever assigned to
        self._fresh_entries = 0
        self._expected = (-1, "")
        self._lifecycle = Lifecycle(self.counts, self._pressed)
        self._runs = RunChecks()
        self._known: dict[str, _Spell] = {}  # connected to a coordinator that the leader hears
        self._connected: dict[str, _Spell] = {}  # connected to a coordinator of the majority

    def _pressed(self, node_id: str) -> bool:
        return any(agent.identity == node_id and bool(agent.pressure) for agent in self._world.devices())

    # The log

    def leads(self, name: str, term: int, leading: bool) -> None:
        if leading:
            self._world.note(f"{name} leads in term {term}")
            self.counts["terms"] += 1
            with self._world.checking():
                assert self._leaders.setdefault(term, name) == name, f"{name} and {self._leaders[term]} lead in {term}"

    def plans(self, data: bytes, term: int) -> None:
        self._plans[data] = term

    def applied(self, name: str, entry: LogEntry, host: Any) -> None:
        with self._world.checking():
            known = self.entries.get(entry.index)
            if known is not None:
                assert known == (entry.term, entry.data), f"{name} applied another entry {entry.index} than others"
                self.recovered(name, host.snapshot)
                return
            assert entry.index == self.last_index + 1 or not self.last_index, f"entry {entry.index} was left out"
            self.entries[entry.index] = (entry.term, entry.data)
            self.last_index = entry.index
            before = self.states.get(entry.index - 1)
            state: State = host.snapshot.state
            self.states[entry.index] = state
            self.history.add(round(self._world.loop.time(), 6), entry.index, entry.term)
            if not is_internal(entry.data):
                self._fresh(entry, before, state)

    def expect(self, index: int) -> None:
        """From now on who comes to this index again has to come to the state that was there."""
        self._expected = (index, snapshot.state_hash(self.states[index]))

    def recovered(self, name: str, found: Any) -> None:
        """A coordinator has come to this snapshot, from its disk or by entries that are known."""
        with self._world.checking():
            index, expected = self._expected
            if found.index == index:
                self.counts["states recovered"] += 1
                same = snapshot.state_hash(found.state) == expected
                assert same, f"the log gives {name} another state at entry {index} than the coordinators held"

    def _fresh(self, entry: LogEntry, before: State | None, state: State) -> None:
        """An entry that nobody has applied yet."""
        command = commands.decode(entry.data).command
        kind = type(command).__name__
        self.counts[kind] += 1
        judged = isinstance(command, commands.ReportNode) and command.state in GIVEN_UP
        if judged or isinstance(command, commands.ApplyPlan):
            term = self._plans.get(entry.data)
            assert term is not None, f"entry {entry.index} ({kind}) was proposed without a term"
            assert term == entry.term, f"entry {entry.index} ({kind}) was planned in term {term}, not {entry.term}"
        if isinstance(command, commands.ReportNode) and judged and state is not before:
            self.counts[f"judged {command.state}"] += 1
            self._judged(command)
        fresh: list[Event] = []
        for event in state.events.newest_first():
            if event.index < entry.index:
                break
            fresh.append(event)
        keys = [(event.index, event.sequence) for event in reversed(fresh)]
        assert keys == sorted(set(keys)), f"events of entry {entry.index} are numbered {keys}"
        self.events += keys
        if state is not before:
            self._world.note(f"{entry.index}: {kind} {_words(command)}")
            assert before is not None, f"nobody has the state before entry {entry.index}"
            if isinstance(command, commands.ApplyPlan):
                for planned in command.replicas:
                    replica = state.replicas.get(planned.replica_id)
                    if replica is not None and replica.node_id:
                        self._placed.setdefault(replica.id, {})[replica.node_id] = None
                self.counts["plans that roll back"] += command.roll_back
            checks.always(state, thoroughly=not self._fresh_entries % THOROUGHLY_EVERY)
            self._fresh_entries += 1
            planned_on = before
            if isinstance(command, commands.ApplyPlan):
                planned_on = self.states.get(command.planned_at_index, before)
            self._lifecycle.check(command, planned_on, before, state)
            self._runs.check(command, planned_on, before, state)

    # Nodes

    def look(self) -> None:
        """Now and then: what runs twice, and which nodes are connected so that the leader must know of them."""
        world = self._world
        with world.checking():
            checks.no_second_copy(world)
        now_s = world.loop.time()
        majority = world.majority()
        leader = world.leader()
        if leader is not None and leader.name not in majority:
            leader = None
        for agent in world.agents:
            connected = known = False
            for name in majority:
                hub = world.coordinators[name].hub
                session = hub._sessions.get(agent.name) if hub is not None else None
                if session is None or not agent.responsive:
                    continue
                if session.instance_id != f"{agent.process}":
                    self._taken(agent, session.instance_id)
                    continue
                age_ms = world.coordinators[name].clock.monotonic_ms() - session.heard_at_ms
                if age_ms > HEARD_MS_MAX or not world.both_ways(agent.name, name) or world.network.quality.loss:
                    continue
                connected = True
                known = known or (leader is not None and (name == leader.name or world.linked(name, leader.name)))
            if connected:
                self._connected[agent.name] = self._lasting(self._connected.get(agent.name), now_s)
            if known:
                self._known[agent.name] = self._lasting(self._known.get(agent.name), now_s)

    def _taken(self, agent: SimAgent, instance_id: str) -> None:
        """The session of a node is another process's than its own: a second device takes no identity of a first one
        that was connected all the time."""
        twin = self._world.twins.get(agent.name)
        if twin is None or f"{twin.process}" != instance_id:
            return
        self.counts["identities taken"] += 1
        now_s = self._world.loop.time()
        spell = self._connected.get(agent.name)
        if spell is None or now_s - spell.until_s > self._gap_s:
            return
        with self._world.checking():
            good_s = spell.until_s - spell.since_s
            assert good_s < LOST_GRACE_S, f"{twin.name} took the identity of {agent.name}, which was connected"

    def _judged(self, command: commands.ReportNode) -> None:
        now_s = self._world.loop.time()
        unreachable = command.state is NodeState.UNREACHABLE
        spell = (self._known if unreachable else self._connected).get(command.node_id)
        if spell is None or now_s - spell.until_s > self._gap_s:
            return
        good_s = spell.until_s - spell.since_s
        assert good_s < (UNREACHABLE_GRACE_S if unreachable else LOST_GRACE_S), (
            f"{command.node_id} was judged {command.state} ({command.reason}) {now_s - spell.until_s:.1f} s after "
            f"{good_s:.1f} s in which it was connected"
        )

    def _lasting(self, spell: _Spell | None, now_s: float) -> _Spell:
        if spell is None or now_s - spell.until_s > self._gap_s:
            return _Spell(now_s, now_s)
        return _Spell(spell.since_s, now_s)

    # Agents

    def assigned(self, agent: SimAgent, revision: int, assignments: Sequence[Assignment]) -> None:
        """An agent accepted what it was told."""
        node_id = agent.identity
        with self._world.checking():
            newest = self._revisions.get(agent.name, 0)
            assert revision >= newest, f"{agent.name} went back from revision {newest} to {revision}"
            self._revisions[agent.name] = revision
            self.counts["assignments"] += 1
            state = self.states.get(revision)
            assert state is not None, f"{node_id} was told of revision {revision}, which nobody has applied"
            wanted = {a.replica_id: (a.generation, a.stopping) for a in assignments_for(state, node_id)}
            told = {a.replica_id: (a.generation, a.stopping) for a in assignments}
            assert told == wanted, f"{node_id} was told {told} at revision {revision}, not {wanted}"

    def starts(self, agent: SimAgent, replica_id: str) -> None:
        """An agent makes its runtime start a replica: one that was assigned to this node, and to no other."""
        with self._world.checking():
            nodes = self._placed.get(replica_id, {})
            assert agent.identity in nodes, f"{agent.name} starts {replica_id}, which was assigned to {list(nodes)}"

    def stops(self, agent: SimAgent, replica_id: str, call: str) -> None:
        """An agent makes its runtime stop a replica."""
        node_id = agent.identity
        with self._world.checking():
            self.counts["stops"] += 1
            state = self.states.get(self.last_index)
            replica = None if state is None else state.replicas.get(replica_id)
            wanted = replica is not None and replica.node_id == node_id and not replica.stopping
            wanted = wanted and not agent.may_stop(replica_id)
            assert not wanted, f"{agent.name}: {call} of {replica_id}, which it shall run"


@dataclass(frozen=True, slots=True)
class _Spell:
    """Something was so, with short gaps, at least from one time until another."""

    since_s: float
    until_s: float


def _words(command: Any) -> str:
    if isinstance(command, commands.ReportNode):
        return f"{command.node_id} {command.state} {command.reason}"
    if isinstance(command, commands.ApplyPlan):
        placed = [f"{planned.replica_id}@{planned.placement.node_id}" for planned in command.replicas]
        stops = [f"{planned.replica_id}: {planned.reason}" for planned in command.stops]
        return f"{command.workload} at {command.planned_at_index}: {placed}, stops {stops}, lost {list(command.lost)}"
    if isinstance(command, commands.ReportReplicas):
        rows = [f"{r.replica_id} {'gone' if r.gone else r.status.phase}" for r in command.replicas]
        return f"{command.node_id} {rows}"
    if isinstance(command, commands.PutWorkload):
        return f"{command.metadata.name} {command.spec.replicas}"
    return repr(command)[:200]
