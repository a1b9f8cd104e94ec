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
