"""Former names are accepted wherever a name is read, and never written, shown or suggested."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from tests.trainables.test_pipeline import keys
from trainables.artifacts import (
    Classifier,
    PseudoLabels,
    Scorer,
    load_artifact,
    save_artifact,
)
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.former_names import current_key, current_metric, current_metrics, former_keys
from trainables.methods import KINDS
from trainables.methods.calibrators import Calibrator
from trainables.methods.gates import Gate
from trainables.methods.heads import Head
from trainables.methods.method import Method, UnknownNameError
from trainables.methods.scores import Score
from trainables.settings import assign, build, canonical_json, dump_yaml, flatten

# One recipe as it was written before and as it is written now.
FORMER: dict[str, Any] = {
    "pretrain": {"method": {"supervised": {"checkpoint": "a.safetensors"}}},
    "score": {"method": {"least_confident": {"temperature": 2.0}}},
    "discover": {"num_clusters": 3, "max_clusters": 5},
}
CURRENT: dict[str, Any] = {
    "pretrain": {"method": {"pretrained": {"checkpoint": "a.safetensors"}}},
    "score": {"method": {"msp": {"temperature": 2.0}}},
    "discover": {"num_new_clusters": 3, "max_new_clusters": 5},
}


def digest_of(tree: dict[str, Any]) -> str:
    return sha256(canonical_json(tree).encode()).hexdigest()


def in_former_names(experiment: Experiment) -> dict[str, Any]:
    """Return a recipe's dump as it was before any name changed."""
    tree = experiment.model_dump(mode="json")
    for part, old, new in (
        (tree["pretrain"]["method"], "supervised", "pretrained"),
        (tree["score"]["method"], "least_confident", "msp"),
        (tree["discover"], "num_clusters", "num_new_clusters"),
        (tree["discover"], "max_clusters", "max_new_clusters"),
    ):
        if new in part:
            part[old] = part.pop(new)
    return tree


# --- recipes -----------------------------------------------------------------------------------


def test_a_recipe_in_former_names_is_the_same_recipe() -> None:
    before, now = build(Experiment, FORMER), build(Experiment, CURRENT)
    assert before == now
    assert before.digest() == now.digest()
    assert keys(before) == keys(now)
    assert flatten(before) == flatten(now)


@pytest.mark.parametrize("tree", [{}, CURRENT], ids=["names none", "names all"])
def test_no_recipe_has_another_digest_than_before_the_names_changed(tree: dict[str, Any]) -> None:
    experiment = build(Experiment, tree)
    assert experiment.digest() == digest_of(in_former_names(experiment))


def test_dumps_have_the_names_of_today() -> None:
    text = dump_yaml(build(Experiment, FORMER)) + json.dumps(flatten(build(Experiment, FORMER)))
    for old in ("supervised", "least_confident", "num_clusters", "max_clusters"):
        assert old not in text
    assert load_experiment(None, ["score.method=least_confident"]).score.method.name == "msp"


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"discover.num_clusters": 3}, {"discover.num_new_clusters": 3}),
        ({"discover": {"max_clusters": 4}}, {"discover.max_new_clusters": 4}),
        ({"score.method": "least_confident"}, {"score.method": "msp"}),
        (
            {"score.method.least_confident.temperature": 2.0},
            {"score.method": {"msp": {"temperature": 2.0}}},
        ),
        (
            {"score.method": "least_confident", "score.method.msp.temperature": 2.0},
            {"score.method": "msp", "score.method.temperature": 2.0},
        ),
        (
            {"score.method.msp.temperature": 2.0, "score.method.least_confident.prior_tau": 1.0},
            {"score.method": {"msp": {"temperature": 2.0, "prior_tau": 1.0}}},
        ),
        (
            {
                "score.method": {"least_confident": {"temperature": 2.0}},
                "score.method.msp.prior_tau": 1.0,
            },
            {"score.method": {"msp": {"temperature": 2.0, "prior_tau": 1.0}}},
        ),
        (
            {"score.method": "least_confident", "score.method.temperature": 2.0},
            {"score.method": {"msp": {"temperature": 2.0}}},
        ),
        (
            {"discover": {"num_clusters": 3}, "discover.num_new_clusters": 4},
            {"discover.num_new_clusters": 4},
        ),
        (
            {"discover": {"num_new_clusters": 3}, "discover.num_clusters": 4},
            {"discover.num_new_clusters": 4},
        ),
        (
            {"pretrain.method": {"supervised": {"checkpoint": "a.safetensors"}}},
            {"pretrain.method": {"pretrained": {"checkpoint": "a.safetensors"}}},
        ),
    ],
)
def test_paths_take_former_names(before: dict[str, object], now: dict[str, object]) -> None:
    assert assign(Experiment(), before) == assign(Experiment(), now)
    assert assign(Experiment(), now) != Experiment()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"discover": {"num_clusters": 0}},
            "discover.num_new_clusters: input should be greater than or equal to 1; "
            "allowed type: int | None; received 0",
        ),
        (
            {"discover": {"num_clusters": 3, "num_new_clusters": 3}},
            "discover.num_new_clusters: also received as 'num_clusters', its former name; "
            "give one of them",
        ),
        (
            {"discover": {"num_cluster": 3}},
            "discover: unknown key 'num_cluster'; allowed: clusterer, max_new_clusters, "
            "num_new_clusters, pseudo_labeler; did you mean 'num_new_clusters'?",
        ),
        (
            {"score": {"method": {"least_confident": {"temperature": 0}}}},
            "score.method: msp.temperature: input should be greater than 0; allowed type: float; "
            "received 0",
        ),
    ],
)
def test_errors_have_the_names_of_today(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Experiment, tree)
    assert str(caught.value) == message


