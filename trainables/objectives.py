"""Losses of the shelf as objectives for a head that trains on cached features."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.head_training import HeadObjective
    from trainables.methods.losses import Loss

# What a head that trains on frozen features can hand to a loss.
HEAD_TENSORS = frozenset({"logits", "labels", "class_counts", "progress"})


def head_objective(loss: Loss, class_counts: Tensor, *, num_steps: int) -> HeadObjective | None:
    """Return a loss as an objective, in the form that many heads can share if it has one.

    ``None`` is the plain cross-entropy. See `loss_objective` for the arguments.
    """
    form = FORMS.get(loss.name)
    if form is None:
        return loss_objective(loss, class_counts, num_steps=num_steps)
    found = form(loss, class_counts)
    return None if found == PLAIN else found


def loss_objective(loss: Loss, class_counts: Tensor, *, num_steps: int) -> HeadObjective:
    """Return a loss as an objective for one training, which it follows from step to step.

    Args:
        loss: Needs nothing but `HEAD_TENSORS`.
        class_counts: Training images per class ``[C]``, not what the draws make of them.
        num_steps: Steps of the training: ``progress`` goes from 0 to nearly 1 over them.
    """
    steps = count()

    def objective(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        result: Tensor = loss.supplied(
            {
                "logits": logits,
                "labels": labels,
                "class_counts": class_counts,
                "progress": next(steps) / num_steps,
            }
        )
        return result

    return objective
