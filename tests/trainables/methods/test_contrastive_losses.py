"""Losses on projections: golden vectors, slow oracles, limits; the contract is in test_losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.oracles import contrastive as oracle
from tests.helpers.vectors import golden
from trainables.functional.class_means import ClassMeans
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.losses import Loss
from trainables.methods.losses.bcl import BCL
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.losses.joint import Joint
from trainables.methods.losses.logit_adjustment import LogitAdjustment
from trainables.methods.losses.paco import PaCo
from trainables.methods.losses.proco import ProCo
from trainables.methods.losses.psc import PSC
from trainables.methods.losses.supcon import SupCon

GOLDEN = golden("longtail_contrastive")
PROCO = golden("longtail_proco")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
COUNTS = (9, 4, 2, 1)
LABELS = (0, 1, 1, 2, 0, 3, 0)


def given(*, rows: int = 7, prototypes: int = 4) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    total = rows + prototypes + 5
    unit = torch.randn(total, 3, generator=draw, dtype=torch.float64)
    unit = torch.nn.functional.normalize(unit, dim=1)
    return {
        "logits": torch.randn(rows, prototypes, generator=draw, dtype=torch.float64),
        "projections": unit[:rows],
        "prototypes": unit[rows : rows + prototypes],
        "queue": unit[rows + prototypes :],
        "queue_labels": torch.tensor([0, -1, 2, 1, -1]),
        "class_means": 0.6 * unit[rows : rows + prototypes].flip(0),
        "labels": torch.tensor(LABELS[:rows]),
        "class_counts": torch.tensor(COUNTS),
        "progress": 0.5,
    }


def two_views(features: torch.Tensor) -> torch.Tensor:
    """Return ``[B, 2, P]`` as all first views, then all second ones."""
    return torch.cat(features.unbind(dim=1))


@pytest.mark.parametrize("temperature", [0.1, 0.07])
def test_supcon_equals_official_code(temperature: float) -> None:
    case = f"supcon_t{temperature}_bt{temperature}"
    vectors = GOLDEN.inputs(case)
    features = vectors["features"].requires_grad_()
    loss = SupCon(temperature=temperature)(
        projections=two_views(features), labels=vectors["labels"].repeat(2)
    )
    (gradient,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(loss, GOLDEN.output(case, "loss"), **EXACT)
    torch.testing.assert_close(gradient, GOLDEN.output(case, "grad_features"), **EXACT)


def test_supcon_base_temperature_is_the_official_factor() -> None:
    batch = given()
    plain = SupCon(temperature=0.1).call_with(batch)
    torch.testing.assert_close(
        SupCon(temperature=0.1, base_temperature=0.07).call_with(batch), plain / 0.7
    )


@pytest.mark.parametrize(
    ("case", "method"),
    [
        ("psc_t1.0", PSC(temperature=1.0)),
        ("psc_softmax_variant_t1.0", PSC(temperature=1.0, denominator="all")),
    ],
)
def test_psc_equals_the_formula_evaluated_elsewhere(case: str, method: PSC) -> None:
    vectors = GOLDEN.inputs(case)
    z, prototypes = vectors["z"].requires_grad_(), vectors["prototypes"].requires_grad_()
    loss = method(projections=z, prototypes=prototypes, labels=vectors["labels"])
    gradients = torch.autograd.grad(loss, [z, prototypes])
    torch.testing.assert_close(loss, GOLDEN.output(case, "loss"), **EXACT)
    for role, gradient in zip(("grad_z", "grad_prototypes"), gradients, strict=True):
        if role in GOLDEN.cases[case]["outputs"]:
            torch.testing.assert_close(gradient, GOLDEN.output(case, role), **EXACT)


def test_bcl_equals_official_code() -> None:
    vectors = GOLDEN.inputs("bcl_balscl")
    features = vectors["features"].requires_grad_()
    prototypes = vectors["prototypes"].requires_grad_()
    loss = BCL(temperature=0.1)(
        projections=two_views(features),
        prototypes=prototypes,
        labels=vectors["labels"].repeat(2),
    )
    gradients = torch.autograd.grad(loss, [features, prototypes])
    torch.testing.assert_close(loss, GOLDEN.output("bcl_balscl", "loss"), **EXACT)
    for role, gradient in zip(("grad_features", "grad_prototypes"), gradients, strict=True):
        torch.testing.assert_close(gradient, GOLDEN.output("bcl_balscl", role), **EXACT)


def test_paco_equals_official_code() -> None:
    vectors, settings = GOLDEN.inputs("paco"), GOLDEN.cases["paco"]["hyperparameters"]
    held = len(vectors["labels"]) - settings["queue"]
    logits = vectors["sup_logits"].requires_grad_()
    loss = PaCo(alpha=settings["alpha"], temperature=settings["temperature"])(
        logits=logits,
        projections=vectors["features"][:held],
        labels=vectors["labels"][:held],
        class_counts=vectors["class_counts"],
        queue=vectors["features"][held:],
        queue_labels=vectors["labels"][held:],
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, GOLDEN.output("paco", "loss"), **EXACT)
    torch.testing.assert_close(gradient, GOLDEN.output("paco", "grad_sup_logits"), **EXACT)


def test_proco_equals_official_code_over_two_epochs() -> None:
    vectors = PROCO.inputs("proco")
    method = ProCo(temperature=PROCO.cases["proco"]["hyperparameters"]["temperature"])
    means = ClassMeans(4, dimension=128)
    means.unseen.copy_(vectors["start"])
    for step in range(4):
        if step % 2 == 0:
            means.start_epoch()
        projections = vectors["projections"][step].clone().requires_grad_()
        labels = vectors["labels"][step]
        means.observe(projections.detach(), labels)
        logits = method.class_logits(projections, means())
        loss = method(
            projections=projections,
            labels=labels,
            class_means=means(),
            class_counts=vectors["class_counts"],
        )
        (gradient,) = torch.autograd.grad(loss, projections)
        roles = {"logits": logits, "loss": loss, "grad_projections": gradient}
        for role, value in roles.items():
            wanted = PROCO.output("proco", role)[step]
            torch.testing.assert_close(value, wanted, rtol=1e-7, atol=1e-7)


def test_hybrid_schedule_equals_the_formula_evaluated_elsewhere() -> None:
    wanted = GOLDEN.output("hybrid_alpha_T200", "alpha")
    shares = torch.tensor([Joint().share(t / 200) for t in range(201)], dtype=torch.float64)
    torch.testing.assert_close(shares, wanted, **EXACT)


def test_losses_equal_slow_oracles() -> None:
    batch = given()
    rows, prototypes = batch["projections"].tolist(), batch["prototypes"].tolist()
    queue = list(zip(batch["queue"].tolist(), batch["queue_labels"].tolist(), strict=True))
    logits = batch["logits"].tolist()
    wanted = [
        (SupCon(temperature=0.3), oracle.supcon(rows, LABELS, 0.3)),
        (PSC(temperature=0.3), oracle.psc(rows, prototypes, LABELS, 0.3, others=True)),
        (
            PSC(temperature=0.3, denominator="all"),
            oracle.psc(rows, prototypes, LABELS, 0.3, others=False),
        ),
        (BCL(temperature=0.3), oracle.bcl(rows, prototypes, LABELS, 0.3)),
        (
            PaCo(alpha=0.2, temperature=0.3),
            oracle.paco(logits, rows, LABELS, COUNTS, queue, 0.2, 0.3),
        ),
        (
            ProCo(temperature=0.3),
            oracle.proco(rows, batch["class_means"].tolist(), LABELS, COUNTS, 0.3),
        ),
    ]
    for method, value in wanted:
        assert method.call_with(batch).item() == pytest.approx(value, rel=1e-9), method.name


# --- limits and rules ---------------------------------------------------------------------------


def test_an_anchor_without_a_positive_contributes_nothing() -> None:
    batch = given()
    batch["labels"] = torch.arange(7)
    assert SupCon().call_with(batch).item() == 0.0


def test_paco_without_samples_is_logit_adjusted_cross_entropy() -> None:
    batch = given(rows=1)
    batch["queue_labels"] = torch.full((5,), -1)
    torch.testing.assert_close(PaCo().call_with(batch), LogitAdjustment().call_with(batch))


def test_an_empty_place_in_the_queue_changes_nothing() -> None:
    batch = given()
    filled = batch["queue_labels"] >= 0
    short = {
        **batch,
        "queue": batch["queue"][filled],
        "queue_labels": batch["queue_labels"][filled],
    }
    torch.testing.assert_close(PaCo().call_with(batch), PaCo().call_with(short))


def test_proco_with_uniform_classes_has_the_priors_alone() -> None:
    batch = given()
    batch["class_means"] = torch.zeros(4, 3, dtype=torch.float64)
    wanted = -(batch["class_counts"] / 16).log()[batch["labels"]].mean()
    torch.testing.assert_close(ProCo().call_with(batch).item(), wanted.item(), rtol=1e-6, atol=0)
    nearly = ProCo().call_with({**batch, "class_means": given()["class_means"] * 1e-9})
    torch.testing.assert_close(nearly, ProCo().call_with(batch))


def test_proco_with_concentrated_classes_compares_with_their_directions() -> None:
    batch = given()
    batch["class_means"] = torch.nn.functional.normalize(batch["class_means"], dim=1)
    loss = ProCo().call_with(batch)
    cosines = batch["projections"] @ batch["class_means"].T / 0.1
    wanted = LogitAdjustment()(
        logits=cosines, labels=batch["labels"], class_counts=batch["class_counts"]
    )
    # what is left is of order 1 / (kappa T^2), with the cap of kappa at 1e5
    torch.testing.assert_close(loss, wanted, rtol=0, atol=2e-3)
    longer = ProCo().call_with({**batch, "class_means": (1 + 1e-12) * batch["class_means"]})
    torch.testing.assert_close(longer, loss)


def test_proco_is_finite_where_an_anchor_cancels_a_class() -> None:
    # kappa = P R / (1 - R^2) is 10 = 1 / T, so that kappa mu + z / T vanishes
    length = (-3 + (9 + 400) ** 0.5) / 20
    mean = torch.tensor([[length, 0.0, 0.0]], dtype=torch.float64)
    z = torch.tensor([[-1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = ProCo(temperature=0.1).class_logits(z, mean)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    wanted = oracle.log_bessel(0.5, 1e-9) - oracle.log_bessel(0.5, 10.0)
    assert value.item() == pytest.approx(wanted, rel=1e-9)
    assert gradient.abs().max() < 1e-6


def test_proco_of_one_class_is_nothing() -> None:
    batch = given()
    batch |= {"labels": torch.zeros(7, dtype=torch.int64), "class_counts": torch.tensor([16])}
    batch["class_means"] = batch["class_means"][:1]
    assert ProCo().call_with(batch).item() == pytest.approx(0.0, abs=1e-12)


def test_proco_is_not_moved_by_a_class_without_samples() -> None:
    batch = given()
    more = torch.cat([batch["class_means"], batch["projections"][:1] * 0.9])
    absent = {**batch, "class_means": more, "class_counts": torch.tensor([*COUNTS, 0])}
    torch.testing.assert_close(
        ProCo().call_with(absent), ProCo().call_with(batch), atol=1e-7, rtol=0
    )


def test_bcl_with_one_row_and_one_prototype_per_class_is_psc_with_all() -> None:
    batch = given(rows=1)
    torch.testing.assert_close(BCL().call_with(batch), PSC(denominator="all").call_with(batch))


@pytest.mark.parametrize("name", ["supcon", "psc", "bcl", "proco"])
def test_joint_is_a_weighted_sum(name: str) -> None:
    batch = given()
    contrast = Loss.parse(name)
    plain, other = CrossEntropy().call_with(batch), contrast.call_with(batch)
    torch.testing.assert_close(
        Joint(contrast=contrast, weight=0.4).call_with(batch), plain + 0.4 * other
    )
    cumulative = Joint(contrast=contrast, weight=1.0, schedule="cumulative")
    torch.testing.assert_close(cumulative.call_with(batch), 0.25 * plain + 0.75 * other)
    start = cumulative.call_with({**batch, "progress": 0.0})
    torch.testing.assert_close(start, other)


def test_joint_takes_labels_of_their_own_for_the_contrast() -> None:
    batch = given()
    own = {**batch, "projection_labels": torch.tensor([3, 3, 3, 3, 0, 0, 0])}
    wanted = CrossEntropy().call_with(batch) + SupCon().call_with(
        {**batch, "labels": own["projection_labels"]}
    )
    torch.testing.assert_close(Joint(weight=1.0).call_with(own), wanted)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"joint": {"base": "supcon"}},
            "joint.base: must be a loss on logits only; received 'supcon'",
        ),
        (
            {"joint": {"base": "paco"}},
            "joint.base: must be a loss on logits only; received 'paco'",
        ),
        ({"joint": {"contrast": "focal"}}, "joint.contrast: must be a loss on projections only"),
        ({"joint": {"contrast": "paco"}}, "joint.contrast: must be a loss on projections only"),
        ({"flooding": {"base": "paco"}}, "flooding.base: 'paco' needs projections, queue"),
        ({"deferred": {"base": "supcon"}}, "deferred.base: 'supcon' takes no class_weights"),
    ],
)
def test_a_wrapper_refuses_what_it_cannot_feed(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Loss.parse(written)
    assert "\n" not in str(error.value)


# --- what is trained beside the model -----------------------------------------------------------


@pytest.mark.parametrize("name", ["supcon", "psc", "bcl", "paco", "proco", "joint"])
def test_a_loss_gets_all_it_needs_from_what_it_builds(name: str) -> None:
    method = Loss.parse(name)
    companion = method.build(6, 4)
    assert companion is not None
    features = torch.randn(7, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    batch = given()
    batch = {k: batch[k].float() if k == "logits" else batch[k] for k in ("logits", "labels")}
    batch |= {"class_counts": torch.tensor(COUNTS), "progress": 0.5}
    projections = companion(features)
    torch.testing.assert_close(projections.norm(dim=1), torch.ones(7))
    method.call_with(batch | companion.supply(projections, batch["labels"])).backward()
    assert features.grad is not None
    assert features.grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in companion.parameters())


def test_the_queue_holds_the_newest_projections() -> None:
    companion = PaCo(queue_size=5, dimension=2).build(3, 4)
    assert companion is not None

    def push(*labels: int) -> list[int]:
        rows = torch.nn.functional.one_hot(torch.tensor(labels), 4)[:, :2].float()
        seen = companion.supply(rows, torch.tensor(labels))["queue_labels"]
        held = companion.queue_labels
        inside = held >= 0
        wanted = torch.nn.functional.one_hot(held[inside], 4)[:, :2].float()
        assert torch.equal(companion.queue[inside], wanted)
        return sorted(seen.tolist())

    assert push(0, 1, 2) == [-1, -1, -1, -1, -1]  # a batch is not in its own queue
    assert push(3, 3, 1) == [-1, -1, 0, 1, 2]
    assert push(0, 1, 2, 0, 1, 2) == [1, 1, 2, 3, 3]
    assert push(0) == [0, 1, 1, 2, 2]  # the newest five of six
