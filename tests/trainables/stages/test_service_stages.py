"""World service through all stages: one process, a frozen trunk, answers out of fold."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from trainables.context import Context
from trainables.data.views import Views, build_views
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.models.backbone import build_trunk
from trainables.pipeline import run

PER_CLASS = (60, 50, 40, 30, 26, 20, 14, 9, 4, 2)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with long-tailed digits as a table, and with weights."""
    desk = tmp_path_factory.mktemp("desk")
    pixels, labels = load_digits(return_X_y=True)
    rows = []
    for label, size in enumerate(PER_CLASS):
        members = np.flatnonzero(labels == label)
        held = 20 if size >= 25 else 0
        for place, number in enumerate(members[: size + held]):
            image = (pixels[number].reshape(8, 8) * 15.9).astype(np.uint8).repeat(2, 0).repeat(2, 1)
            Image.fromarray(image).save(desk / f"{number}.png")
            part = "train" if place < size else "test"
            rows.append((f"{number}.png", f"digit {label}", f"shot {number}", part))
    with (desk / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group", "part"), *rows])
    trunk = build_trunk("fastnet", 16, generator=torch.Generator().manual_seed(0))
    save_file(trunk.network.state_dict(), desk / "weights.safetensors")
    return desk


def recipe(desk: Path, *sets: str) -> Experiment:
    return load_experiment(
        None,
        [
            "data.world=service",
            f"data.source=table:{desk / 'photos.csv'}",
            "data.image_size=16",
            "data.interpolation=bilinear",
            "data.crop_fraction=1.0",
            f"pretrain.method={{pretrained: {{checkpoint: {desk / 'weights.safetensors'}}}}}",
            "classify.training.epochs=0",
            "rebalance.method=ridge",
            *sets,
        ],
    )


@pytest.fixture(scope="module")
def views(desk: Path) -> Views:
    return build_views(recipe(desk).data, cache=desk / "cache")


def ran(desk: Path, views: Views, *sets: str) -> dict[str, Any]:
    return run(recipe(desk, *sets), Context(), views=views)


@pytest.mark.parametrize(
    "rebalancer", ["ridge", "lda", "{tuned: {among: [ridge, lda], tries: 2}}", "{crt: {epochs: 5}}"]
)
def test_the_model_knows_every_class_and_is_judged_out_of_fold(
    desk: Path, views: Views, rebalancer: str
) -> None:
    found = ran(desk, views, f"rebalance.method={rebalancer}")
    answers, metrics = found["out_of_fold"], found["evaluation"].metrics
    assert found["classifier"].class_counts.tolist() == list(PER_CLASS)
    assert answers.logits.shape == (sum(PER_CLASS), 10)
    assert answers.confidence.shape == (sum(PER_CLASS),)
    assert torch.equal(answers.groups, torch.from_numpy(views.known_train.groups))
    labels = torch.from_numpy(views.known_train.labels)
    right = (answers.logits.argmax(1) == labels).double()
    assert metrics["out_of_fold/accuracy"] == pytest.approx(float(right.mean()))
    balanced = torch.stack([right[labels == c].mean() for c in range(10)]).mean()
    assert metrics["out_of_fold/accuracy/balanced"] == pytest.approx(float(balanced))
    few = torch.stack([right[labels == c].mean() for c in range(6, 10)]).mean()
    assert metrics["out_of_fold/accuracy/few"] == pytest.approx(float(few))
    least = 0.2 if "crt" in rebalancer else 0.5  # five epochs are few
    assert float(balanced) > least
    if "crt" not in rebalancer:
        assert metrics["evaluate/first/accuracy"] > 0.6
    # the level is that of its own answers, but for what small parts round down
    assert 0.02 < metrics["out_of_fold/novelty/false_alarm"] <= 0.05
    assert 0 <= metrics["out_of_fold/calibration/ece"] < 0.3
    # nothing came, so nothing was learned
    assert found["updated_classifier"] is found["classifier"]
    assert found["updated_scorer"] is found["scorer"]
    assert len(found["pool_selection"].positions) == 0
    assert found["pseudo_labels"].num_new_clusters == 0


def test_test_images_change_nothing_but_the_evaluation(desk: Path, views: Views) -> None:
    found = ran(desk, views)
    held = views.held_out_known
    order = np.arange(len(held.indices))[::-1].copy()
    turned = held._replace(labels=held.labels[order], indices=held.indices[order])
    other = ran(desk, views._replace(held_out_known=turned._replace(labels=9 - held.labels)))
    assert found["evaluation"].metrics != other["evaluation"].metrics
    for name in ("classifier", "scorer", "out_of_fold"):
        for one, two in zip(found[name], other[name], strict=True):
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, two), name
    assert found["scorer"].threshold == other["scorer"].threshold


