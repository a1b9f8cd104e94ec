"""Settings: one definition, four sources, clear refusals."""

from pathlib import Path

import pytest
import yaml

from cloudless import config
from cloudless.config import AgentConfig, CoordinatorConfig
from cloudless.errors import InvalidArgument

ROOT = Path(__file__).parents[2]


def test_flag_wins_over_environment_over_file_over_default(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("listen: {api: 'a:1', enroll: 'b:1'}\nsession: {heartbeat_interval: 250ms}\n")
    loaded = config.load(
        CoordinatorConfig,
        "p",
        ["--config", str(file), "--listen-api", "flag:1"],
        {"CLOUDLESS_LISTEN_API": "env:1", "CLOUDLESS_LISTEN_ENROLL": "env:2"},
    )
    assert loaded.listen.api == "flag:1"
    assert loaded.listen.enroll == "env:2"
    assert loaded.session.heartbeat_interval_ms == 250
    assert loaded.session.heartbeat_misses == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: {apo: x}", "unknown setting listen.apo"),
        ("session: {heartbeat_interval: soon}", "duration"),
        ("session: 3", "must be a mapping"),
        ("a: [", "c.yaml"),
        ("[" * 20_000, "c.yaml: values are nested too deeply"),
        ("a: 2020-99-99", "c.yaml"),
    ],
)
def test_bad_files_name_the_setting(tmp_path, text, expected):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=expected):
        config.load(CoordinatorConfig, "p", ["--config", str(file)], {})


def test_a_label_without_a_value_is_named():
    with pytest.raises(InvalidArgument, match="--labels: 'b' is not KEY=VALUE"):
        config.load(AgentConfig, "p", ["--labels", "a=1,b"], {})


def test_lists_maps_and_paths():
    loaded = config.load(
        AgentConfig, "p", ["--labels", "a=b,c=d", "--coordinators", "h:1, g:2", "--data-dir", "/x"], {}
    )
    assert loaded.labels == {"a": "b", "c": "d"}
    assert loaded.coordinators == ("h:1", "g:2")
    assert loaded.data_dir == Path("/x")


@pytest.mark.parametrize("cls", [CoordinatorConfig, AgentConfig])
def test_the_example_file_is_the_defaults(tmp_path, cls):
    file = tmp_path / "example.yaml"
    file.write_text(config.example(cls))
    assert yaml.safe_load(file.read_text())
    assert config.load(cls, "p", ["--config", str(file)], {}) == cls()


@pytest.mark.parametrize(("name", "cls"), [("coordinator", CoordinatorConfig), ("agent", AgentConfig)])
def test_committed_example_files_are_current(name, cls):
    assert (ROOT / "config" / f"{name}.example.yaml").read_text() == config.example(cls), "run: make docs"


def test_paths_are_made_absolute_and_an_empty_one_stays_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.yaml"
    file.write_text("join_token_file: there/join.jwt\n")
    loaded = config.load(AgentConfig, "p", ["--data-dir", "here", "--config", "a.yaml"], {})
    assert loaded.data_dir == tmp_path / "here"
    assert loaded.join_token_file == tmp_path / "there/join.jwt"
    assert config.load(AgentConfig, "p", ["--join-token-file="], {}).join_token_file == Path()


def test_coordinator_and_agent_share_a_machine_by_default():
    assert CoordinatorConfig().metrics.listen == "127.0.0.1:9090"
    assert AgentConfig().metrics.listen == "127.0.0.1:9092"


