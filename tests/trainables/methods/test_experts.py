"""Experts: losses against golden vectors and slow oracles, the head, and the stage."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.helpers.oracles import losses as oracle
from tests.helpers.vectors import golden
from trainables.experiment import Classify
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.heads.cosine import Cosine
from trainables.methods.heads.experts import Experts
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.losses.ride import RIDE
from trainables.methods.losses.sade import SADE
from trainables.models.experts import ExpertsHead
from trainables.models.growth import grow_head
from trainables.settings import build

GOLDEN = golden("longtail_branches")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
COUNTS = (9, 4, 2)


def given(progress: float = 0.0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    experts = 2 * torch.randn(5, 3, 3, generator=draw, dtype=torch.float64)
    return {
        "expert_logits": experts,
        "logits": experts.mean(dim=1),
        "labels": torch.tensor([0, 1, 2, 0, 0]),
        "class_counts": torch.tensor(COUNTS),
        "progress": progress,
    }


# --- losses -------------------------------------------------------------------------------------


def test_ride_equals_official_code() -> None:
    vectors = GOLDEN.inputs("ride_loss_ep1")
    first = vectors["expert1"].requires_grad_()
    experts = torch.stack([first, vectors["expert2"], vectors["expert3"]], dim=1)
    loss = RIDE()(
        logits=experts.mean(dim=1),
        expert_logits=experts,
        labels=vectors["labels"],
        class_counts=vectors["class_counts"],
    )
    (gradient,) = torch.autograd.grad(loss, first)
    torch.testing.assert_close(loss, GOLDEN.output("ride_loss_ep1", "loss"), **EXACT)
    torch.testing.assert_close(gradient, GOLDEN.output("ride_loss_ep1", "grad_expert1"), **EXACT)
    weights = RIDE().temperatures(vectors["class_counts"])
    torch.testing.assert_close(
        weights, GOLDEN.output("ride_loss_ep1", "diversity_weights"), **EXACT
    )


def test_sade_equals_official_code() -> None:
    vectors = GOLDEN.inputs("sade_diverse_expert")
    experts = torch.stack([vectors[f"expert{n}"] for n in (1, 2, 3)], dim=1)
    counts = vectors["class_counts"]
    loss = SADE()(expert_logits=experts, labels=vectors["labels"], class_counts=counts)
    torch.testing.assert_close(loss, GOLDEN.output("sade_diverse_expert", "loss"), **EXACT)
    wanted = GOLDEN.output("sade_diverse_expert", "inverse_prior")
    torch.testing.assert_close(SADE.inverse_prior(counts), wanted, **EXACT)


def test_sade_equals_a_slow_oracle() -> None:
    batch = given()
    total, turned, losses = sum(COUNTS), sorted(COUNTS), []  # the counts fall with the class
    for rows, label in zip(batch["expert_logits"].tolist(), batch["labels"].tolist(), strict=True):
        prior = [math.log(n / total + 1e-9) for n in COUNTS]
        inverse = [math.log(n / total + 1e-9) for n in turned]
        second = [z + p for z, p in zip(rows[1], prior, strict=True)]
        third = [z + p - 1.5 * i for z, p, i in zip(rows[2], prior, inverse, strict=True)]
        losses.append(sum(oracle.cross_entropy(z, label) for z in (rows[0], second, third)))
    value = SADE(tau=1.5).call_with(batch).item()
    assert value == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_ride_late_in_training_equals_a_slow_oracle() -> None:
    batch = given(progress=0.9)
    method = RIDE(diversity=0.3, temperature=1.5, spread=0.2, max_margin=0.4, scale=5.0, beta=0.99)
    scaled = [3 * n / sum(COUNTS) * 0.2 + 0.8 for n in COUNTS]
    temperature = [1.5 * s / max(scaled) for s in scaled]
    mean_temperature = sum(temperature) / 3
    labels, experts = batch["labels"].tolist(), batch["expert_logits"].tolist()
    total = 0.0
    for e in range(3):
        margin = [
            oracle.ldam(rows[e], y, COUNTS, 0.4, 5.0)
            for rows, y in zip(experts, labels, strict=True)
        ]
        total += oracle.weighted(margin, labels, oracle.effective_weights(COUNTS, 0.99))
        distance = 0.0
        for rows in experts:
            mean = [sum(row[k] for row in rows) / 3 for k in range(3)]
            p = oracle.probabilities([z / t for z, t in zip(mean, temperature, strict=True)])
            q = oracle.probabilities([z / t for z, t in zip(rows[e], temperature, strict=True)])
            distance += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total -= 0.3 * mean_temperature**2 * distance / len(experts)
    assert method.call_with(batch).item() == pytest.approx(total, rel=1e-9)


def test_ride_without_diversity_and_margin_is_cross_entropy_of_each() -> None:
    batch = given()
    wanted = sum(
        CrossEntropy()(logits=z, labels=batch["labels"])
        for z in batch["expert_logits"].unbind(dim=1)
    )
    value = RIDE(diversity=0.0, max_margin=0.0, reweight_from=None).call_with(batch)
    torch.testing.assert_close(value, wanted)


def test_ride_rewards_experts_that_differ() -> None:
    batch = given()
    alike = {**batch, "expert_logits": batch["logits"][:, None].expand(-1, 3, -1)}
    assert RIDE(diversity=0.5).call_with(alike) == RIDE(diversity=0.0).call_with(alike)
    assert RIDE(diversity=0.5).call_with(batch) < RIDE(diversity=0.0).call_with(batch)


def test_sade_with_two_experts_is_one_line() -> None:
    batch = given()
    batch["expert_logits"] = batch["expert_logits"][:, :2]
    with pytest.raises(ValueError, match="sade needs 3 experts; received 2"):
        SADE().call_with(batch)


# --- the head -----------------------------------------------------------------------------------


@pytest.mark.parametrize("own", ["stage", "nothing"])
def test_the_head_answers_with_the_mean_and_grows(own: str) -> None:
    module = Experts(count=2, own=own, base=Cosine()).build(8, 3)
    assert isinstance(module, ExpertsHead)
    features = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    before = module.each(features)
    torch.testing.assert_close(module(features), before.mean(dim=1))
    parts = features.chunk(2, dim=1) if own == "stage" else (features, features)
    for number, part in enumerate(parts):
        torch.testing.assert_close(module.experts[number](part), before[:, number])
    grow_head(module, 2, features[:2])
    after = module.each(features)
    torch.testing.assert_close(after[:, :, :3], before)
    # each expert's new class points where its part of the prototype points: cosine 1, scaled
    torch.testing.assert_close(after[0, :, 3], after[1, :, 4])
    assert (after[0, :, 3] >= after[0, :, 4]).all()


def test_features_that_cannot_be_shared_out_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"experts\.count must divide the feature dimension 8"):
        Experts(count=3).build(8, 2)
    assert Experts(count=3, own="nothing").build(8, 2)(torch.zeros(1, 8)).shape == (1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ride"}, "'ride' needs the head 'experts' with some of them; received 'linear'"),
        (
            {"loss": "sade", "head": {"experts": {"count": 2}}},
            "'sade' needs the head 'experts' with 3 of them; received 'experts' with 2",
        ),
        (
            {"branches": "bbn", "head": {"experts": {"count": 3}}},
            "'bbn' needs 2 experts or another head; received 3",
        ),
    ],
)
def test_a_head_that_does_not_fit_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build(Classify, settings)
    assert "\n" not in str(error.value)


def test_weights_make_a_weighted_mean() -> None:
    features = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    module = Experts(count=3, weights=(1.0, 0.0, 3.0)).build(6, 2)
    each = module.each(features)
    torch.testing.assert_close(module(features), (each[:, 0] + 3 * each[:, 2]) / 4)
    late = Experts(count=3, weights=(0.0, 0.0, 2.0)).build(6, 2)
    torch.testing.assert_close(late(features), late.each(features)[:, 2])
    alike = Experts(count=3, weights=(0.5, 0.5, 0.5)).build(6, 2)
    torch.testing.assert_close(alike(features), alike.each(features).mean(dim=1))


@pytest.mark.parametrize("weights", [(1.0, 2.0), (0.0, 0.0, 0.0), (-1.0, 1.0, 1.0)])
def test_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights"):
        Experts(count=3, weights=weights)