def test_own_validation_images_take_the_place_of_answers_out_of_fold(
    desk: Path, views: Views
) -> None:
    found = ran(desk, views._replace(validation_known=views.held_out_known))
    assert found["out_of_fold"].logits.shape == (0, 10)
    metrics = found["evaluation"].metrics
    assert not [name for name in metrics if name.startswith("out_of_fold/")]
    # the threshold is a quantile of these very images
    assert 0.02 < metrics["evaluate/first/novelty/false_alarm"] <= 0.05


def test_images_count_as_often_as_their_class_is_expected(
    desk: Path, views: Views, tmp_path: Path
) -> None:
    prior = tmp_path / "expected.yaml"
    prior.write_text("".join(f"digit {n}: {float(n < 2)}\n" for n in range(10)))
    found = {
        name: ran(desk, views, f"score.prior={name}", "score.threshold.false_alarm.offsets=none")
        for name in ("as_given", "natural", "balanced", f"file:{prior}")
    }
    metrics = {name: run["evaluation"].metrics for name, run in found.items()}
    own = {name: m.get("out_of_fold/accuracy/expected") for name, m in metrics.items()}
    any_prior = metrics["natural"]
    assert own["as_given"] is None
    assert own["natural"] == pytest.approx(any_prior["out_of_fold/accuracy"])
    assert own["balanced"] == pytest.approx(any_prior["out_of_fold/accuracy/balanced"])
    scorers = {name: run["scorer"] for name, run in found.items()}
    assert scorers["as_given"].prior is None
    assert scorers["natural"].threshold == pytest.approx(scorers["as_given"].threshold)
    assert scorers["balanced"].threshold < scorers["natural"].threshold  # rare classes are unsure
    # the quantile of the two expected classes alone
    answers, labels = found["natural"]["out_of_fold"], views.known_train.labels
    frequent = found[f"file:{prior}"]["out_of_fold"].confidence[torch.from_numpy(labels < 2)]
    false_alarm = (frequent < scorers[f"file:{prior}"].threshold).double().mean()
    assert float(false_alarm) == pytest.approx(0.05, abs=0.012)
    assert len(answers.logits) == sum(PER_CLASS)
    assert scorers[f"file:{prior}"].prior.tolist() == [0.5] * 2 + [0.0] * 8


def test_without_a_test_part_the_rest_is_the_same(desk: Path, views: Views) -> None:
    held = views.held_out_known
    empty = held._replace(indices=held.indices[:0], labels=held.labels[:0], groups=None)
    found = ran(desk, views._replace(held_out_known=empty))
    metrics = found["evaluation"].metrics
    assert metrics["out_of_fold/accuracy"] > 0.5
    assert not [name for name in metrics if name.startswith("evaluate/first/accuracy")]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["rebalance.method=tau_norm"], "rebalance.method 'tau_norm' starts from a classifier"),
        (["score.threshold={false_alarm: {level: 0.001}}"], "a level that so many images can tell"),
        (["classify.trunk=full", "classify.training.epochs=1"], "the trunk was trained on these"),
    ],
)
def test_a_model_that_would_know_everything_is_no_result(
    desk: Path, views: Views, sets: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ran(desk, views, *sets)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shifted_batch_norm_is_refused(desk: Path) -> None:
    with pytest.raises(ConfigError, match=r"extract.batchnorm: must be frozen in world service"):
        recipe(desk, "extract.batchnorm=shifted")
