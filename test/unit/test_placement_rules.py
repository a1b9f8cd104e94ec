"""What a manifest may ask of a workload's neighbours."""

import pytest

from cloudless.core import defaults
from cloudless.core.spec import Affinity, AntiAffinity, Metadata, Placement, SpreadConstraint
from cloudless.core.validation import validate_spec
from cloudless.testing.fabric_model import service


def found(**placement):
    return [(v.path, v.message) for v in validate_spec(service(placement=Placement(**placement)))]


@pytest.mark.parametrize(
    "placement",
    [
        {"affinity": (Affinity(workload="db"),)},
        {"affinity": (Affinity(match_labels={"app": "db"}, topology_key="zone", weight=50),)},
        {"affinity": (Affinity(topology_key="region", required=True),)},
        {"anti_affinity": (AntiAffinity(match_labels={"tier": "batch"}, required=True),)},
        {"anti_affinity": (AntiAffinity("web", "node", weight=100),)},
        {"spread": (SpreadConstraint("zone", 1, required=True),)},
        {
            "affinity": (Affinity(workload="db", topology_key="zone", required=True),),
            "anti_affinity": (AntiAffinity("db", "node", True),),
        },
    ],
)
def test_what_is_well_formed(placement):
    assert found(**placement) == []


@pytest.mark.parametrize(
    ("placement", "path", "message"),
    [
        ({"affinity": (Affinity(workload="DB"),)}, "affinity[0].workload", "'DB' is not a valid name"),
        (
            {"affinity": (Affinity(workload="db", match_labels={"app": "db"}),)},
            "affinity[0]",
            "a term names a workload or labels, not both",
        ),
        (
            {"anti_affinity": (AntiAffinity("db", match_labels={"app": "db"}),)},
            "antiAffinity[0]",
            "a term names a workload or labels, not both",
        ),
        (
            {"affinity": (Affinity(match_labels={"app": "a b"}),)},
            "affinity[0].matchLabels.app",
            "app=a b is not a label",
        ),
        ({"affinity": (Affinity(weight=101),)}, "affinity[0].weight", "101 is out of range"),
        ({"anti_affinity": (AntiAffinity(weight=-1),)}, "antiAffinity[0].weight", "-1 is out of range"),
        (
            {"affinity": (Affinity(required=True, weight=1),)},
            "affinity[0].weight",
            "a required term has no weight",
        ),
        (
            {"affinity": (Affinity(topology_key="a b"),)},
            "affinity[0].topologyKey",
            "'a b' is not a topology key",
        ),
        (
            {
                "affinity": (Affinity(workload="db", required=True),),
                "anti_affinity": (AntiAffinity("db", "node", True),),
            },
            "affinity[0]",
            "it asks for what antiAffinity[0] rules out",
        ),
        ({"affinity": (Affinity(workload="db"),) * 65}, "affinity", "65 terms are too many"),
        (
            {"affinity": (Affinity(match_labels={f"k{i}": "" for i in range(17)}),)},
            "affinity[0].matchLabels",
            "17 labels are too many",
        ),
    ],
)
def test_each_mistake_names_its_path(placement, path, message):
    assert found(**placement) == [(f"spec.placement.{path}", message)]


def test_a_term_is_about_the_node_unless_it_says_otherwise():
    spec = service(placement=Placement(affinity=(Affinity("db"), Affinity("db", topology_key="zone"))))
    _, filled = defaults.apply(Metadata("web"), spec)
    assert [term.topology_key for term in filled.placement.affinity] == ["node", "zone"]
    assert defaults.apply(Metadata("web"), filled)[1] == filled
