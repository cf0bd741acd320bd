"""Updaters: distillation starts from the old head, closed forms equal a fit on all images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables.artifacts import Classifier
from trainables.closed_form.ridge_classifier import RidgeSettings, fit_ridge
from trainables.closed_form.statistics import samples
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.features.predict import predict_logits
from trainables.methods import KINDS
from trainables.methods.heads import Head
from trainables.methods.rebalancers.ridge import Ridge as RidgeRebalancer
from trainables.methods.updaters import Updater
from trainables.methods.updaters.ridge import Ridge
from trainables.settings import assign, build

KNOWN, NEW, WIDTH = 4, 2, 6
COUNTS = (30, 14, 6, 3, 12, 5)
SETTINGS = [
    {},
    {"balance": "none"},
    {"balance": "effective_number", "width": 40},
    {"balance": "logit_adjusted", "intercept": False},
]


def images(seed: int = 0) -> dict[str, Any]:
    """Return labelled images of known classes, then pseudo-labelled ones, two of a known class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(KNOWN + NEW), torch.tensor(COUNTS))
    labels = torch.cat([labels, torch.tensor([1, 1])])
    noise = torch.randn(len(labels), WIDTH, generator=draw)
    weights = torch.ones(len(labels))
    weights[sum(COUNTS[:KNOWN]) :] = 0.25 + 0.75 * torch.rand(19, generator=draw)
    return {
        "features": 5 + noise + 2.5 * torch.eye(KNOWN + NEW, WIDTH)[labels],
        "labels": labels,
        "weights": weights,
        "class_counts": torch.bincount(labels),
        "num_labelled": sum(COUNTS[:KNOWN]),
    }


def old() -> Classifier:
    draw = torch.Generator().manual_seed(1)
    return Classifier(
        head=Head.parse("linear"),
        num_features=WIDTH,
        state={
            "weight": torch.randn(KNOWN, WIDTH, generator=draw),
            "bias": torch.randn(KNOWN, generator=draw),
        },
        logit_offset=torch.zeros(KNOWN),
        class_counts=torch.tensor(COUNTS[:KNOWN]),
        feature_mean=torch.zeros(WIDTH),
    )


@pytest.mark.parametrize("name", sorted(Updater.shelf))
def test_an_updater_gives_a_classifier_of_all_classes_and_leaves_the_old_one(name: str) -> None:
    before = old()
    grown = Updater.parse(name).call_with({"classifier": before, **images()})
    logits = predict_logits(grown, images()["features"])
    assert logits.shape == (len(images()["labels"]), KNOWN + NEW)
    assert logits.isfinite().all()
    assert torch.equal(grown.class_counts, images()["class_counts"])
    assert torch.equal(before.state["weight"], old().state["weight"])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_new_classes_added_equal_a_fit_on_all_images_at_once(settings: dict[str, Any]) -> None:
    given, chosen = images(), RidgeSettings(**settings)
    features, labels = given["features"], given["labels"]
    data = samples(
        features, labels, weights=given["weights"], projection=chosen.projection(features)
    )
    kept = chosen.gather(data.part(slice(given["num_labelled"])), KNOWN).grown(NEW)
    kept.add(data.part(slice(given["num_labelled"], None)))
    kept.reweight(chosen.class_weights(kept.counts), data)
    at_once = chosen.gather(data, KNOWN + NEW)
    for found, wanted in zip(kept, at_once, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-8)
    found, wanted = (fit_ridge(chosen, sums, data) for sums in (kept, at_once))
    torch.testing.assert_close(found.weight, wanted.weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.intercept, wanted.intercept, rtol=0, atol=1e-8)
    assert found.scale == pytest.approx(wanted.scale, rel=1e-8)
    assert (found.regularizer, found.judged) == (wanted.regularizer, wanted.judged)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_with_true_labels_the_updater_is_the_rebalancer_of_all_classes(
    settings: dict[str, Any],
) -> None:
    given = {**images(), "weights": torch.ones(len(images()["labels"]))}
    updated = Ridge(**settings).call_with({"classifier": old(), **given})
    whole = old()._replace(class_counts=given["class_counts"], logit_offset=torch.zeros(6))
    wanted = RidgeRebalancer(**settings)(
        classifier=whole, features=given["features"], labels=given["labels"]
    )
    assert updated.head == wanted.head
    torch.testing.assert_close(updated.logit_offset, wanted.logit_offset)
    for name, tensor in wanted.state.items():
        torch.testing.assert_close(updated.state[name], tensor, rtol=1e-5, atol=1e-5)


def test_lda_of_all_classes_counts_pseudo_labels_by_their_weights() -> None:
    given = images()
    updated = Updater.parse({"lda": {"shrinkage": 0.3}}).call_with({"classifier": old(), **given})
    inputs, labels = given["features"].double(), given["labels"]
    weights = given["weights"].double()
    counts = torch.bincount(labels, weights)
    sums = torch.zeros(KNOWN + NEW, WIDTH).double()
    means = sums.index_add_(0, labels, weights[:, None] * inputs) / counts[:, None]
    deviations = inputs - means[labels]
    scatter = (weights[:, None] * deviations).T @ deviations / weights.sum()
    shrunk = 0.7 * scatter + 0.3 * scatter.trace() / WIDTH * torch.eye(WIDTH).double()
    weight = torch.linalg.solve(shrunk, means.T).T
    noise = torch.linalg.solve(shrunk, scatter).trace() / counts
    bias = (noise - (weight * means).sum(1)) / 2
    found = {name: tensor.double() for name, tensor in updated.state.items()}
    scale = found["weight"].norm() / (weight - weight.mean(0)).norm()
    torch.testing.assert_close(
        found["weight"], scale * (weight - weight.mean(0)), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(found["bias"], scale * (bias - bias.mean()), rtol=1e-5, atol=1e-4)
    assert updated.logit_offset.tolist() == [0.0] * (KNOWN + NEW)


def test_old_recipes_keep_their_digest_and_the_method_counts_where_it_is_said() -> None:
    assert "method" not in Experiment().update.model_dump(mode="json")
    said = build(Experiment, {"update": {"method": "distill"}})
    assert said.digest() == Experiment().digest()
    other = build(Experiment, {"update": {"method": {"ridge": {"width": 500}}}})
    assert other.update.model_dump(mode="json")["method"] == {
        "ridge": Ridge(width=500).dump()["ridge"]
    }
    assert build(Experiment, other.model_dump(mode="json")) == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"update.mode": "full"},
            "update.mode: must be head, update.method 'ridge'.*received full",
        ),
        (
            {"update.exemplars_per_class": 20},
            "update.exemplars_per_class: must be null, update.method 'ridge'.*received 20",
        ),
    ],
    ids=["trunk", "exemplars"],
)
def test_what_a_closed_form_cannot_do_is_refused_when_the_recipe_is_read(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        assign(Experiment(), {"update.method": "ridge", **changes})
    assert assign(Experiment(), changes).update.method.name == "distill"


def test_the_kind_is_found() -> None:
    assert KINDS["updaters"] is Updater