@pytest.mark.parametrize(
    ("cls", "setting", "value"),
    [
        (CoordinatorConfig, "listen-api", "nonsense"),
        (CoordinatorConfig, "listen-api", ""),
        (CoordinatorConfig, "listen-enroll", "host:99999"),
        (CoordinatorConfig, "listen-advertise", "a:1,b:x"),
        (CoordinatorConfig, "listen-advertise-enroll", "a b:1"),
        (CoordinatorConfig, "listen-names", "good.example,-bad-"),
        (CoordinatorConfig, "id", "a/b"),
        (CoordinatorConfig, "identity-trust-domain", "Not A Domain"),
        (CoordinatorConfig, "identity-token-ttl", "0s"),
        (CoordinatorConfig, "identity-node-certificate-ttl", "0s"),
        (CoordinatorConfig, "store-engine", "x"),
        (CoordinatorConfig, "store-segment", "0"),
        (CoordinatorConfig, "store-snapshot-entries", "0"),
        (CoordinatorConfig, "session-heartbeat-interval", "0s"),
        (CoordinatorConfig, "session-heartbeat-misses", "-1"),
        (CoordinatorConfig, "scheduler-weight-cost", "-0.1"),
        (CoordinatorConfig, "scheduler-weight-cost", "nan"),
        (CoordinatorConfig, "scheduler-weight-cost", "inf"),
        (CoordinatorConfig, "log-level", "loud"),
        (CoordinatorConfig, "log-format", "xml"),
        (CoordinatorConfig, "metrics-listen", "9090"),
        (CoordinatorConfig, "tracing-sample-ratio", "1.5"),
        (AgentConfig, "node-name", "Pi_1"),
        (AgentConfig, "coordinators", "a:8443,b"),
        (AgentConfig, "coordinators", "a:0"),
        (AgentConfig, "device-class", "toaster"),
        (AgentConfig, "owner-share", "1.1"),
        (AgentConfig, "owner-share", "-1"),
        (AgentConfig, "runtime-names", "containerd,docker"),
        (AgentConfig, "runtime-bridge", "a-name-of-16-chr"),
        (AgentConfig, "runtime-bridge", "a/b"),
        (AgentConfig, "runtime-subnet", "10.88.0.0/31"),
        (AgentConfig, "runtime-subnet", "10.88.0.1/24"),
        (AgentConfig, "runtime-process-address", "localhost"),
        (AgentConfig, "runtime-log-max", "0"),
        (AgentConfig, "runtime-cgroup-prefix", "../x"),
        (AgentConfig, "runtime-cgroup-prefix", ""),
        (AgentConfig, "runtime-containerd-namespace", "a/b"),
        (AgentConfig, "labels", "a b=c"),
    ],
)
def test_each_setting_refuses_what_it_cannot_mean(cls, setting, value):
    with pytest.raises(InvalidArgument, match=f"^--{setting}: ") as refused:
        config.load(cls, "p", [f"--{setting}={value}"], {})
    assert refused.value.reason == "BadSetting"


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (
            CoordinatorConfig,
            [
                "--listen-api=[::1]:0",
                "--listen-advertise=pi.local,192.0.2.1:0,[2001:db8::1]:8443,2001:db8::1",
                "--listen-names=pi.local,*.example.org,192.0.2.1,2001:db8::1",
                "--metrics-listen=",
            ],
        ),
        (
            AgentConfig,
            [
                "--coordinators=pi.local:8443,[::1]:1",
                "--owner-share=0.5",
                "--owner-cpu=0",
                "--owner-memory=0",
                "--runtime-names=",
                "--runtime-process-address=::1",
                "--runtime-cgroup-prefix=a.slice/b",
                "--node-name=",
                "--device-class=",
            ],
        ),
    ],
)
def test_what_settings_can_mean_is_taken(cls, arguments):
    config.load(cls, "p", arguments, {})


@pytest.mark.parametrize("cls", [CoordinatorConfig, AgentConfig])
def test_defaults_pass_their_own_checks(cls):
    every = [f"{leaf.flag}={config._show(leaf)}" for leaf in config.leaves(cls)]
    assert config.load(cls, "p", every, {}) == cls()


def test_help_says_what_the_program_is_and_what_values_look_like(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        config.load(CoordinatorConfig, "cloudless-coordinator", ["--help"], {}, about="Keeps the fabric's state.")
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "usage: cloudless-coordinator [--config FILE] [SETTING ...]"
    assert "Keeps the fabric's state." in said
    for line in (
        "--config FILE",
        "--data-dir DIR",
        "--admin-context FILE",
        "--listen-api HOST:PORT",
        "--listen-names LIST",
        "--session-node-lease DURATION",
        "--store-segment SIZE",
        "--session-heartbeat-misses NUMBER",
        "--scheduler-weight-cost NUMBER",
        "--log-format json|text",
    ):
        assert f"  {line} " in said or f"  {line}\n" in said, line
    with pytest.raises(SystemExit):
        config.load(AgentConfig, "cloudless-agent", ["--help"], {})
    assert "--owner-cpu CPUS" in capsys.readouterr().out
