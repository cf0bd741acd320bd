"""Samplers: golden vectors, exact oracles, and one contract for all that stand on the shelf."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from oracles import samplers as oracle
from vectors import golden, variants

from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.samplers import Sampler
from trainables.methods.samplers.class_balanced import ClassBalanced
from trainables.methods.samplers.effective_number import EffectiveNumber
from trainables.methods.samplers.instance_balanced import InstanceBalanced
from trainables.methods.samplers.power import Power
from trainables.methods.samplers.progressively_balanced import ProgressivelyBalanced
from trainables.methods.samplers.reversed import Reversed
from trainables.methods.samplers.square_root import SquareRoot

GOLDEN = golden("longtail_losses")
LABELS = [0] * 9 + [1] * 4 + [2] * 1 + [4] * 2  # class 3 has no samples


def probability(method: Sampler, labels: list[int], progress: float = 0.5) -> torch.Tensor:
    tensor = torch.tensor(labels)
    given = {"labels": tensor, "class_counts": torch.bincount(tensor), "progress": progress}
    result: torch.Tensor = method.supplied(given)
    return result


def per_class(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.zeros(int(labels.max()) + 1, dtype=found.dtype).index_add_(0, labels, found)


OFFICIAL: dict[str, Sampler] = {
    "sampler_class_balanced_small": ClassBalanced(),
    "sampler_effective_number_small": EffectiveNumber(),
    "sampler_square_root_small": SquareRoot(),
    "sampler_instance_small": InstanceBalanced(),
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_probabilities_equal_official_code(case: str) -> None:
    labels = GOLDEN.inputs(case)["labels"]
    found = OFFICIAL[case].supplied({"labels": labels})
    wanted = GOLDEN.output(case, "class_prob")
    torch.testing.assert_close(per_class(found, labels), wanted, rtol=1e-9, atol=1e-9)
    if "sample_prob" in GOLDEN.cases[case]["outputs"]:
        each = GOLDEN.output(case, "sample_prob")
        torch.testing.assert_close(found, each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [Reversed(), Power(q=-1.0)], ids=lambda m: m.name)
def test_reversed_equals_official_code(method: Sampler) -> None:
    case = "bbn_reversed_sampler"
    counts = GOLDEN.inputs(case)["class_counts"]
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    found = per_class(method.supplied({"labels": labels}), labels)
    wanted = GOLDEN.output(case, "class_prob")
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_progressive_official_form_equals_official_code() -> None:
    case = "bot_sampler_progressive"
    counts = GOLDEN.inputs(case)["class_counts"]
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    method = ProgressivelyBalanced(variant="official")
    for row, epoch in enumerate(GOLDEN.cases[case]["hyperparameters"]["at_epochs"]):
        given = {"labels": labels, "progress": (epoch - 1) / 199, "epochs": 200}
        wanted = GOLDEN.output(case, "class_prob")[row]
        found = per_class(method.supplied(given), labels)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_progressive_goes_from_instance_to_class_balanced() -> None:
    for method in (ProgressivelyBalanced(), ProgressivelyBalanced(variant="official")):
        first, last = (probability(method, LABELS, progress) for progress in (0.0, 1.0))
        torch.testing.assert_close(first, probability(InstanceBalanced(), LABELS))
        torch.testing.assert_close(last, probability(ClassBalanced(), LABELS))


Share = Callable[[int, int, int], "float | Fraction"]
ORACLES: list[tuple[Sampler, Share]] = [
    (InstanceBalanced(), lambda n, total, classes: Fraction(n, total)),
    (ClassBalanced(), lambda n, total, classes: Fraction(1, classes)),
    (Reversed(), lambda n, total, classes: Fraction(1, n)),
    (SquareRoot(), lambda n, total, classes: n**0.5),
    (Power(q=0.3), lambda n, total, classes: n**0.3),
    (
        EffectiveNumber(beta=0.99),
        lambda n, total, classes: oracle.effective_share(n, Fraction(99, 100)),
    ),
    (
        ProgressivelyBalanced(),
        lambda n, total, classes: Fraction(n, total) / 2 + Fraction(1, classes) / 2,
    ),
]


@pytest.mark.parametrize(("method", "share"), ORACLES, ids=lambda v: getattr(v, "name", ""))
def test_probabilities_equal_an_exact_oracle(method: Sampler, share: Share) -> None:
    wanted = oracle.sample_probabilities(LABELS, share)
    assert probability(method, LABELS).tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Power(q=1.0), InstanceBalanced()),
        (Power(q=0.5), SquareRoot()),
        (Power(q=0.0), ClassBalanced()),
        (EffectiveNumber(beta=0.0), InstanceBalanced()),
    ],
)
def test_limits(one: Sampler, other: Sampler) -> None:
    torch.testing.assert_close(probability(one, LABELS), probability(other, LABELS))


# --- the contract -------------------------------------------------------------------------------

everything = pytest.mark.parametrize("method", list(variants(Sampler)))


@everything
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_probabilities_are_float64_positive_and_sum_to_one(
    method: Sampler, progress: float
) -> None:
    found = probability(method, LABELS, progress)
    assert found.shape == (len(LABELS),)
    assert found.dtype == torch.float64
    assert (found > 0).all()
    assert found.sum().item() == pytest.approx(1.0, abs=1e-12)


@everything
def test_samples_of_one_class_are_alike(method: Sampler) -> None:
    found, labels = probability(method, LABELS), torch.tensor(LABELS)
    for label in set(LABELS):
        assert len(found[labels == label].unique()) == 1


@everything
def test_order_and_names_of_classes_do_not_matter(method: Sampler) -> None:
    order = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))
    shuffled = torch.tensor(LABELS)[order]
    renamed = torch.tensor([3, 1, 0, 4, 2])[shuffled]
    found = probability(method, renamed.tolist())
    torch.testing.assert_close(found, probability(method, LABELS)[order])


@everything
@pytest.mark.parametrize("labels", [[0], [5], [2] * 4, [0, 1, 2], [0, 0, 7, 7]])
def test_equal_counts_are_drawn_equally(method: Sampler, labels: list[int]) -> None:
    found = probability(method, labels)
    torch.testing.assert_close(found, torch.full_like(found, 1 / len(labels)))


@everything
def test_no_labels_are_refused(method: Sampler) -> None:
    given: dict[str, Any] = {"labels": torch.empty(0, dtype=torch.int64), "progress": 0.0}
    with pytest.raises(ValueError, match="at least one label"):
        method.supplied(given)


@everything
def test_json_round_trip(method: Sampler) -> None:
    assert Sampler.parse(method.dump()) == method
