"""Losses: golden vectors, slow oracles, and one contract for all that stand on the shelf."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers.oracles import losses as oracle
from tests.helpers.vectors import golden, variants
from trainables.functional.class_weights import effective_number_weights, inverse_power_weights
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.losses import Loss
from trainables.methods.losses.arcface import ArcFace
from trainables.methods.losses.balanced_softmax import BalancedSoftmax
from trainables.methods.losses.cdt import CDT
from trainables.methods.losses.class_balanced import ClassBalanced
from trainables.methods.losses.cosface import CosFace
from trainables.methods.losses.cost_sensitive import CostSensitive
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.losses.deferred import Deferred
from trainables.methods.losses.flooding import Flooding
from trainables.methods.losses.focal import Focal
from trainables.methods.losses.influence_balanced import InfluenceBalanced
from trainables.methods.losses.joint import Joint
from trainables.methods.losses.label_aware_smoothing import LabelAwareSmoothing
from trainables.methods.losses.label_smoothing import LabelSmoothing
from trainables.methods.losses.lade import LADE
from trainables.methods.losses.ldam import LDAM
from trainables.methods.losses.logit_adjustment import LogitAdjustment
from trainables.methods.losses.seesaw import Seesaw

GOLDEN = golden("longtail_losses")
COUNTS = (60, 25, 9, 3)
TAKE_WEIGHTS = sorted(
    n for n, c in Loss.shelf.items() if "class_weights" in inspect.signature(c.__call__).parameters
)


def batch(
    size: int = 8, *, counts: tuple[int, ...] = COUNTS, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Everything a stage can offer a loss, late in training."""
    draw = torch.Generator().manual_seed(size)
    classes = len(counts)
    unit = torch.nn.functional.normalize(
        torch.randn(size + classes + 6, 5, generator=draw, dtype=torch.float64), dim=1
    ).to(dtype)
    return {
        "logits": (3 * torch.randn(size, classes, generator=draw, dtype=torch.float64)).to(dtype),
        "expert_logits": torch.randn(size, 3, classes, generator=draw, dtype=torch.float64).to(
            dtype
        ),
        "features": torch.randn(size, 6, generator=draw, dtype=torch.float64).to(dtype),
        "projections": unit[:size],
        "prototypes": unit[size : size + classes],
        "queue": unit[size + classes :],
        "queue_labels": (torch.arange(6) % (classes + 1) - 1),  # -1: nothing there yet
        "class_means": 0.7 * unit[size : size + classes].flip(0),
        "labels": torch.arange(size) % classes,
        "class_counts": torch.tensor(counts),
        "progress": 0.9,
        "generator": torch.Generator().manual_seed(1),
    }


