"""The loss formula of heads: equal to the shelf's losses, its written-out gradient to autograd."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from trainables.features.head_losses import HeadLoss, LossStack
from trainables.functional.class_weights import (
    effective_number_weights,
    filled_counts,
    inverse_power_weights,
)
from trainables.methods.losses import Loss

COUNTS = torch.tensor([50, 10, 4, 1])
PRIOR = (COUNTS / COUNTS.sum()).double()
ROWS = torch.tensor([3, 0, 5, 5, 1, 2])
LABELS = torch.tensor([0, 1, 2, 3, 0, 0])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


TEACHER = logits(7, 4, seed=9)
FORMS = {
    "plain": HeadLoss(),
    "class_weights": HeadLoss(class_weights=1 / COUNTS.double()),
    "factor": HeadLoss(factor=torch.tensor([1.0, 0.8, 0.5, 2.0]).double()),
    "offset": HeadLoss(offset=PRIOR.log()),
    "margin": HeadLoss(margin=2 * COUNTS.double().pow(-0.25)),
    "focal": HeadLoss(gamma=2.0),
    "focal_below_one": HeadLoss(gamma=0.5),
    "smoothing": HeadLoss(smoothing=torch.tensor([0.3, 0.2, 0.1, 0.0]).double()),
    "distillation": HeadLoss(distillation=0.7, teacher=TEACHER),
    "softened": HeadLoss(distillation=0.7, temperature=3.0, teacher=TEACHER),
    "everything": HeadLoss(
        class_weights=torch.tensor([0.5, 1.0, 2.0, 0.0]).double(),
        factor=torch.tensor([1.0, 0.8, 0.5, 2.0]).double(),
        offset=PRIOR.log(),
        margin=COUNTS.double().pow(-0.25),
        gamma=1.5,
        smoothing=torch.tensor([0.3, 0.2, 0.1, 0.05]).double(),
        distillation=0.4,
        temperature=2.0,
        teacher=TEACHER,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_loss_has_the_gradient_of_its_finite_differences(name: str) -> None:
    given = logits(6, 4).requires_grad_()
    assert gradcheck(lambda z: FORMS[name](z, LABELS, ROWS), [given], atol=1e-7)


@pytest.mark.parametrize("name", FORMS)
def test_the_written_out_gradient_is_that_of_autograd(name: str) -> None:
    given = logits(6, 4).requires_grad_()
    (expected,) = torch.autograd.grad(FORMS[name](given, LABELS, ROWS), given)
    stack = LossStack([FORMS[name]], num_classes=4, like=expected)
    found = stack.gradient(given.detach().clone()[:, :, None], LABELS, ROWS)[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_heads_with_different_losses_do_not_touch_each_other() -> None:
    together = logits(6, 4, len(FORMS))
    stack = LossStack(list(FORMS.values()), num_classes=4, like=together)
    found = stack.gradient(together.clone(), LABELS, ROWS)
    for place, loss in enumerate(FORMS.values()):
        given = together[..., place].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(given, LABELS, ROWS), given)
        torch.testing.assert_close(found[..., place], expected, rtol=1e-12, atol=1e-14)


def test_some_heads_of_a_stack_keep_their_losses() -> None:
    together = logits(6, 4, 3)
    stack = LossStack(
        [FORMS["offset"], FORMS["focal"], FORMS["smoothing"]], num_classes=4, like=together
    )
    whole = stack.gradient(together.clone(), LABELS, ROWS)
    part = stack.select([2, 0]).gradient(together[..., [2, 0]].clone(), LABELS, ROWS)
    torch.testing.assert_close(part, whole[..., [2, 0]])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_certain_sample_has_a_focal_gradient_of_zero(gamma: float) -> None:
    certain = torch.tensor([[60.0, 0.0], [200.0, 0.0], [0.0, 40.0]])[:, :, None]
    stack = LossStack([HeadLoss(gamma=gamma)], num_classes=2, like=certain)
    found = stack.gradient(certain.clone(), torch.tensor([0, 0, 1]), torch.arange(3))
    assert bool(found.isfinite().all())
    assert float(found.abs().max()) < 1e-8


def test_a_batch_of_weight_zero_has_no_gradient() -> None:
    given = logits(2, 2, 1)
    stack = LossStack([HeadLoss(class_weights=torch.tensor([0.0, 1.0]))], num_classes=2, like=given)
    found = stack.gradient(given, torch.tensor([0, 0]), torch.arange(2))
    assert bool((found == 0).all())


def test_two_teachers_are_refused() -> None:
    losses = [HeadLoss(distillation=0.5, teacher=TEACHER.clone()) for _ in range(2)]
    with pytest.raises(ValueError, match="same distillation teacher"):
        LossStack(losses, num_classes=4, like=TEACHER)


def test_a_temperature_leaves_the_size_of_the_gradient() -> None:
    given = torch.zeros(1, 4, 2, dtype=torch.float64)
    teacher = 1e-4 * TEACHER
    losses = [HeadLoss(distillation=1.0, temperature=t, teacher=teacher) for t in (1.0, 10.0)]
    stack = LossStack(losses, num_classes=4, like=given)
    found = stack.gradient(given, LABELS[:1], ROWS[:1])
    torch.testing.assert_close(found[..., 0], found[..., 1], rtol=1e-3, atol=0.0)


SHELF: dict[str, tuple[object, HeadLoss]] = {
    "cross_entropy": ("cross_entropy", HeadLoss()),
    "cost_sensitive": (
        "cost_sensitive",
        HeadLoss(class_weights=inverse_power_weights(COUNTS, power=1.0)),
    ),
    "class_balanced": (
        {"class_balanced": {"beta": 0.99}},
        HeadLoss(class_weights=effective_number_weights(COUNTS, beta=0.99)),
    ),
    "balanced_softmax": ("balanced_softmax", HeadLoss(offset=COUNTS.double().log())),
    "logit_adjustment": (
        {"logit_adjustment": {"tau": 0.5}},
        HeadLoss(offset=(PRIOR.pow(0.5) + 1e-12).log()),
    ),
    "ldam": (
        {"ldam": {"scale": 10.0, "reweight_from": None}},
        HeadLoss(margin=5.0 * filled_counts(COUNTS).pow(-0.25)),
    ),
    "cdt": ({"cdt": {"gamma": 0.3}}, HeadLoss(factor=(COUNTS / 50).double().pow(0.3))),
    "focal": ({"focal": {"form": "softmax", "gamma": 2.0}}, HeadLoss(gamma=2.0)),
    "label_smoothing": (
        {"label_smoothing": {"epsilon": 0.1}},
        HeadLoss(smoothing=torch.full((4,), 0.1).double()),
    ),
    "label_smoothing_of_others": (
        {"label_smoothing": {"epsilon": 0.1, "spread": "others"}},
        HeadLoss(smoothing=torch.full((4,), 0.1 * 4 / 3).double()),
    ),
    "label_aware_smoothing": (
        {"label_aware_smoothing": {"head": 0.3, "tail": 0.0}},
        HeadLoss(smoothing=0.3 * torch.sin((COUNTS - 1) / 49 * math.pi / 2).double()),
    ),
}


@pytest.mark.parametrize("name", SHELF)
def test_the_formula_holds_the_losses_of_the_shelf(name: str) -> None:
    chosen, same = SHELF[name]
    given = logits(6, 4, seed=3)
    loss = Loss.parse(chosen)
    expected = loss.call_with({"logits": given, "labels": LABELS, "class_counts": COUNTS})
    # 1e-6: some of the shelf's numbers are made in float32
    assert float(same(given, LABELS, ROWS)) == pytest.approx(float(expected), rel=1e-6)
