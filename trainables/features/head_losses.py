"""A parametric family of head losses, and their closed-form gradient for many heads at once.

Most losses for long-tailed data are one formula with different parameters: class weights, offset,
factor and margin of the logits, focal power, label smoothing, distillation. `HeadLoss` is the
formula for one head, `LossStack` for K heads, with the gradient in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.functional.class_weights import weighted_mean


@dataclass(frozen=True, eq=False)
class HeadLoss:
    """``(1 - d) mean_w (1 - p_y)^gamma H(t, p) + d T^2 mean KL(teacher_T || p_T)``.

    ``p = softmax(factor * z + offset - margin_y [y])``; the target ``t`` puts ``1 - e_y`` on the
    true class and spreads ``e_y`` over all classes; ``mean_w`` is the class-weighted mean; ``p_T``
    and ``teacher_T`` are softmaxes of the unmodified logits divided by T. A field that is ``None``
    has no effect.

    Args:
        class_weights: Class weights ``[C]``, normalized over each batch.
        factor: Factors of the logits ``[C]``, e.g. class-dependent temperatures.
        offset: Offsets of the logits ``[C]``, e.g. the log of the class prior.
        margin: Margins ``[C]``, subtracted from the logit of the true class.
        gamma: Focal power, >= 0.
        smoothing: Smoothed mass per class ``[C]``, in [0, 1). To spread ``e`` over only the other
            classes, set ``e C / (C - 1)``.
        distillation: Weight d of the distillation, in [0, 1].
        temperature: Temperature T of the distillation, > 0.
        teacher: Teacher logits ``[N, C]`` of all rows of the features; required if d > 0.

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
        """Return the classification term of the loss."""
        shifted = logits if self.factor is None else logits * self.factor.to(logits)
        if self.offset is not None:
            shifted = shifted + self.offset.to(logits)
        if self.margin is not None:
            onehot = torch.nn.functional.one_hot(labels, logits.shape[1])
            shifted = shifted - onehot * self.margin.to(logits)[labels, None]
        surprise = -shifted.log_softmax(1)
        each = surprise.gather(1, labels[:, None])[:, 0]
        if self.smoothing is not None:
            mass = self.smoothing.to(logits)[labels]
            each = (1 - mass) * each + mass * surprise.mean(1)
        if self.gamma:
            onehot = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
            rest = shifted.softmax(1).masked_fill(onehot, 0.0).sum(1)
            # rest may be 0, where rest^gamma with gamma < 1 has no gradient
            each = rest.clamp(min=torch.finfo(rest.dtype).tiny).pow(self.gamma) * each
        return weighted_mean(each, labels, self.class_weights)


