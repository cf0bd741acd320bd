"""Statistics of samples: order, removal, correction, re-weighting and merging are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.artifacts import Classifier
from trainables.closed_form import statistics as kept_sums
from trainables.closed_form.projection import draw_projection
from trainables.closed_form.ridge import solve, spectrum
from trainables.closed_form.statistics import Samples, Statistics, no_samples, samples
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer

CLASSES, FEATURES, WIDTH = 4, 5, 9
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.25], dtype=torch.float64)


def drawn(number: int = 80, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (number,), generator=generator)
    noise = torch.randn(number, FEATURES, generator=generator)
    return samples(
        10 + noise + torch.eye(CLASSES, FEATURES)[labels],
        labels,
        weights=torch.rand(number, generator=generator),
        projection=draw_projection(FEATURES, WIDTH, seed=1),
    )


def sums(*parts: Samples, class_weights: Tensor = CLASS_WEIGHTS) -> Statistics:
    kept = no_samples(class_weights, width=WIDTH)
    for part in parts:
        kept.add(part)
    return kept


def assert_equal(found: Statistics, wanted: Statistics) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-8)
    weight, intercept = solve(spectrum(found), 0.3)
    other_weight, other_intercept = solve(spectrum(wanted), 0.3)
    torch.testing.assert_close(weight, other_weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(intercept, other_intercept, rtol=0, atol=1e-8)


def test_sums_are_those_of_a_loop() -> None:
    data, kept = drawn(), sums(drawn())
    gram, of_class = torch.zeros(WIDTH, WIDTH).double(), torch.zeros(CLASSES, WIDTH).double()
    for features, label, weight in zip(data.features, data.labels, data.weights, strict=True):
        inputs = (features.double() @ data.projection.double()).clamp_min(0)
        gram += weight * CLASS_WEIGHTS[label] * torch.outer(inputs, inputs)
        of_class[label] += weight * inputs
    torch.testing.assert_close(kept.gram, gram, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(kept.sums, of_class, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(
        kept.counts, torch.stack([data.weights[data.labels == c].sum() for c in range(CLASSES)])
    )


def test_any_order_gives_the_same_sums_and_what_is_removed_leaves_no_trace() -> None:
    data, other = drawn(), drawn(33, seed=7)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(2))
    stream = [data.part(rows) for rows in order.split(7)]
    assert_equal(sums(*stream), sums(data))
    kept = sums(stream[0], other, *stream[1:])
    kept.remove(other)
    assert_equal(kept, sums(data))


def test_blocks_of_bounded_memory_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sums(drawn())
    monkeypatch.setattr(kept_sums, "BLOCK", 3 * WIDTH)
    assert [len(drawn().labels[block]) for block in drawn().blocks()] == [3] * 26 + [2]
    assert_equal(sums(drawn()), whole)


def test_a_corrected_label_is_as_if_it_had_always_been_so() -> None:
    data = drawn()
    kept, wrong = sums(data), data.part(torch.tensor([3, 5]))
    kept.remove(wrong)
    kept.add(wrong._replace(labels=torch.tensor([0, 2])))
    labels = data.labels.clone()
    labels[[3, 5]] = torch.tensor([0, 2])
    assert_equal(kept, sums(data._replace(labels=labels)))


def test_a_class_is_removed_exactly() -> None:
    data = drawn()
    kept, of_class = sums(data), data.labels == 2
    kept.remove(data.part(of_class))
    assert_equal(kept, sums(data.part(~of_class)))
    assert kept.counts[2].abs() < 1e-12


def test_a_class_is_weighted_anew_from_its_stored_features_alone() -> None:
    data, wanted = drawn(), torch.tensor([0.5, 4.0, 3.0, 0.25], dtype=torch.float64)
    kept = sums(data)
    kept.reweight(wanted, data.part(data.labels == 1))
    assert_equal(kept, sums(data, class_weights=wanted))


def test_streams_are_merged_and_other_weights_are_refused() -> None:
    first, second = drawn(50, seed=3), drawn(20, seed=4)
    merged = sums(first)
    merged.merge(sums(second))
    assert_equal(merged, sums(first, second))
    with pytest.raises(ValueError, match="equal class weights"):
        merged.merge(sums(second, class_weights=2 * CLASS_WEIGHTS))


def test_new_classes_leave_the_sums_of_the_others_as_they_are() -> None:
    data, more = drawn(), drawn(15, seed=5)
    later = more._replace(labels=more.labels % 2 + CLASSES)
    kept = sums(data)
    before = kept.sums.clone()
    grown = kept.grown(2)
    grown.add(later)
    assert torch.equal(grown.sums[:CLASSES], before)
    both = Samples(
        torch.cat([data.features, later.features]),
        torch.cat([data.labels, later.labels]),
        torch.cat([data.weights, later.weights]),
        torch.arange(95),
        data.projection,
    )
    ones = torch.ones(2, dtype=torch.float64)
    assert_equal(grown, sums(both, class_weights=torch.cat([CLASS_WEIGHTS, ones])))


@pytest.mark.parametrize("name", ["ridge", "lda"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_of_a_trunk_that_diverged_are_told_in_one_line(name: str, value: float) -> None:
    features, labels = torch.randn(8, 3), torch.arange(2).repeat(4)
    features[5, 1] = value
    zeros = torch.zeros(2)
    before = Classifier(Head.parse("linear"), 3, {}, zeros, torch.tensor([4, 4]), zeros[:1])
    available = {"classifier": before, "features": features, "labels": labels}
    with pytest.raises(ArithmeticError, match="features of training images are NaN or infinite"):
        Rebalancer.parse(name).call_with(available)
