"""FeCAM: against its reference code, against plain inverses, and against refitting."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.vectors import golden
from trainables.artifacts import Classifier
from trainables.closed_form.class_gaussians import class_gaussians, leave_out_answers
from trainables.closed_form.mahalanobis import (
    Shrinkage,
    axes_of,
    metric_of,
    signed_power,
    squared_distances,
)
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import samples as samples_of
from trainables.errors import ConfigError
from trainables.features.predict import predict_logits
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.rebalancers.fecam import FeCAM

EXACT = {"rtol": 1e-8, "atol": 1e-8}


def samples(counts: tuple[int, ...], width: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    centers = torch.randn(len(counts), width, generator=generator, dtype=torch.float64)
    return centers[labels] + 0.7 * noise, labels


def blank(classes: int, width: int) -> Classifier:
    zeros = torch.zeros(classes)
    return Classifier(Head.parse("linear"), width, {}, zeros, torch.ones(classes), zeros[:1])


def normalized_covariance(rows: torch.Tensor, shrinkage: Shrinkage) -> torch.Tensor:
    """The reference code's steps, one by one."""
    eye = torch.eye(rows.shape[1], dtype=rows.dtype)
    covariance = torch.cov(rows.T)
    for _ in range(2):
        off = covariance[eye == 0].mean()
        variance = covariance.diagonal().mean()
        covariance = covariance + shrinkage.diagonal * variance * eye
        covariance = covariance + shrinkage.off_diagonal * off * (1 - eye)
    deviation = covariance.diagonal().sqrt()
    return covariance / deviation.outer(deviation)


@pytest.mark.parametrize("shrinkage", [Shrinkage(1.0, 1.0), Shrinkage(0.3, 0.0)])
@pytest.mark.parametrize("number", [2, 5, 40], ids=lambda n: f"{n} images")
def test_a_metric_is_the_inverse_of_the_normalized_covariance(
    number: int, shrinkage: Shrinkage
) -> None:
    rows, _ = samples((number,), 9)
    inverse = torch.linalg.inv(normalized_covariance(rows, shrinkage))
    differences = torch.randn(7, 9, generator=torch.Generator().manual_seed(1)).double()
    wanted = ((differences @ inverse) * differences).sum(dim=1)
    found = squared_distances(metric_of(axes_of(rows), shrinkage), differences)
    torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize(
    ("counts", "width"), [((20, 9, 3), 5), ((9, 4, 2, 1), 30)], ids=["more rows", "more columns"]
)
def test_answers_out_of_fold_equal_refitting_without_each_group(
    counts: tuple[int, ...], width: int
) -> None:
    features, labels = samples(counts, width)
    # groups of one, of several images, and of several classes
    groups = torch.randint(
        len(labels) * 2 // 3, (len(labels),), generator=torch.Generator().manual_seed(1)
    )
    shrinkage = Shrinkage(1.0, 0.5)
    whole = class_gaussians(samples_of(features, labels), len(counts), power=0.5)
    found = leave_out_answers(whole, groups, shrinkage)
    for row in range(len(labels)):
        kept = groups != groups[row]
        rest = samples_of(features[kept], labels[kept])
        model = class_gaussians(rest, len(counts), power=0.5)
        unit = torch.nn.functional.normalize(signed_power(features[row], 0.5), dim=0)
        for label, axes in enumerate(model.axes):
            if axes is None:
                assert found[row, label] == NEVER
                continue
            wanted = -squared_distances(metric_of(axes, shrinkage), unit - model.means[label])
            torch.testing.assert_close(found[row, label], wanted, **EXACT)


def test_identical_images_of_a_class_leave_finite_answers() -> None:
    features, labels = samples((3, 4), 6)
    features[:2] = features[0]  # without the third image, class 0 has no variance
    fitted = class_gaussians(samples_of(features, labels), 2, power=1.0)
    found = leave_out_answers(fitted, torch.arange(7), Shrinkage(1.0, 1.0))
    mean = torch.nn.functional.normalize(features[0], dim=0)
    unit = torch.nn.functional.normalize(features[2], dim=0)
    assert float(found[2, 0]) == pytest.approx(-float((unit - mean).square().sum()), rel=1e-8)


def test_the_head_answers_as_the_fit_and_carries_the_scale() -> None:
    features, labels = samples((30, 12, 5), 6)
    method = FeCAM(power=0.5, diagonal=1.0)
    found = method(classifier=blank(3, 6), features=features.float(), labels=labels)
    assert predict_logits(found, features.float()).argmax(1).eq(labels).double().mean() > 0.8
    groups = torch.arange(len(labels))
    out = method.fit(classifier=blank(3, 6), features=features, labels=labels).logits
    fitted = class_gaussians(samples_of(features, labels), 3, power=0.5)
    answers = leave_out_answers(fitted, groups, Shrinkage(1.0, 1.0))
    torch.testing.assert_close(out, found.state["scale"] * answers, rtol=1e-5, atol=1e-5)


def test_fecam_equals_the_reference_code() -> None:
    vectors = golden("closed_form_fecam")
    for case in vectors.cases:
        given = vectors.inputs(case)
        settings = vectors.cases[case]["hyperparameters"]
        method = FeCAM(
            power=settings["beta"], diagonal=settings["alpha1"], off_diagonal=settings["alpha2"]
        )
        classes, width = int(given["labels"].max()) + 1, given["features"].shape[1]
        found = method(
            classifier=blank(classes, width), features=given["features"], labels=given["labels"]
        )
        logits = predict_logits(found, given["queries"].float()).double()
        distances = -logits / found.state["scale"].double()
        wanted = vectors.output(case, "distances").double()
        torch.testing.assert_close(distances, wanted, rtol=1e-4, atol=1e-4)


def test_shrinkage_without_an_inverse_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"off_diagonal: must be at most diagonal \(1.0\)"):
        Rebalancer.parse({"fecam": {"diagonal": 1.0, "off_diagonal": 2.0}})
