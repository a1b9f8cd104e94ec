"""Jobs and crons in a manifest: what is refused and why, and what is filled in."""

from dataclasses import replace

import pytest

from cloudless.core import defaults
from cloudless.core.spec import (
    Completion,
    ConcurrencyPolicy,
    Container,
    MissedRuns,
    RestartPolicy,
    RestartPolicyKind,
    Rollout,
    Schedule,
    WorkloadSpec,
    WorkloadType,
)
from cloudless.core.validation import validate_spec
from cloudless.manifest import Source, parse

JOB = WorkloadSpec(WorkloadType.JOB, 1, 50, (Container("main", image="busybox:1"),))
CRON = replace(JOB, type=WorkloadType.CRON, schedule=Schedule("*/5 * * * *"))
SERVICE = replace(JOB, type=WorkloadType.SERVICE)


def cron(**changes):
    return replace(CRON, schedule=replace(CRON.schedule, **changes))


@pytest.mark.parametrize("spec", [JOB, CRON, replace(JOB, completion=Completion(5, 20, 1000, 1000))])
def test_well_formed(spec):
    assert validate_spec(spec) == ()
    filled = defaults.spec_of(spec)
    assert validate_spec(filled) == ()
    assert defaults.spec_of(filled) == filled


@pytest.mark.parametrize(
    ("spec", "path", "message", "remedy"),
    [
        (replace(SERVICE, schedule=Schedule("* * * * *")), "spec.schedule", "only the type cron", "type: cron"),
        (replace(JOB, schedule=Schedule("* * * * *")), "spec.schedule", "only the type cron", "type: cron"),
        (replace(SERVICE, completion=Completion(1)), "spec.completion", "only the types job and cron", "type: job"),
        (replace(CRON, schedule=None), "spec.schedule", "when it is due", "*/5 * * * *"),
        (cron(cron=""), "spec.schedule.cron", "when it is due", "*/5 * * * *"),
        (cron(cron="61 * * * *"), "spec.schedule.cron", "'61' is no minute (field 1)", "0-59"),
        (cron(cron="* * * * * *"), "spec.schedule.cron", "6 fields, not 5", "leave the seconds out"),
        (cron(time_zone="Europe/Berln"), "spec.schedule.timeZone", "is no time zone", "'Europe/Berlin'"),
        (cron(time_zone="europe/berlin"), "spec.schedule.timeZone", "is no time zone", "'Europe/Berlin'"),
        (cron(time_zone="Berlin"), "spec.schedule.timeZone", "is no time zone", "'Europe/Berlin'"),
        (cron(time_zone="New York"), "spec.schedule.timeZone", "is no time zone", "'America/New_York'"),
        (cron(time_zone="qqqqqq"), "spec.schedule.timeZone", "is no time zone", "IANA"),
        (cron(history=51), "spec.schedule.history", "51 is out of range", "0 to 50"),
        (cron(missed=MissedRuns.RUN_ALL, concurrency=ConcurrencyPolicy.REPLACE), "spec.schedule.missed",
         "each end the one before", "RunOnce"),
        (replace(CRON, completion=Completion(ttl_after_finished_ms=5)), "spec.completion.ttlAfterFinished",
         "not deleted", "history"),
        (replace(JOB, completion=Completion(parallelism=-1)), "spec.completion.parallelism", "out of range", "0 to"),
        (replace(JOB, completion=Completion(completions=10**6)), "spec.completion.completions", "out of range", "0 to"),
        (replace(JOB, completion=Completion(active_deadline_ms=-5)), "spec.completion.activeDeadline", "negative",
         "30s"),
        (replace(JOB, restart_policy=RestartPolicy(RestartPolicyKind.ALWAYS)), "spec.restartPolicy.policy",
         "never ends", "OnFailure or Never"),
        (replace(JOB, replicas=3), "spec.replicas", "no replicas of its own", "parallelism"),
        (replace(CRON, rollout=Rollout(max_surge=2)), "spec.rollout", "has no rollout", "remove it"),
        (replace(JOB, rollout=Rollout(max_surge=1, min_available=1)), "spec.rollout", "has no rollout", "remove it"),
    ],
)  # fmt: skip
def test_refused(spec, path, message, remedy):
    (violation,) = [v for v in validate_spec(spec) if v.path == path]
    assert message in violation.message
    assert remedy in violation.remedy
    assert [v.path for v in validate_spec(defaults.spec_of(spec)) if v.path == path] == [path], "with defaults, too"


def test_defaults():
    filled = defaults.spec_of(CRON)
    assert filled.schedule == Schedule(
        "*/5 * * * *", "UTC", ConcurrencyPolicy.FORBID, MissedRuns.RUN_ONCE, history=3, suspend=False
    )
    assert filled.completion == Completion(1, 1, 0, 0)
    assert filled.rollout == Rollout()
    assert (filled.restart_policy.policy, filled.restart_policy.max_retries) == (RestartPolicyKind.ON_FAILURE, 6)
    never = replace(JOB, restart_policy=RestartPolicy(RestartPolicyKind.NEVER, 2))
    filled = defaults.spec_of(never)
    assert (filled.restart_policy.policy, filled.restart_policy.max_retries) == (RestartPolicyKind.NEVER, 2)
    assert filled.schedule is None


def test_other_workloads_are_filled_in_as_ever():
    filled = defaults.spec_of(SERVICE)
    assert (filled.schedule, filled.completion) == (None, None)
    assert filled.rollout == defaults.ROLLOUT
    assert filled.restart_policy.policy is RestartPolicyKind.ALWAYS


MANIFEST = """\
apiVersion: cloudless.dev/v1
kind: Workload
metadata: {name: backup}
spec:
  type: cron
  containers:
    - name: main
      image: busybox:1
  schedule: {cron: "30 2 * * *", timeZone: Europe/Berlin, concurrency: Replace, missed: Skip, history: 5, suspend: true}
  completion: {parallelism: 2, completions: 4, activeDeadline: 1h}
"""


def test_a_manifest():
    parsed = parse([Source("backup.yaml", MANIFEST)])
    assert parsed.problems == ()
    spec = parsed.manifests[0].spec
    assert spec.schedule == Schedule(
        "30 2 * * *", "Europe/Berlin", ConcurrencyPolicy.REPLACE, MissedRuns.SKIP, 5, suspend=True
    )
    assert spec.completion == Completion(2, 4, 0, 3_600_000)


def test_a_manifest_that_is_wrong_names_the_line():
    text = MANIFEST.replace("30 2 * * *", "30 25 * * *").replace("Europe/Berlin", "Europe/Brlin")
    found = [str(p) for p in parse([Source("backup.yaml", text)]).problems]
    assert len(found) == 2
    assert all(":9" in line for line in found), found
    assert "'25' is no hour (field 2)" in found[0]
    assert "did you mean 'Europe/Berlin'?" in found[1]