def with_gradient(method: Loss, given: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the loss and its gradients with respect to all float inputs that it uses."""
    inputs = {
        k: v.clone().requires_grad_()
        for k, v in given.items()
        if isinstance(v, torch.Tensor) and v.is_floating_point()
    }
    loss = method.call_with({**given, **inputs})
    gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return loss.detach(), [g for g in gradients if g is not None]


# --- golden vectors: what official code gives ---------------------------------------------------

DRW = 160 / 200
OFFICIAL: dict[str, tuple[Loss, float]] = {
    "ce": (CrossEntropy(), 0.0),
    "focal_softmax_g0.5": (Focal(gamma=0.5), 0.0),
    "focal_softmax_g1.0": (Focal(gamma=1.0), 0.0),
    "bot_focal_sigmoid": (Focal(gamma=2.0, form="sigmoid"), 0.0),
    "ldam": (LDAM(), 0.0),
    "ldam_drw": (LDAM(), DRW),
    # The port counts epochs from 1, so its epoch 160 is our 159: re-weighting starts there.
    "bot_ldam_drw_ep160": (LDAM(reweight_from=159 / 200), 159 / 200),
    "cb_softmax_b0.9999": (ClassBalanced(normalize="plain"), 0.0),
    "cb_focal_b0.9999_g1.0": (ClassBalanced(base="focal", normalize="plain"), 0.0),
    "bot_cb_ce": (ClassBalanced(beta=0.999), 0.0),
    "lift_cb": (ClassBalanced(), 0.0),
    "lift_lade": (LADE(), 0.0),
    "logit_adjust_loss_tau0.5": (LogitAdjustment(tau=0.5), 0.0),
    "logit_adjust_loss_tau1.0": (LogitAdjustment(), 0.0),
    "bcl_logit_adjust": (LogitAdjustment(), 0.0),
    "lift_la": (LogitAdjustment(), 0.0),
    "balanced_softmax": (BalancedSoftmax(), 0.0),
    "bot_bsce": (BalancedSoftmax(), 0.0),
    "cs_ce_g0.5": (CostSensitive(gamma=0.5), 0.0),
    "disalign_grw_rho0.0": (CostSensitive(gamma=0.0), 0.0),
    "disalign_grw_rho0.8": (CostSensitive(gamma=0.8), 0.0),
    "cdt": (CDT(gamma=0.2), 0.0),
    "influence_balanced": (InfluenceBalanced(start=None), 0.0),
    "mislas_las_concave_h0.3_t0.0": (LabelAwareSmoothing(), 0.0),
    "mislas_las_linear_h0.4_t0.1": (LabelAwareSmoothing(head=0.4, tail=0.1, shape="linear"), 0.0),
    "mislas_las_convex_h0.4_t0.1": (LabelAwareSmoothing(head=0.4, tail=0.1, shape="convex"), 0.0),
    "mislas_las_exp0.5_h0.4_t0.1": (
        LabelAwareSmoothing(head=0.4, tail=0.1, shape="exponential", power=0.5),
        0.0,
    ),
    "mislas_las_exp2.0_h0.4_t0.1": (
        LabelAwareSmoothing(head=0.4, tail=0.1, shape="exponential", power=2.0),
        0.0,
    ),
}


@pytest.mark.parametrize("case", OFFICIAL)
def test_loss_and_gradient_equal_official_code(case: str) -> None:
    method, progress = OFFICIAL[case]
    given = GOLDEN.inputs(case)
    cosines = given.pop("cosine_logits", None)
    leaf = (given["logits"] if cosines is None else cosines).requires_grad_()
    given["logits"] = leaf if cosines is None else 30 * leaf
    given["class_counts"] = torch.from_numpy(GOLDEN.arrays["in/counts10"])
    loss = method.call_with({**given, "progress": progress})
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(loss, GOLDEN.output(case, "loss"), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, GOLDEN.output(case, "grad_logits"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "beta"),
    [
        ("cb_weights_b0.99", 0.99),
        ("cb_weights_b0.999", 0.999),
        ("ldam_drw_weights_ep160", LDAM().beta),
    ],
)
def test_effective_number_weights_equal_official_code(case: str, beta: float) -> None:
    weights = effective_number_weights(GOLDEN.inputs(case)["class_counts"], beta=beta)
    torch.testing.assert_close(weights, GOLDEN.output(case, "weights"), rtol=1e-9, atol=1e-9)


def test_generalized_reweighting_weights_equal_official_code() -> None:
    weights = inverse_power_weights(GOLDEN.inputs("disalign_grw_rho0.8")["class_counts"], power=0.8)
    wanted = GOLDEN.output("disalign_grw_rho0.8", "weights")
    torch.testing.assert_close(weights, wanted, rtol=1e-9, atol=1e-9)


def test_margins_equal_official_code() -> None:
    margins = LDAM().margins(GOLDEN.inputs("ldam_margins")["class_counts"])
    torch.testing.assert_close(margins, GOLDEN.output("ldam_margins", "margins"), rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", [c for c in OFFICIAL if c.startswith("mislas_las")])
def test_smoothing_per_class_equals_official_code(case: str) -> None:
    method = OFFICIAL[case][0]
    assert isinstance(method, LabelAwareSmoothing)
    smooth = method.smoothing(GOLDEN.inputs(case)["class_counts"])
    torch.testing.assert_close(smooth, GOLDEN.output(case, "smooth"), rtol=1e-9, atol=1e-9)


def test_lade_is_balanced_softmax_less_a_bound_per_class() -> None:
    """The bound once more: classes one by one, sums in plain numbers."""
    rows, labels = [[0.3, -1.0, 2.0], [1.5, 0.2, -0.4], [0.1, 0.9, 0.0]], [2, 0, 0]
    counts, regularizer = [5, 3, 2], 0.4
    total = 0.0
    for c, n in enumerate(counts):
        prior = n / sum(counts)
        own = [row[c] for row, label in zip(rows, labels, strict=True) if label == c]
        first = sum(own) / len(own) if own else 0.0
        alike = [row[c] - math.log(prior) - math.log(len(counts)) for row in rows]
        second = math.log(sum(math.exp(z) for z in alike) / len(rows))
        total += prior * (first - second - regularizer * second**2)
    given = {
        "logits": torch.tensor(rows, dtype=torch.float64),
        "labels": torch.tensor(labels),
        "class_counts": torch.tensor(counts),
    }
    found = LADE(weight=0.7, regularizer=regularizer)(**given)
    assert float(found - BalancedSoftmax()(**given)) == pytest.approx(-0.7 * total, abs=1e-7)


# --- slow oracles: the formula once more, sample by sample --------------------------------------

Each = Callable[[list[float], list[float], int], float]
C = list(COUNTS)
ORACLES: list[tuple[Loss, Each, list[float] | None]] = [
    (CrossEntropy(), lambda z, x, y: oracle.cross_entropy(z, y), None),
    (Focal(gamma=1.7), lambda z, x, y: oracle.focal(z, y, 1.7), None),
    (Focal(gamma=1.7, form="detached"), lambda z, x, y: oracle.focal(z, y, 1.7), None),
    (Focal(gamma=1.7, form="sigmoid"), lambda z, x, y: oracle.binary_sum(z, y, 1.7), None),
    (
        ClassBalanced(beta=0.9),
        lambda z, x, y: oracle.cross_entropy(z, y),
        oracle.effective_weights(C, 0.9),
    ),
    (
        ClassBalanced(beta=0.9, base="sigmoid"),
        lambda z, x, y: oracle.binary_sum(z, y, 0.0),
        oracle.effective_weights(C, 0.9),
    ),
    (
        ClassBalanced(beta=0.9, base="focal", gamma=0.5, normalize="plain"),
        lambda z, x, y: oracle.effective_weights(C, 0.9)[y] * oracle.binary_sum(z, y, 0.5),
        None,
    ),
    (
        CostSensitive(gamma=0.7),
        lambda z, x, y: oracle.cross_entropy(z, y),
        oracle.inverse_weights(C, 0.7),
    ),
    (LogitAdjustment(tau=1.4), lambda z, x, y: oracle.logit_adjustment(z, y, C, 1.4), None),
    (BalancedSoftmax(), lambda z, x, y: oracle.balanced_softmax(z, y, C), None),
    (
        LDAM(max_margin=0.4, scale=5.0, reweight_from=None),
        lambda z, x, y: oracle.ldam(z, y, C, 0.4, 5.0),
        None,
    ),
    (
        LDAM(max_margin=0.4, scale=5.0, beta=0.99),
        lambda z, x, y: oracle.ldam(z, y, C, 0.4, 5.0),
        oracle.effective_weights(C, 0.99),
    ),
    (
        Deferred(base=CDT(gamma=0.3), weighting="power", power=0.5),
        lambda z, x, y: oracle.cdt(z, y, C, 0.3),
        oracle.inverse_weights(C, 0.5),
    ),
    (LabelSmoothing(epsilon=0.2), lambda z, x, y: oracle.smoothed(z, y, 0.2, others=False), None),
    (
        LabelSmoothing(epsilon=0.2, spread="others"),
        lambda z, x, y: oracle.smoothed(z, y, 0.2, others=True),
        None,
    ),
    *(
        (
            LabelAwareSmoothing(head=0.5, tail=0.1, shape=shape, variant=variant),
            lambda z, x, y, shape=shape, variant=variant: oracle.smoothed(
                z, y, oracle.label_aware(C, 0.5, 0.1, shape)[y], others=variant == "paper"
            ),
            None,
        )
        for shape in ("concave", "linear", "convex", "exponential")
        for variant in ("paper", "official")
    ),
    (CDT(gamma=0.3), lambda z, x, y: oracle.cdt(z, y, C, 0.3), None),
    *(
        (
            InfluenceBalanced(alpha=7.0, variant=variant),
            lambda z, x, y: oracle.influence_balanced(z, x, y, C, 7.0),
            None,
        )
        for variant in ("paper", "official")
    ),
    (Seesaw(p=0.6, q=1.5), lambda z, x, y: oracle.seesaw(z, y, C, 0.6, 1.5, 0.01), None),
    (CosFace(margin=0.3, scale=12.0), lambda z, x, y: oracle.cosface(z, y, 0.3, 12.0), None),
    (ArcFace(margin=0.4, scale=12.0), lambda z, x, y: oracle.arcface(z, y, 0.4, 12.0), None),
    (
        Deferred(base=ArcFace(margin=1.2, scale=12.0), weighting="power"),
        lambda z, x, y: oracle.arcface(z, y, 1.2, 12.0),
        oracle.inverse_weights(C, 1.0),
    ),
]


@pytest.mark.parametrize(
    ("method", "each", "weights"), ORACLES, ids=lambda v: getattr(v, "name", "")
)
def test_loss_equals_a_slow_oracle(method: Loss, each: Each, weights: list[float] | None) -> None:
    given = batch(7, dtype=torch.float64)
    labels = given["labels"].tolist()
    rows = zip(given["logits"].tolist(), given["features"].tolist(), labels, strict=True)
    losses = [each(*row) for row in rows]
    wanted = oracle.weighted(losses, labels, weights or [1.0] * len(COUNTS))
    assert method.call_with(given).item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("method", [ArcFace(margin=0.0), CosFace(margin=0.0)])
def test_without_a_margin_it_is_cross_entropy(method: Loss) -> None:
    given = batch(dtype=torch.float64)
    torch.testing.assert_close(method.call_with(given), CrossEntropy().call_with(given))


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("cosine", [-1.0, -0.99, -0.5, 0.0, 0.7, 0.99, 1.0])
def test_a_margin_of_the_angle_follows_its_formula_all_round(margin: float, cosine: float) -> None:
    row = [12.0 * cosine, 3.0]
    method = ArcFace(margin=margin, scale=12.0)
    loss = method(logits=torch.tensor([row], dtype=torch.float64), labels=torch.tensor([0]))
    # the clamp at the ends costs 1e-6 of the cosine, 1.4e-3 of the angle
    assert loss.item() == pytest.approx(oracle.arcface(row, 0, margin, 12.0), abs=0.02)


@pytest.mark.parametrize("method", [ArcFace(margin=0.5), ArcFace(margin=1.5), CosFace()])
def test_a_margin_costs_and_a_better_cosine_pays(method: Loss) -> None:
    cosines = torch.linspace(-1, 1, 401, dtype=torch.float64)
    labels = torch.tensor([0])
    rows = [torch.stack([30 * c, torch.zeros_like(c)])[None] for c in cosines]
    losses = torch.stack([method(logits=row, labels=labels) for row in rows])
    plain = torch.stack([CrossEntropy()(logits=row, labels=labels) for row in rows])
    assert (losses > plain).all()
    assert (losses.diff() < 0).all()


# --- the contract: every loss on the shelf, with every value its fields list --------------------

WRAPPED = [
    *(Deferred(base=Loss.parse(name)) for name in TAKE_WEIGHTS),
    *(
        Flooding(base=Loss.parse(name))
        for name, cls in sorted(Loss.shelf.items())
        if name != "flooding" and not {"projections", "expert_logits"} & cls.required_inputs()
    ),
    *(Joint(base=Loss.parse(name)) for name in ("logit_adjustment", "deferred", "flooding")),
]
ALL = [*variants(Loss), *(pytest.param(m, id=f"{m.name}-of-{m.base.name}") for m in WRAPPED)]
everything = pytest.mark.parametrize("method", ALL)


@everything
def test_scalar_with_finite_gradient(method: Loss) -> None:
    loss, gradients = with_gradient(method, batch())
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert gradients
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients)


@everything
def test_half_precision_input_is_computed_in_float32(method: Loss) -> None:
    half = batch(dtype=torch.bfloat16)
    full = {
        k: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in half.items()
    }
    loss, gradients = with_gradient(method, half)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, with_gradient(method, full)[0])
    assert all(g.isfinite().all() for g in gradients)


@everything
def test_a_class_without_samples_is_harmless(method: Loss) -> None:
    given = batch(counts=(60, 0, 9, 0))
    given["labels"] = given["labels"] // 2 * 2  # only classes that have samples
    loss, gradients = with_gradient(method, given)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)


@everything
def test_a_label_of_a_class_without_samples_has_a_finite_loss(method: Loss) -> None:
    loss, gradients = with_gradient(method, batch(counts=(60, 0, 9, 3)))
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)


@everything
@pytest.mark.parametrize("counts", [(5, 2, 1), (4,)], ids=["three classes", "one class"])
def test_single_sample(method: Loss, counts: tuple[int, ...]) -> None:
    loss, gradients = with_gradient(method, batch(1, counts=counts))
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)


@everything
def test_extreme_logits_stay_finite(method: Loss) -> None:
    given = batch()
    given["logits"] = given["logits"].sign() * 1e4
    loss, gradients = with_gradient(method, given)
    assert loss.isfinite()
    assert all(g.isfinite().all() for g in gradients)


@everything
def test_order_of_the_batch_does_not_matter(method: Loss) -> None:
    given = batch(dtype=torch.float64)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    names = ("logits", "expert_logits", "features", "projections", "labels")
    shuffled = {**given, **{k: given[k][order] for k in names}}
    torch.testing.assert_close(method.call_with(shuffled), method.call_with(given))


@everything
def test_a_batch_seen_twice_has_the_same_mean(method: Loss) -> None:
    given = batch(dtype=torch.float64)
    names = ("logits", "expert_logits", "features", "projections", "labels")
    twice = {**given, **{k: torch.cat([given[k], given[k]]) for k in names}}
    same = torch.allclose(method.call_with(twice), method.call_with(given), rtol=1e-7, atol=1e-7)
    # to a loss that compares samples a copy is a positive pair; these compare with classes
    contrast = getattr(method, "contrast", method)
    compares = "projections" in method.required_inputs() and contrast.name not in ("psc", "proco")
    assert same is not compares


@everything
def test_names_of_classes_do_not_matter(method: Loss) -> None:
    given = batch(dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    renamed = {
        **given,
        "logits": given["logits"][:, order],
        "expert_logits": given["expert_logits"][:, :, order],
        "labels": order.argsort()[given["labels"]],
        "class_counts": given["class_counts"][order],
        "prototypes": given["prototypes"][order],
        "class_means": given["class_means"][order],
        "queue_labels": torch.tensor([*order.argsort().tolist(), -1])[given["queue_labels"]],
    }
    torch.testing.assert_close(method.call_with(renamed), method.call_with(given))


@everything
def test_json_round_trip(method: Loss) -> None:
    assert Loss.parse(method.dump()) == method


def constant_on_purpose(method: Loss) -> str:
    """Say why the gradient is not the derivative of the value, or nothing."""
    base = getattr(method, "base", None)
    if isinstance(base, Loss):
        return constant_on_purpose(base)
    if method.name == "focal" and method.form == "detached":
        return "the modulator is a constant"
    if method.name == "ride" and method.diversity:
        return "the mean of the experts is a constant"
    if method.name == "seesaw" and method.q:
        return "the compensation is a constant"
    if method.name == "influence_balanced" and method.variant == "paper":
        return "the influence is a constant"
    return ""


@everything
def test_gradient_is_the_derivative(method: Loss) -> None:
    given = batch(4, dtype=torch.float64)
    given["labels"][3] = 0  # a pair of one class
    names = sorted(
        {"logits", "expert_logits", "projections", "prototypes"} & method.required_inputs()
    )

    def of_inputs(*inputs: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = method.call_with({**given, **dict(zip(names, inputs, strict=True))})
        return loss

    leaves = tuple(given[name].clone().requires_grad_() for name in names)
    agrees = torch.autograd.gradcheck(of_inputs, leaves, raise_exception=False)
    assert agrees != bool(constant_on_purpose(method))


# --- limits and rules ---------------------------------------------------------------------------

EQUAL_TO_CROSS_ENTROPY = [
    ClassBalanced(),
    CostSensitive(),
    LogitAdjustment(),
    BalancedSoftmax(),
    CDT(),
    Seesaw(q=0.0),
    Deferred(),
    Flooding(level=0.0),
    LabelAwareSmoothing(head=0.0),
]


@pytest.mark.parametrize("method", EQUAL_TO_CROSS_ENTROPY, ids=lambda m: m.name)
def test_equal_counts_reduce_to_cross_entropy(method: Loss) -> None:
    given = batch(counts=(7, 7, 7, 7), dtype=torch.float64)
    torch.testing.assert_close(method.call_with(given), CrossEntropy().call_with(given))


NO_STRENGTH = [
    ClassBalanced(beta=0.0),
    CostSensitive(gamma=0.0),
    LogitAdjustment(tau=0.0),
    CDT(gamma=0.0),
    Focal(gamma=0.0),
    Focal(gamma=0.0, form="detached"),
    LabelSmoothing(epsilon=0.0),
    LabelAwareSmoothing(head=0.0, tail=0.0),
    Seesaw(p=0.0, q=0.0),
    Deferred(start=1.0),
    InfluenceBalanced(start=1.0),
]


@pytest.mark.parametrize("method", NO_STRENGTH, ids=lambda m: m.name)
def test_strength_zero_is_cross_entropy(method: Loss) -> None:
    given = batch(dtype=torch.float64)
    torch.testing.assert_close(method.call_with(given), CrossEntropy().call_with(given))


def test_label_smoothing_over_all_classes_equals_torch() -> None:
    given = batch(dtype=torch.float64)
    wanted = torch.nn.functional.cross_entropy(
        given["logits"], given["labels"], label_smoothing=0.3
    )
    torch.testing.assert_close(LabelSmoothing(epsilon=0.3).call_with(given), wanted)


def test_weighted_cross_entropy_equals_torch() -> None:
    given = batch(dtype=torch.float64)
    weights = torch.tensor([0.2, 1.0, 3.0, 0.0], dtype=torch.float64)
    wanted = torch.nn.functional.cross_entropy(given["logits"], given["labels"], weights)
    torch.testing.assert_close(
        CrossEntropy().call_with({**given, "class_weights": weights}), wanted
    )


@pytest.mark.parametrize("name", TAKE_WEIGHTS)
def test_class_weights_of_one_change_nothing_and_others_do(name: str) -> None:
    method, given = Loss.parse(name), batch(dtype=torch.float64)
    plain = method.call_with({**given, "progress": 0.0})
    ones = method.call_with({**given, "class_weights": torch.ones(4)})
    torch.testing.assert_close(ones, plain)
    skewed = method.call_with({**given, "class_weights": torch.tensor([9.0, 1.0, 1.0, 1.0])})
    assert not torch.allclose(skewed, plain)


def test_weights_start_at_the_epoch_that_the_fraction_names() -> None:
    given, loss = batch(dtype=torch.float64), LDAM()
    before = loss.call_with({**given, "progress": 159 / 200})
    torch.testing.assert_close(before, LDAM(reweight_from=None).call_with(given))
    after = loss.call_with({**given, "progress": 160 / 200})
    assert not torch.allclose(before, after)


def test_deferred_gives_any_loss_what_ldam_has_built_in() -> None:
    given = batch(dtype=torch.float64)
    for progress in (0.5, 0.9):
        given["progress"] = progress
        wrapped = Deferred(base=LDAM(reweight_from=None)).call_with(given)
        torch.testing.assert_close(wrapped, LDAM().call_with(given))


def test_deferred_refuses_a_base_without_class_weights() -> None:
    with pytest.raises(ValueError, match=r"deferred.base: 'class_balanced' takes no class_weights"):
        Loss.parse({"deferred": {"base": "class_balanced"}})


def test_wrapper_is_written_as_nested_settings() -> None:
    method = Loss.parse({"flooding": {"base": {"ldam": {"max_margin": 0.3}}, "level": 0.1}})
    assert method == Flooding(base=LDAM(max_margin=0.3), level=0.1)
    with pytest.raises(ValueError, match="did you mean 'ldam'"):
        Loss.parse({"flooding": {"base": "ldan"}})


def test_wrapper_says_what_its_base_lacks() -> None:
    given = {k: v for k, v in batch().items() if k != "features"}
    with pytest.raises(TypeError, match="influence_balanced needs features"):
        Flooding(base=InfluenceBalanced()).call_with(given)


def test_flooding_turns_the_gradient_around_below_the_level() -> None:
    given = batch(dtype=torch.float64)
    value = CrossEntropy().call_with(given).item()
    _, (plain,) = with_gradient(CrossEntropy(), given)
    above, (kept, *_) = with_gradient(Flooding(level=0.5 * value), given)
    below, (turned, *_) = with_gradient(Flooding(level=2.0 * value), given)
    assert above.item() == pytest.approx(value)
    assert below.item() == pytest.approx(3 * value)
    torch.testing.assert_close(kept, plain)
    torch.testing.assert_close(turned, -plain)


def test_official_focal_weights_bend_the_modulator() -> None:
    given = batch(dtype=torch.float64)
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    rows = zip(given["logits"].tolist(), given["labels"].tolist(), strict=True)
    entropies = [weights[y].item() * oracle.cross_entropy(z, y) for z, y in rows]
    wanted = sum((1 - 2.718281828459045**-e) * e for e in entropies) / len(entropies)
    loss = Focal(gamma=1.0, variant="official").call_with({**given, "class_weights": weights})
    assert loss.item() == pytest.approx(wanted, rel=1e-9)


def test_an_absent_class_does_not_change_the_weights_of_others() -> None:
    counts = torch.tensor([60, 9, 3])
    absent = torch.tensor([60, 0, 9, 3])
    for weigh in (
        lambda c: effective_number_weights(c, beta=0.99),
        lambda c: inverse_power_weights(c, power=1.0),
        LDAM().margins,
        LabelAwareSmoothing().smoothing,
    ):
        torch.testing.assert_close(weigh(absent)[[0, 2, 3]], weigh(counts))
        torch.testing.assert_close(weigh(absent)[1], weigh(counts)[2])


def test_effective_number_near_one_keeps_its_digits() -> None:
    counts = torch.tensor([10, 1])
    weights = effective_number_weights(counts, beta=1 - 1e-12)
    torch.testing.assert_close(weights, inverse_power_weights(counts, power=1.0), rtol=1e-9, atol=0)
