"""The loss of a head as a handful of numbers, so that many heads can share one computation.

Most losses for a long tail are one formula with different numbers in it: class weights, an offset,
a factor or a margin on the logits, a focal power, a smoothed target, a teacher. `HeadLoss` is that
formula for one head; `LossStack` is the same for K heads at once, with its gradient written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.class_weights import weighted_mean


@dataclass(frozen=True, eq=False)
class HeadLoss:
    """``(1 - d) mean_w (1 - p_y)^gamma H(t, p) + d T^2 mean KL(teacher_T || p_T)``.

    ``p = softmax(factor * z + offset - margin_y [y])``; ``t`` puts ``1 - e_y`` on the true class
    and spreads ``e_y`` over all classes; ``mean_w`` is the mean weighted by class; ``p_T`` and
    ``teacher_T`` are softmaxes of plain logits divided by T. Fields that are ``None`` play no part.

    Args:
        class_weights: ``[C]``, normalised over each batch.
        factor: ``[C]``, multiplies the logits, e.g. class-dependent temperatures.
        offset: ``[C]``, added to the logits, e.g. the log of the class prior.
        margin: ``[C]``, subtracted from the logit of the true class.
        gamma: Focal power, >= 0.
        smoothing: ``[C]``, mass that a sample of this class spreads, in [0, 1). Spreading ``e``
            over the other classes only is ``e C / (C - 1)`` here.
        distillation: d, in [0, 1].
        temperature: T, > 0.
        teacher: Logits ``[N, C]`` of every row of the features; needed if d > 0.

    Example:
        >>> loss = HeadLoss(offset=torch.tensor([3.0, 1.0]).log())
        >>> loss(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0])).exp()  # p = 1/4
        tensor(4.)
    """

    class_weights: Tensor | None = None
    factor: Tensor | None = None
    offset: Tensor | None = None
    margin: Tensor | None = None
    gamma: float = 0.0
    smoothing: Tensor | None = None
    distillation: float = 0.0
    temperature: float = 1.0
    teacher: Tensor | None = None

    def __call__(self, logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a batch; see `head_training.HeadObjective`."""
        loss = self._classification(logits, labels)
        if self.distillation == 0 or self.teacher is None:
            return loss
        teacher = (self.teacher[rows].to(logits) / self.temperature).log_softmax(1)
        student = (logits / self.temperature).log_softmax(1)
        divergence = (teacher.exp() * (teacher - student)).sum(1).mean() * self.temperature**2
        return (1 - self.distillation) * loss + self.distillation * divergence

    def _classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the first part."""
        shifted = logits if self.factor is None else logits * self.factor.to(logits)
        if self.offset is not None:
            shifted = shifted + self.offset.to(logits)
        if self.margin is not None:
            own = torch.nn.functional.one_hot(labels, logits.shape[1])
            shifted = shifted - own * self.margin.to(logits)[labels, None]
        surprise = -shifted.log_softmax(1)
        each = surprise.gather(1, labels[:, None])[:, 0]
        if self.smoothing is not None:
            mass = self.smoothing.to(logits)[labels]
            each = (1 - mass) * each + mass * surprise.mean(1)
        if self.gamma:
            own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
            rest = shifted.softmax(1).masked_fill(own, 0.0).sum(1)
            # a certain sample has rest 0, where rest^gamma with gamma < 1 has no gradient
            each = rest.clamp(min=torch.finfo(rest.dtype).tiny).pow(self.gamma) * each
        return weighted_mean(each, labels, self.class_weights)


class LossStack:
    """The losses of K heads, and the gradient of their sum with respect to all logits.

    Every tensor has the heads as its last axis: an operation over 10 classes then runs over full
    vectors of heads, not over rows of ten. A field that no head uses costs nothing.

    Args:
        losses: One for each head.
        num_classes: C.
        like: A tensor of the dtype and device to compute in.

    Raises:
        ValueError: Two heads that distil name different teachers.
    """

    def __init__(self, losses: Sequence[HeadLoss], *, num_classes: int, like: Tensor) -> None:
        self._losses, self._classes, self._like = list(losses), num_classes, like
        self.weights = self._field("class_weights", 1.0)
        self.factor = self._field("factor", 1.0)
        self.offset = self._field("offset", 0.0)
        self.margin = self._field("margin", 0.0)
        self.smoothing = self._field("smoothing", 0.0)
        self.gamma = self._number("gamma", 0.0)
        self.distillation = self._number("distillation", 0.0)
        self.temperature = self._number("temperature", 1.0)
        teachers = [loss.teacher for loss in losses if loss.distillation]
        if any(teacher is not teachers[0] for teacher in teachers):
            raise ValueError("heads that distil together must name one teacher, the same for all")
        teacher = teachers[0] if teachers else None
        self.teacher = None if teacher is None else teacher.to(like)

    def taken(self, places: Sequence[int]) -> LossStack:
        """Return the losses of some of the heads."""
        chosen = [self._losses[place] for place in places]
        return LossStack(chosen, num_classes=self._classes, like=self._like)

    def _field(self, name: str, neutral: float) -> Tensor | None:
        """Return a field of all heads ``[C, K]``, or ``None`` if no head has it."""
        values = [getattr(loss, name) for loss in self._losses]
        if all(value is None for value in values):
            return None
        plain = self._like.new_full((self._classes,), neutral)
        return torch.stack([plain if v is None else v.to(plain) for v in values], dim=1)

    def _number(self, name: str, neutral: float) -> Tensor | None:
        """Return a number of all heads ``[K]``, or ``None`` if it is neutral for all."""
        values = [getattr(loss, name) for loss in self._losses]
        return None if set(values) == {neutral} else self._like.new_tensor(values)

    def gradient(self, logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient ``[B, C, K]`` of every head's loss; ``logits`` may be overwritten.

        Args:
            logits: ``[B, C, K]``, contiguous.
            labels: ``[B]`` int64.
            rows: ``[B]``, positions in the features.
        """
        distilled = self._distilled(logits, rows)
        own = torch.arange(len(labels), device=labels.device) * logits.shape[1] + labels
        shifted = self._shifted(logits, labels, own)
        if self.gamma is None:
            gradient = self._to_target(shifted.softmax(1), labels, own)
        else:
            gradient = self._focal(shifted, self.gamma, labels, own)
        gradient.mul_(self._share(labels))
        if self.factor is not None:
            gradient.mul_(self.factor)
        return gradient if distilled is None else gradient.add_(distilled)

    def _shifted(self, logits: Tensor, labels: Tensor, own: Tensor) -> Tensor:
        """Return the logits that the softmax sees, in the place of ``logits``."""
        if self.factor is not None:
            logits.mul_(self.factor)
        if self.offset is not None:
            logits.add_(self.offset)
        if self.margin is not None:
            _by_sample(logits).index_add_(0, own, self.margin[labels], alpha=-1)
        return logits

    def _to_target(self, probability: Tensor, labels: Tensor, own: Tensor) -> Tensor:
        """Subtract the target from the probabilities, in place."""
        if self.smoothing is None:
            target = probability.new_ones((len(own), probability.shape[2]))
        else:
            mass = self.smoothing[labels]
            probability.sub_((mass / probability.shape[1])[:, None])
            target = 1 - mass
        _by_sample(probability).index_add_(0, own, target, alpha=-1)
        return probability

    def _focal(self, shifted: Tensor, gamma: Tensor, labels: Tensor, own: Tensor) -> Tensor:
        """Return ``q^gamma (p - t + gamma p_y H / q (p - [y]))`` with ``q = 1 - p_y``."""
        probability = shifted.softmax(1)
        chosen = _by_sample(probability)[own]
        _by_sample(probability).index_fill_(0, own, 0.0)
        # the sum of the others: 1 - p_y would lose the digits of a sample that is nearly certain
        rest = probability.sum(1).clamp_(min=torch.finfo(probability.dtype).tiny)
        entropy = torch.where(rest < 0.5, -torch.log1p(-rest), -chosen.log())
        if self.smoothing is not None:
            mass = self.smoothing[labels]
            spread = shifted.logsumexp(1) - shifted.mean(1)
            entropy = (1 - mass) * entropy + mass * spread
        pull = 1 + gamma * chosen * entropy / rest
        probability.mul_(pull[:, None])
        _by_sample(probability).index_copy_(0, own, -rest * pull)
        if self.smoothing is not None:
            mass = self.smoothing[labels]
            probability.sub_((mass / probability.shape[1])[:, None])
            _by_sample(probability).index_add_(0, own, mass)
        return probability.mul_(rest.pow_(gamma)[:, None])

    def _share(self, labels: Tensor) -> Tensor:
        """Return what each sample's classification loss counts: ``[B, 1, K]`` or less."""
        part = 1.0 if self.distillation is None else 1 - self.distillation
        if self.weights is None:
            # filled where it is needed: a number that is copied to a GPU waits for it
            return self._like.new_full((), 1 / len(labels)) * part
        weights = self.weights[labels]
        total = weights.sum(0)
        return (weights * (part / torch.where(total > 0, total, 1.0)))[:, None]

    def _distilled(self, logits: Tensor, rows: Tensor) -> Tensor | None:
        """Return the gradient of the divergence from the teacher, times its weight."""
        if self.teacher is None or self.distillation is None:
            return None
        teacher = self.teacher[rows][:, :, None]
        if self.temperature is None:
            apart = logits.softmax(1).sub_(teacher.softmax(1))
            return apart.mul_(self.distillation / len(rows))
        apart = (logits / self.temperature).softmax(1)
        apart.sub_((teacher / self.temperature).softmax(1))
        return apart.mul_(self.distillation * self.temperature / len(rows))


def _by_sample(values: Tensor) -> Tensor:
    """Return ``[B, C, K]`` as ``[B C, K]``: one row for each logit of each sample."""
    return values.view(-1, values.shape[2])
