"""Samplers: golden vectors, exact oracles, and one contract for all that stand on the shelf."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch

from tests.helpers.oracles import samplers as oracle
from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.samplers import Sampler
from trainables.methods.samplers.class_aware import ClassAware
from trainables.methods.samplers.class_balanced import ClassBalanced
from trainables.methods.samplers.deferred import Deferred
from trainables.methods.samplers.effective_number import EffectiveNumber
from trainables.methods.samplers.instance_balanced import InstanceBalanced
from trainables.methods.samplers.power import Power
from trainables.methods.samplers.progressively_balanced import ProgressivelyBalanced
from trainables.methods.samplers.random_over import RandomOver
from trainables.methods.samplers.random_under import RandomUnder
from trainables.methods.samplers.reversed import Reversed
from trainables.methods.samplers.square_root import SquareRoot

GOLDEN = golden("longtail_losses")
STREAMS = golden("longtail_data")
LABELS = [0] * 9 + [1] * 4 + [2] * 1 + [4] * 2  # class 3 has no samples


def probability(method: Sampler, labels: list[int], progress: float = 0.5) -> torch.Tensor:
    tensor = torch.tensor(labels)
    given = {"labels": tensor, "class_counts": torch.bincount(tensor), "progress": progress}
    result: torch.Tensor = method.call_with(given)
    return result


def stream(method: Sampler, labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    given = {"labels": labels, "progress": 1.0, "epochs": 5, "generator": draw}
    result: torch.Tensor = method.call_with(given)
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
    found = OFFICIAL[case].call_with({"labels": labels})
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
    found = per_class(method.call_with({"labels": labels}), labels)
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
        found = per_class(method.call_with(given), labels)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_progressive_goes_from_instance_to_class_balanced() -> None:
    for method in (ProgressivelyBalanced(), ProgressivelyBalanced(variant="official")):
        first, last = (probability(method, LABELS, progress) for progress in (0.0, 1.0))
        torch.testing.assert_close(first, probability(InstanceBalanced(), LABELS))
        torch.testing.assert_close(last, probability(ClassBalanced(), LABELS))


def test_class_aware_draws_as_official_code_does() -> None:
    case = "sampler_class_aware_MiSLAS_k4"
    labels = STREAMS.inputs(case)["labels"]
    found = stream(ClassAware(per_visit=4), labels)
    assert len(found) == int(STREAMS.output(case, "length"))
    # Which class the last visit falls to is chance, in the official code too.
    drawn = labels[found].bincount()
    assert (drawn - STREAMS.output(case, "class_counts_one_epoch")).abs().max() <= 4
    times = found.bincount(minlength=len(labels))
    for label in range(len(drawn)):
        own = times[labels == label]
        assert own.max() - own.min() <= 1
        lowest = int(STREAMS.output(case, "min_draws_per_sample")[label])
        highest = int(STREAMS.output(case, "max_draws_per_sample")[label])
        assert lowest - 1 <= own.min() <= own.max() <= highest + 1


def test_over_and_under_sampling_reach_the_targets() -> None:
    case = "random_over_under_sampling"
    counts = STREAMS.inputs(case)["class_counts"]
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    over, under = stream(RandomOver(), labels), stream(RandomUnder(), labels)
    assert torch.equal(labels[over].bincount(), STREAMS.output(case, "over_target"))
    assert torch.equal(labels[under].bincount(), STREAMS.output(case, "under_target"))
    times = over.bincount(minlength=len(labels)).double()
    each = STREAMS.output(case, "ros_expected_multiplicity")
    assert ((times == each[labels].floor()) | (times == each[labels].ceil())).all()
    assert under.bincount().max() == 1
    kept = sum(
        stream(RandomUnder(), labels, seed).bincount(minlength=len(labels)) for seed in (1, 2)
    )
    assert (kept > 0).sum() > len(under), "another seed keeps others"


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


def test_visits_go_round_the_classes_and_samples_round_their_class() -> None:
    labels = torch.tensor([0] * 6 + [2] * 2 + [3] * 3)
    found = stream(ClassAware(per_visit=2), labels)
    assert len(found) == 18
    visits = labels[found].view(-1, 2)
    assert torch.equal(visits[:, 0], visits[:, 1])
    for turn in visits[:, 0].view(-1, 3):
        assert sorted(turn.tolist()) == [0, 2, 3]
    for label, size in ((0, 6), (2, 2), (3, 3)):
        own = found[labels[found] == label]
        for turn in own.split(size):
            assert len(turn.unique()) == len(turn)


@pytest.mark.parametrize("base", [ClassBalanced(), ProgressivelyBalanced(), ClassAware()])
def test_deferred_is_instance_balanced_and_then_its_base(base: Sampler) -> None:
    method, labels = Deferred(base=base), torch.tensor(LABELS)
    for epoch in (0, 159, 160, 199):
        given = {"labels": labels, "class_counts": torch.bincount(labels), "epochs": 200}
        given["progress"] = epoch / 199
        wanted = (base if epoch >= 160 else InstanceBalanced()).call_with(
            {**given, "generator": torch.Generator().manual_seed(0)}
        )
        found = method.call_with({**given, "generator": torch.Generator().manual_seed(0)})
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(("epochs", "start", "first"), [(5, 0.5, 3), (10, 0.8, 8), (2, 0.0, 0)])
def test_deferred_counts_epochs_that_are_done(epochs: int, start: float, first: int) -> None:
    method, labels = Deferred(start=start), torch.tensor(LABELS)
    for epoch in range(epochs):
        progress = epoch / (epochs - 1)
        found = method.call_with({"labels": labels, "progress": progress, "epochs": epochs})
        assert (len(found.unique()) > 1) == (epoch >= first)


def test_deferred_needs_what_its_base_needs() -> None:
    with pytest.raises(TypeError, match="class_aware needs generator"):
        Deferred(base=ClassAware()).call_with({"labels": torch.tensor(LABELS), "progress": 1.0})


# --- the contract -------------------------------------------------------------------------------


def writes_streams(method: Sampler) -> bool:
    return "generator" in getattr(method, "base", method).required_inputs()


EVERYTHING = list(variants(Sampler))
anything = pytest.mark.parametrize("method", EVERYTHING)
everything = pytest.mark.parametrize(
    "method", [case for case in EVERYTHING if not writes_streams(case.values[0])]
)
streamed = pytest.mark.parametrize(
    "method", [case for case in EVERYTHING if writes_streams(case.values[0])]
)


@streamed
@pytest.mark.parametrize("labels", [LABELS, [0], [5], [2] * 4, [0, 1, 2], [0, 0, 7, 7]])
def test_a_stream_has_every_class_alike_up_to_a_visit(method: Sampler, labels: list[int]) -> None:
    tensor = torch.tensor(labels)
    found = stream(method, tensor)
    assert found.dtype == torch.int64
    assert 0 <= found.min() <= found.max() < len(labels)
    drawn = tensor[found].bincount(minlength=8)[tensor.unique()]
    assert drawn.min() > 0
    assert drawn.max() - drawn.min() <= 4  # the last visits of class_aware


@streamed
def test_a_stream_repeats_with_its_seed_and_differs_without(method: Sampler) -> None:
    labels = torch.tensor(LABELS)
    assert torch.equal(stream(method, labels, 1), stream(method, labels, 1))
    assert any(
        not torch.equal(stream(method, labels, 1), stream(method, labels, s)) for s in (2, 3, 4)
    )


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


@anything
def test_no_labels_are_refused(method: Sampler) -> None:
    given: dict[str, Any] = {"labels": torch.empty(0, dtype=torch.int64), "progress": 0.0}
    given["generator"] = torch.Generator()
    with pytest.raises(ValueError, match="at least one label"):
        method.call_with(given)


@anything
def test_json_round_trip(method: Sampler) -> None:
    assert Sampler.parse(method.dump()) == method
