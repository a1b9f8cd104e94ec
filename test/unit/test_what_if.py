"""What would happen: what `plan` and `simulate` answer with, held to what then does happen."""

import pytest

from cloudless.coordinator.core import what_if
from cloudless.coordinator.core.commands import PutWorkload, UpdateNode
from cloudless.coordinator.core.scheduler.score import Weights
from cloudless.coordinator.core.what_if import Outlook, WhatIf
from cloudless.core.replacing import replace
from cloudless.core.spec import Metadata, Placement, Rollout, RolloutStrategy, SpreadConstraint
from cloudless.errors import NotFound, ResourceExhausted
from cloudless.testing.fabric_model import NAMESPACE, Fabric, device, service

SPREAD = Placement(spread=(SpreadConstraint("zone", 1),))


def ask(fabric: Fabric) -> WhatIf:
    return WhatIf(fabric.state, index=len(fabric.log), now_ms=fabric.now_ms, weights=Weights(), usage={})


def put(name: str, spec) -> PutWorkload:
    return PutWorkload(Metadata(name, NAMESPACE), spec)


@pytest.fixture
def fabric() -> Fabric:
    made = Fabric()
    for name in ("a", "b", "c"):
        made.join(name, info=device(cpu_millis=1000))
    made.put("web", service(replicas=3, cpu_millis=300, placement=SPREAD))
    made.settle()
    return made


def test_nothing_is_changed_by_asking(fabric):
    before = fabric.state
    asked = ask(fabric)
    asked.apply(put("web", service(replicas=5, cpu_millis=300, placement=SPREAD)))
    asked.forecast()
    assert fabric.state is before
    assert asked.state is not before


def test_more_replicas_are_starts_and_those_without_room_say_why(fabric):
    asked = ask(fabric)
    asked.apply(put("web", service(replicas=11, cpu_millis=300, placement=SPREAD)))
    forecast = asked.forecast()
    assert [step.change for step in forecast.steps] == ["start"] * 6 + ["pending"] * 2
    (row,) = forecast.outlooks
    assert (row.desired, row.placed_before, row.placed_after) == (11, 3, 9)
    assert row.message.startswith("2 replicas fit nowhere: no node fits: insufficient cpu on 3 nodes")


def test_a_new_version_replaces_each_replica(fabric):
    asked = ask(fabric)
    asked.apply(put("web", service(replicas=3, cpu_millis=300, image="web:2", placement=SPREAD)))
    forecast = asked.forecast()
    assert sorted(step.change for step in forecast.steps) == ["start"] * 3 + ["stop"] * 3
    assert {step.reason for step in forecast.steps if step.change == "stop"} == {"Replaced"}
    assert forecast.outlooks == (Outlook(NAMESPACE, "web", 3, 3, 3, 0),)


def test_what_happens_when_nodes_go_is_what_then_happens(fabric):
    asked = ask(fabric)
    asked.drop_nodes(["a"])
    forecast = asked.forecast()
    (step,) = forecast.steps
    assert (step.change, step.from_node, step.reason) == ("move", "a", "NodeLost")
    assert step.to_node in ("b", "c")
    assert asked.state.replicas[step.replica_id].stopping


def test_a_drain_moves_replicas(fabric):
    asked = ask(fabric)
    asked.apply(UpdateNode("b", draining=True))
    (step,) = asked.forecast().steps
    fabric.apply(UpdateNode("b", draining=True))
    fabric.settle()
    assert (step.change, step.from_node, step.reason) == ("move", "b", "NodeDraining")
    assert sorted(["a", "c", step.to_node]) == fabric.places("web")


def test_below_min_available_is_said(fabric):
    rollout = Rollout(strategy=RolloutStrategy.ROLLING_UPDATE, max_surge=1, min_available=2)
    fabric.put("web", service(replicas=3, cpu_millis=600, placement=SPREAD, rollout=rollout))
    fabric.settle()
    asked = ask(fabric)
    asked.drop_nodes(["a", "b"])
    (row,) = asked.forecast().outlooks
    assert row.placed_after == 1
    assert row.message.startswith("1 of at least 2 (minAvailable); 2 replicas fit nowhere")


def test_a_workload_that_nothing_happens_to_is_told_of_where_it_was_asked_for(fabric):
    asked = ask(fabric)
    asked.ask_for((NAMESPACE, "web"))
    assert asked.forecast() == what_if.Forecast((), (Outlook(NAMESPACE, "web", 3, 3, 3, 0),))


def test_a_refused_command_is_refused_here_too(fabric):
    with pytest.raises(NotFound):
        ask(fabric).apply(UpdateNode("nobody", draining=True))


def test_a_forecast_is_bounded(fabric, monkeypatch):
    monkeypatch.setattr(what_if, "PLANS_MAX", 3)
    asked = ask(fabric)
    for number in range(5):
        asked.apply(put(f"w{number}", service()))
    with pytest.raises(ResourceExhausted) as caught:
        asked.forecast()
    assert caught.value.reason == "ForecastTooLarge"


@pytest.mark.parametrize("replicas", [1, 4, 9])
@pytest.mark.parametrize("cpu_millis", [100, 400])
def test_the_forecast_of_a_new_workload_is_what_then_happens(fabric, replicas, cpu_millis):
    spec = service(replicas=replicas, cpu_millis=cpu_millis, image="db:1", placement=SPREAD)
    asked = ask(fabric)
    asked.apply(put("db", spec))
    placed = sorted(step.to_node for step in asked.forecast().steps if step.change == "start")
    fabric.put("db", spec)
    fabric.settle()
    assert placed == fabric.places("db")
    asked.state.validate()


def test_deleting_and_scaling_down_are_stops(fabric):
    asked = ask(fabric)
    asked.apply(put("web", replace(fabric.state.workloads[NAMESPACE, "web"].spec, replicas=1)))
    forecast = asked.forecast()
    assert [(step.change, step.reason) for step in forecast.steps] == [("stop", "Surplus")] * 2
