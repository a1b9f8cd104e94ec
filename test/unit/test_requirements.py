"""docs/requirements.md claims nothing that does not exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "requirements.md").read_text()
CLAIMS = sorted(set(re.findall(r"`(test/[\w/.]+\.py)(?:::(\w+))?`", TEXT)))


def test_the_document_claims_something():
    assert len(CLAIMS) > 20


@pytest.mark.parametrize(("path", "name"), CLAIMS)
def test_every_claimed_test_exists(path, name):
    file = ROOT / path
    assert file.is_file(), f"{path} does not exist"
    if name:
        assert re.search(rf"^(?:async )?def {name}\(", file.read_text(), re.MULTILINE), f"{path} has no {name}"


def test_every_requirement_is_listed_once():
    listed = re.findall(r"^\| ((?:REQ|NFR)-\w+) \|", TEXT, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {"REQ-001", "REQ-012", "REQ-060", "NFR-U1"} <= set(listed)
