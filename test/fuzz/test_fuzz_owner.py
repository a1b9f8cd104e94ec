"""Whatever stands in the owner's files: terms, or a refusal that says what is wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudless.agent import owner_file
from cloudless.config import OwnerConfig, OwnerTermsConfig, leaves
from cloudless.core import hours
from cloudless.errors import InvalidArgument

pytestmark = pytest.mark.timeout(60)

KEYS = st.sampled_from([leaf.path[0] for leaf in leaves(OwnerTermsConfig)]) | st.text(max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
WORDS = st.sampled_from(["22:00-06:00", "Mon-Fri 18:00-23:00", "1Gi", "500m", "home", "0.5", "-1", ""])
VALUES = st.recursive(
    SCALARS | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2)
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4).map(lambda d: yaml.safe_dump(d).encode()) | st.binary(
    max_size=200
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS)
def test_terms_or_a_refusal(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "owner.yaml"
    path.write_bytes(data)
    terms, refusal = None, None
    try:
        terms = owner_file.read_terms(OwnerConfig(), path)
    except InvalidArgument as error:
        refusal = error
    if terms is None:
        assert refusal is not None
        assert (refusal.reason, bool(refusal.message)) == ("BadOwnerTerms", True)
        return
    assert 0 <= terms.share <= 1
    assert terms.battery_floor_percent <= max(terms.battery_resume_percent, terms.battery_floor_percent)
    hours.inside(terms.windows, weekday=0, minute=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.datetimes().map(lambda t: t.isoformat().encode()))
def test_a_pause_is_a_pause(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "owner.pause"
    path.write_bytes(data)
    pause = owner_file.read_pause(path)
    assert pause is not None
    assert pause.until_ms is None or isinstance(pause.until_ms, int)


@given(st.text(max_size=50))
def test_hours_are_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        window = hours.parse(text)
        assert 0 < window.minutes <= hours.DAY_MINUTES
