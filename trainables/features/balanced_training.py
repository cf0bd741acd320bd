"""Base classes of the rebalancers that train a head on cached features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import BaseModel, Field, model_validator

from trainables.artifacts import Classifier
from trainables.features.head_training import (
    HeadTrainingSpec,
    ScaledLinear,
    class_balanced_draws,
    shuffled_draws,
    train_job,
)
from trainables.features.objectives import HEAD_TENSORS, head_objective
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range


class BalancedTraining(BaseModel):
    """Settings of the rebalancers that train a head, by default with class-balanced sampling.

    An epoch draws as many samples as there are. The optimizer is SGD with momentum 0.9 and a
    half-cosine learning rate. The features are cached, so there is no augmentation. A class without
    samples is never a target.

    Args:
        draws: ``class_balanced`` draws sample i with probability ``1 / (C n_{y_i})``;
            ``instance_balanced`` draws every sample once per epoch, in random order.
        loss: Training loss that needs only logits, labels, class counts and progress. The counts
            are those of the training images, not of the drawn samples, so a loss that already
            contains the prior (``balanced_softmax``) corrects twice under class-balanced draws.
        epochs: Number of epochs, >= 0.
        lr: Initial learning rate, > 0.
        rate: ``scaled`` lowers the rate for features of large norm (see
            `trainables.models.head_rate.rate_factor`); ``fixed`` uses ``lr``, as the papers.
        batch_size: Samples per step, >= 1.
        weight_decay: L2 penalty on the trained parameters, >= 0.
    """

    draws: Literal["class_balanced", "instance_balanced"] = "class_balanced"
    loss: Annotated[Loss, Choice(("cross_entropy", "label_aware_smoothing"))] = Field(
        default="cross_entropy"  # type: ignore[assignment]
    )
    epochs: Annotated[int, Field(ge=0)] = 10
    lr: Annotated[float, Field(gt=0), Range(0.01, 1.0, log=True)] = 0.1
    rate: Literal["scaled", "fixed"] = "scaled"
    batch_size: Annotated[int, Field(ge=1)] = 128
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4

    @model_validator(mode="after")
    def _loss_fits_a_head(self) -> Self:
        missing = self.loss.required_inputs() - HEAD_TENSORS
        if missing:
            raise ValueError(
                f"loss: '{self.loss.name}' needs {', '.join(sorted(missing))}; a head on frozen "
                f"features provides only {', '.join(sorted(HEAD_TENSORS))}"
            )
        return self

    def balanced_job(
        self,
        module: torch.nn.Module,
        *,
        classifier: Classifier,
        labels: torch.Tensor,
        generator: torch.Generator,
        slow: Iterable[torch.nn.Parameter] = (),
        slow_factor: float = 1.0,
    ) -> HeadTrainingSpec:
        """Return the specification to train a head module on samples drawn by `draws`.

        Args:
            module: Head; its parameters that require a gradient are trained.
            classifier: Classifier whose class counts the loss gets.
            labels: ``[N]`` int64.
            generator: Generator of the draws.
            slow: Parameters with ``lr * slow_factor`` instead of ``lr``.
            slow_factor: See ``slow``.
        """
        if self.draws == "instance_balanced":
            draws = shuffled_draws(len(labels), epochs=self.epochs, generator=generator)
        else:
            number = self.epochs * len(labels)
            draws = class_balanced_draws(labels, num_draws=number, generator=generator)
        steps = -(-len(draws) // self.batch_size)
        return HeadTrainingSpec(
            module=module,
            draws=draws,
            batch_size=self.batch_size,
            lr=self.lr,
            scaled=self.rate == "scaled",
            weight_decay=self.weight_decay,
            slow=tuple(slow),
            slow_factor=slow_factor,
            objective=head_objective(self.loss, classifier.class_counts, num_steps=steps),
            seed=int(torch.randint(2**62, (), generator=generator)),
        )


class HeadRebalancing(BalancedTraining):
    """A rebalancer that only trains one head.

    A subclass has ``job(*, classifier, labels, generator) -> HeadTrainingSpec``, which specifies
    the training, and ``finished(classifier, module) -> Classifier``, which returns the classifier
    with the trained module. The two are separate so that `train_heads` can train many jobs at once.
    """

    job: ClassVar[Callable[..., Any]]
    finished: ClassVar[Callable[..., Any]]

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
    ) -> Classifier:
        """Return the classifier with its head trained."""
        job = self.job(classifier=classifier, labels=labels, generator=generator)
        trained = train_job(job, features=features, labels=labels)
        result: Classifier = self.finished(classifier, trained)
        return result


class FactorRebalancing(HeadRebalancing):
    """A rebalancer that learns one factor per class for a linear head."""

    def finished(self, classifier: Classifier, module: torch.nn.Module) -> Classifier:
        """Return the classifier with the factors multiplied into its head."""
        zeros = torch.zeros_like(classifier.logit_offset)
        state = cast(ScaledLinear, module).folded()
        return classifier._replace(state=state, logit_offset=zeros)
