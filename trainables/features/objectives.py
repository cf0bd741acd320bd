"""Losses of ``methods/losses`` as objectives of a head that is trained on cached features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainables.features.head_losses import HeadLoss
from trainables.functional.class_weights import inverse_power_weights

if TYPE_CHECKING:
    from trainables.features.head_training import HeadObjective
    from trainables.methods.losses import Loss

# inputs of a loss that are available when a head is trained on cached features
HEAD_TENSORS = frozenset({"logits", "labels", "class_counts", "progress"})


def head_objective(loss: Loss, class_counts: Tensor, *, num_steps: int) -> HeadObjective | None:
    """Return a loss as an objective, as a `HeadLoss` if the loss has that form.

    Cross-entropy gives ``None``. See `loss_objective` for the arguments.
    """
    if loss.name == "cross_entropy":
        return None
    form = FORMS.get(loss.name)
    if form is not None:
        return form(loss, class_counts)
    return loss_objective(loss, class_counts, num_steps=num_steps)


def _label_smoothing(loss: Any, class_counts: Tensor) -> HeadLoss:
    mass = torch.full_like(class_counts, loss.epsilon, dtype=torch.float64)
    return HeadLoss(smoothing=_spread_over_all(mass, others=loss.spread == "others"))


def _label_aware_smoothing(loss: Any, class_counts: Tensor) -> HeadLoss:
    mass = loss.smoothing(class_counts)
    return HeadLoss(smoothing=_spread_over_all(mass, others=loss.variant == "paper"))


def _cost_sensitive(loss: Any, class_counts: Tensor) -> HeadLoss:
    return HeadLoss(class_weights=inverse_power_weights(class_counts, power=loss.gamma))


def _spread_over_all(mass: Tensor, *, others: bool) -> Tensor:
    """Convert mass that is spread over all or the ``others`` classes to mass spread over all."""
    classes = len(mass)
    if not others:
        return mass
    return mass * classes / (classes - 1) if classes > 1 else torch.zeros_like(mass)


FORMS: dict[str, Callable[[Any, Tensor], HeadLoss]] = {
    "label_smoothing": _label_smoothing,
    "label_aware_smoothing": _label_aware_smoothing,
    "cost_sensitive": _cost_sensitive,
}


def loss_objective(loss: Loss, class_counts: Tensor, *, num_steps: int) -> HeadObjective:
    """Return a loss as the objective of one training; each call counts as one step.

    Args:
        loss: Loss that requires only `HEAD_TENSORS`.
        class_counts: Training images per class ``[C]``, before any resampling.
        num_steps: Number of training steps, over which ``progress`` goes from 0 to nearly 1.
    """
    steps = count()

    def objective(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        result: Tensor = loss.call_with(
            {
                "logits": logits,
                "labels": labels,
                "class_counts": class_counts,
                "progress": next(steps) / num_steps,
            }
        )
        return result

    return objective
