"""The contexts file: kept private, merged by name, and clear about what is wrong with it."""

import dataclasses
import stat

import pytest

from cloudless import contexts as module
from cloudless.contexts import Context, Contexts, default_path, load
from cloudless.errors import InvalidArgument, NotFound

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
HOME = Context("home", ("192.0.2.1:8443", "[::1]:8443"), "fabric.example", "default", "alice", PEM, PEM, PEM)
WORK = dataclasses.replace(HOME, name="work", namespace="team")


def test_it_comes_back_as_written_and_private(tmp_path):
    path = tmp_path / "new" / "config.yaml"
    Contexts().merge(HOME).merge(WORK).save(path)
    assert load(path) == Contexts("home", (HOME, WORK))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "key: |" in path.read_text()


def test_saving_makes_a_loose_file_private(tmp_path):
    path = tmp_path / "config.yaml"
    Contexts().merge(HOME).save(path)
    path.chmod(0o644)
    loose = load(path)
    assert "0644" in loose.warning
    assert f"chmod 600 {path}" in loose.warning
    loose.save(path)
    assert load(path).warning == ""


def test_no_file_is_no_contexts(tmp_path):
    assert load(tmp_path / "none") == Contexts()
    (tmp_path / "empty").write_text("")
    (tmp_path / "empty").chmod(0o600)
    assert load(tmp_path / "empty") == Contexts()


def test_merge_use_delete():
    both = Contexts().merge(HOME).merge(WORK)
    assert both.current == "home"
    assert both.merge(WORK, make_current=True).current == "work"
    moved = dataclasses.replace(HOME, namespace="x")
    assert both.merge(moved).contexts == (moved, WORK)
    assert both.use("work").get() == WORK
    assert both.get("work") == WORK
    assert both.delete("work") == Contexts("home", (HOME,))
    assert both.delete("home") == Contexts("", (WORK,))
    for wrong in (both.use, both.delete, both.get):
        with pytest.raises(NotFound) as caught:
            wrong("nowhere")
        assert caught.value.reason == "ContextNotFound"
        assert "home, work" in caught.value.remedy
    with pytest.raises(NotFound) as caught:
        Contexts().get()
    assert caught.value.reason == "NoContext"


def test_credentials_of_a_context():
    held = HOME.credentials()
    assert (str(held.spiffe_id), held.expires_at_ms) == ("spiffe://fabric.example/user/alice", 0)
    for broken in ({"key": ""}, {"certificate": "x"}, {"bundle": "-----BEGIN é"}, {"user": ""}, {"trust_domain": "A"}):
        with pytest.raises(InvalidArgument):
            dataclasses.replace(HOME, **broken).credentials()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("contexts: [", "no valid YAML"),
        ("- a", "must be a mapping"),
        ("contexts: {a: b}", "contexts must be a list"),
        ("contexts: [a]", "contexts[0] must be a mapping"),
        ("contexts: [{}]", "contexts[0] has no name"),
        ("contexts: [{name: a, nam: b}]", "unknown field 'nam'"),
        ("contexts: [{name: a, key: 1}]", "contexts[0].key must be a text"),
        ("contexts: [{name: a, coordinators: x}]", "must be a list of addresses"),
        ("contexts: [{name: a}, {name: a}]", "two contexts of the name 'a'"),
        ("current-context: b\ncontexts: [{name: a}]", "'b' is not among"),
        ("current-context: [b]", "current-context must be a text"),
        ("users: []", "unknown field 'users'"),
        ("x: !!python/object:os.system {}", "no valid YAML"),
        ("[" * 100_000, "nested too deeply"),
        ("2000-99-99", "cannot be read"),
        ("a" * (module.MAX_BYTES + 1), "longer than"),
        ("\xff", "must be a mapping"),
    ],
)
def test_each_mistake_is_named(tmp_path, text, says):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load(path)
    assert says in caught.value.message
    assert str(path) in caught.value.message


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot read"):
        load(tmp_path)


def test_where_the_file_is(tmp_path):
    assert default_path({"CLOUDLESS_CONFIG": str(tmp_path / "x")}) == tmp_path / "x"
    assert default_path({"XDG_CONFIG_HOME": "/c"}).as_posix() == "/c/cloudless/config.yaml"
    assert default_path({}).as_posix().endswith("/.config/cloudless/config.yaml")