class LossStack:
    """Losses of K heads, with the gradient of their sum with respect to all logits.

    The heads are the last axis of every tensor, so that operations vectorize over heads, not over
    the few classes. Fields that no head uses are skipped.

    Args:
        losses: One loss for each head.
        num_classes: C.
        like: Tensor of the dtype and device to compute in.

    Raises:
        ValueError: Two heads have different distillation teachers.
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
            raise ValueError("heads of one stack must have the same distillation teacher")
        teacher = teachers[0] if teachers else None
        self.teacher = None if teacher is None else teacher.to(like)

    def select(self, places: Sequence[int]) -> LossStack:
        """Return the losses of the heads at ``places``."""
        chosen = [self._losses[place] for place in places]
        return LossStack(chosen, num_classes=self._classes, like=self._like)

    def _field(self, name: str, neutral: float) -> Tensor | None:
        """Stack a field of all heads to ``[C, K]``; ``None`` if no head sets the field."""
        values = [getattr(loss, name) for loss in self._losses]
        if all(value is None for value in values):
            return None
        plain = self._like.new_full((self._classes,), neutral)
        return torch.stack([plain if v is None else v.to(plain) for v in values], dim=1)

    def _number(self, name: str, neutral: float) -> Tensor | None:
        """Stack a number of all heads to ``[K]``; ``None`` if all heads have the neutral value."""
        values = [getattr(loss, name) for loss in self._losses]
        return None if set(values) == {neutral} else self._like.new_tensor(values)

    def gradient(self, logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient ``[B, C, K]`` of every head's loss; ``logits`` may be overwritten.

        Args:
            logits: ``[B, C, K]``, contiguous.
            labels: ``[B]`` int64.
            rows: ``[B]``, positions in the features.
        """
        distillation = self._distillation(logits, rows)
        label_rows = torch.arange(len(labels), device=labels.device) * logits.shape[1] + labels
        shifted = self._shift_logits(logits, labels, label_rows)
        if self.gamma is None:
            gradient = self._to_target(shifted.softmax(1), labels, label_rows)
        else:
            gradient = self._focal(shifted, self.gamma, labels, label_rows)
        gradient.mul_(self._sample_weights(labels))
        if self.factor is not None:
            gradient.mul_(self.factor)
        return gradient if distillation is None else gradient.add_(distillation)

    def _shift_logits(self, logits: Tensor, labels: Tensor, label_rows: Tensor) -> Tensor:
        """Apply factor, offset and margin to ``logits``, in place."""
        if self.factor is not None:
            logits.mul_(self.factor)
        if self.offset is not None:
            logits.add_(self.offset)
        if self.margin is not None:
            _by_sample(logits).index_add_(0, label_rows, self.margin[labels], alpha=-1)
        return logits

    def _to_target(self, probability: Tensor, labels: Tensor, label_rows: Tensor) -> Tensor:
        """Subtract the target from the probabilities, in place."""
        if self.smoothing is None:
            target = probability.new_ones((len(label_rows), probability.shape[2]))
        else:
            mass = self.smoothing[labels]
            probability.sub_((mass / probability.shape[1])[:, None])
            target = 1 - mass
        _by_sample(probability).index_add_(0, label_rows, target, alpha=-1)
        return probability

    def _focal(self, shifted: Tensor, gamma: Tensor, labels: Tensor, label_rows: Tensor) -> Tensor:
        """Return ``q^gamma (p - t + gamma p_y H / q (p - [y]))`` with ``q = 1 - p_y``."""
        probability = shifted.softmax(1)
        chosen = _by_sample(probability)[label_rows]
        _by_sample(probability).index_fill_(0, label_rows, 0.0)
        # the sum of the other probabilities, because 1 - p_y loses all digits for p_y near 1
        rest = probability.sum(1).clamp_(min=torch.finfo(probability.dtype).tiny)
        entropy = torch.where(rest < 0.5, -torch.log1p(-rest), -chosen.log())
        if self.smoothing is not None:
            mass = self.smoothing[labels]
            spread = shifted.logsumexp(1) - shifted.mean(1)
            entropy = (1 - mass) * entropy + mass * spread
        pull = 1 + gamma * chosen * entropy / rest
        probability.mul_(pull[:, None])
        _by_sample(probability).index_copy_(0, label_rows, -rest * pull)
        if self.smoothing is not None:
            mass = self.smoothing[labels]
            probability.sub_((mass / probability.shape[1])[:, None])
            _by_sample(probability).index_add_(0, label_rows, mass)
        return probability.mul_(rest.pow_(gamma)[:, None])

    def _sample_weights(self, labels: Tensor) -> Tensor:
        """Return the weights of the samples' classification losses, to multiply ``[B, C, K]``."""
        part = 1.0 if self.distillation is None else 1 - self.distillation
        if self.weights is None:
            # filled on the device, because a copy from the host would synchronize with the GPU
            return self._like.new_full((), 1 / len(labels)) * part
        weights = self.weights[labels]
        total = weights.sum(0)
        return (weights * (part / torch.where(total > 0, total, 1.0)))[:, None]

    def _distillation(self, logits: Tensor, rows: Tensor) -> Tensor | None:
        """Return the weighted gradient of the divergence from the teacher."""
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
    """View ``[B, C, K]`` as ``[B C, K]``, one row for each class of each sample."""
    return values.view(-1, values.shape[2])