def test_wrong_path_names_and_suggests_what_is_there_today() -> None:
    with pytest.raises(ConfigError) as caught:
        assign(Experiment(), {"score.method.least_confident.temprature": 2.0})
    assert str(caught.value) == (
        "score.method (msp): unknown key 'temprature'; allowed: prior_tau, temperature; "
        "did you mean 'temperature'?"
    )
    with pytest.raises(ConfigError, match=r"^discover\.num_new_clusters: has no settings below"):
        assign(Experiment(), {"discover.num_clusters.x": 2})


# --- methods -----------------------------------------------------------------------------------

ALIASES = [
    pytest.param(kind, old, new, id=f"{name}/{old}")
    for name, kind in KINDS.items()
    for old, new in kind.aliases.items()
]


@pytest.mark.parametrize(("kind", "old", "new"), ALIASES)
def test_a_former_name_of_a_method_stands_for_it(kind: type[Method], old: str, new: str) -> None:
    assert kind.lookup(old) is kind.shelf[new]
    assert kind.parse(old) == kind.parse(new)
    assert kind.parse(old).dump().keys() == {new}
    assert old not in kind.shelf


def test_kinds_without_renamed_methods_have_none() -> None:
    assert {param.values[0] for param in ALIASES} < set(KINDS.values())


def test_refusals_list_and_suggest_the_names_of_today() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Score.parse("least_confidant")
    assert "least_confident" not in str(caught.value)
    assert "msp" in str(caught.value)


CLAIM = """
from trainables.methods.scores import Score
class Other(Score):
    __module__ = "elsewhere.least_confident"
"""


def test_a_new_method_cannot_take_a_former_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLAIM], check=False, capture_output=True, text=True, timeout=120
    )
    assert "scores: 'least_confident' is a former name of 'msp'" in done.stderr


# --- stored artifacts --------------------------------------------------------------------------


def rewrite(folder: Path, **changes: object) -> None:
    """Make a stored artifact one of format 1, with other fields."""
    document = json.loads((folder / "artifact.json").read_text())
    document["format_version"] = 1
    for name, value in changes.items():
        former, _, current = name.partition("__")
        assert document["fields"].pop(current or former) is not None
        document["fields"][former] = value
    (folder / "artifact.json").write_text(json.dumps(document))


def test_artifacts_of_format_1_are_read(tmp_path: Path) -> None:
    a, b, c = torch.ones(1), torch.ones(1), torch.ones(1)
    labels = PseudoLabels(a.long(), b.long(), c, 4, {"accuracy": 0.5})
    save_artifact(labels, tmp_path / "labels")
    rewrite(tmp_path / "labels", num_clusters__num_new_clusters=4)
    assert load_artifact(PseudoLabels, tmp_path / "labels").num_new_clusters == 4
    cost = {"classify_steps": 7.0}
    classifier = Classifier(Head.parse("linear"), 1, {}, a, b, c, False, cost)
    save_artifact(classifier, tmp_path / "classifier")
    rewrite(tmp_path / "classifier", training__train_cost=cost)
    assert load_artifact(Classifier, tmp_path / "classifier").train_cost == cost
    scorer = Scorer(Calibrator.parse("none"), {}, Score.parse("msp"), {}, 0.5)
    save_artifact(scorer, tmp_path / "scorer")
    rewrite(tmp_path / "scorer", score={"least_confident": {"temperature": 2.0}})
    assert load_artifact(Scorer, tmp_path / "scorer").score.dump() == {
        "msp": {"temperature": 2.0, "prior_tau": 0.0}
    }


# --- metrics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("evaluate/update/without", "evaluate/update/accuracy_before"),
        ("evaluate/update/without/seed/3", "evaluate/update/accuracy_before/seed/3"),
        (
            "validation/evaluate/discover/num_clusters",
            "validation/evaluate/discover/num_new_clusters",
        ),
        (
            "evaluate/prior_shift/backward_50/known/low",
            "evaluate/prior_shift/backward_50/prior_given/low",
        ),
        # other metrics
        ("evaluate/update/without_pool", "evaluate/update/without_pool"),
        ("evaluate/update/accuracy/known", "evaluate/update/accuracy/known"),
        ("mine/evaluate/update/without", "mine/evaluate/update/without"),
    ],
)
def test_metrics_are_known_by_former_names(before: str, now: str) -> None:
    assert current_metric(before) == now
    assert current_metric(now) == now
    assert current_metrics({before: 0.5}) == {now: 0.5}


def test_a_gate_takes_the_former_name_of_its_metric() -> None:
    gate = Gate.parse({"overall": {"metric": "evaluate/update/without"}})
    name = "evaluate/update/accuracy_before"
    assert gate.dump()["overall"]["metric"] == name
    assert gate(challenger={name: 0.5}, champion={name: 0.6})[0] is False


# --- the schema --------------------------------------------------------------------------------


def classes(cls: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a settings class with all below it."""
    found = {cls}
    for field in cls.model_fields.values():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= classes(kind)
    return found


def test_no_former_key_is_the_name_of_another_setting() -> None:
    methods = {cls for kind in KINDS.values() for cls in kind.shelf.values()}
    for cls in classes(Experiment) | methods:
        for name in cls.model_fields:
            for former in former_keys(cls, name):
                assert former not in cls.model_fields
                assert current_key(cls, former) == name
