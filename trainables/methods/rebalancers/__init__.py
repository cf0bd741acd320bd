"""Shelf: rebalancers. One file per method; the contract is `Rebalancer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import BaseModel, Field, model_validator

from trainables.methods.losses import Loss
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.method import Choice, Method, Range

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.head_training import HeadJob, ScaledLinear


class Rebalancer(Method):
    """Corrects a trained classifier for the long tail, on frozen features.

    ``(*, classifier, features, labels, class_counts, generator) -> Classifier``. One that chooses
    among several gets ``validation_features``, ``validation_labels`` and ``report`` too. One that
    `reads` the views ``backbone`` and ``pool`` gets ``augmented_pool``, which gives the features of
    the unlabelled pool under an augmentation: ``(augmentation, generator) -> [N, D]``.
    """


class BalancedTraining(BaseModel):
    """What the rebalancers share that train a head, by default with every class drawn alike.

    As many draws per epoch as there are samples. SGD with momentum 0.9, half-cosine learning rate.
    Augmentation plays no part: the features are cached. An absent class is never a target.

    Args:
        draws: ``class_balanced``: with probability ``1 / (C n_{y_i})`` per sample;
            ``instance_balanced``: every sample once per epoch, in a new order.
        loss: What is minimised: any loss that needs logits, labels, class counts and progress
            alone. The counts are those of the training images, not of the draws: a loss that holds
            the prior already (``balanced_softmax``) would correct twice.
        epochs: Passes, >= 0.
        lr: First learning rate, > 0.
        batch_size: Samples per step, >= 1.
        weight_decay: L2 penalty on what trains, >= 0.
    """

    draws: Literal["class_balanced", "instance_balanced"] = "class_balanced"
    loss: Annotated[Loss, Choice(("cross_entropy", "label_aware_smoothing"))] = CrossEntropy()
    epochs: Annotated[int, Field(ge=0)] = 10
    lr: Annotated[float, Field(gt=0), Range(0.01, 1.0, log=True)] = 0.1
    batch_size: Annotated[int, Field(ge=1)] = 128
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4

    @model_validator(mode="after")
    def _loss_fits_a_head(self) -> Self:
        from trainables.objectives import HEAD_TENSORS

        missing = self.loss.needs() - HEAD_TENSORS
        if missing:
            raise ValueError(
                f"loss: '{self.loss.name}' needs {', '.join(sorted(missing))}; a head on frozen "
                f"features has {', '.join(sorted(HEAD_TENSORS))}"
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
    ) -> HeadJob:
        """Return the job of training a head module on samples drawn as `draws` says.

        Args:
            module: Its parameters that require a gradient train.
            classifier: Its class counts go to the loss.
            labels: ``[N]`` int64.
            generator: Of the draws.
            slow: Parameters with ``lr * slow_factor`` instead of ``lr``.
            slow_factor: See ``slow``.
        """
        from trainables import head_training as heads
        from trainables.objectives import head_objective

        if self.draws == "instance_balanced":
            draws = heads.shuffled_draws(len(labels), epochs=self.epochs, generator=generator)
        else:
            number = self.epochs * len(labels)
            draws = heads.class_balanced_draws(labels, num_draws=number, generator=generator)
        steps = -(-len(draws) // self.batch_size)
        return heads.HeadJob(
            module=module,
            draws=draws,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            slow=tuple(slow),
            slow_factor=slow_factor,
            objective=head_objective(self.loss, classifier.class_counts, num_steps=steps),
            seed=int(torch.randint(2**62, (), generator=generator)),
        )


class HeadRebalancing(BalancedTraining):
    """A rebalancer that is the training of one head, and nothing else.

    A subclass has ``job(*, classifier, labels, generator) -> HeadJob``, what is trained, and
    ``finished(classifier, module) -> Classifier``, what becomes of it: apart, so that the jobs of
    many can be trained together.
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
        from trainables.head_training import train_job

        job = self.job(classifier=classifier, labels=labels, generator=generator)
        trained = train_job(job, features=features, labels=labels)
        result: Classifier = self.finished(classifier, trained)
        return result


class FactorRebalancing(HeadRebalancing):
    """A rebalancer that learns a factor per class of a linear head."""

    def finished(self, classifier: Classifier, module: torch.nn.Module) -> Classifier:
        """Return the classifier with the factors multiplied into its head."""
        zeros = torch.zeros_like(classifier.logit_offset)
        state = cast("ScaledLinear", module).folded()
        return classifier._replace(state=state, logit_offset=zeros)
