"""Weights of experts, learned on unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import torch
from pydantic import Field

from trainables.methods.augmentations import Augmentation
from trainables.methods.heads.experts import Experts
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.experts import ExpertsHead


class ExpertWeights(Rebalancer):
    """Weighs experts by how stable their answers are on unlabelled images (SADE, test time).

    Two random views of each image of the pool, the stream past the deployed model, should be
    answered alike. The weights ``w = softmax(v)`` of the experts' mean logits maximise ``mean_i
    cos(p(x_i), p(x'_i))``, p the softmax of the weighted logits: an expert is stable on the classes
    that it knows best, so the weights lean to the expert that suits the stream. No label is read.

    Args:
        augmentation: Makes the views. Default ``crop_flip``; the reference code adds color jitter
            and blur.
        epochs: Passes over the pool with new views, >= 0. 5 in the reference code; each costs the
            trunk two passes.
        lr: Learning rate, > 0; 0.1 there.
        batch_size: Images per step, >= 1; 128 there.
        weight_decay: L2 penalty on v, >= 0; 5e-4 there.
        smallest: Learning ends with the pass after which a weight is below this, in [0, 1]; 0.05
            there, of weights rounded to two places.

    Shapes:
        classifier: head `experts`. augmented_pool(augmentation, generator) gives the pool's
        features [N, E * D]. Returns the classifier with the ``weights`` of its head set.

    Only as good as the pool is like what comes later; images of new and unrelated classes in it
    take part. Without images all experts weigh alike.

    Raises:
        ValueError: The head is not `experts`.

    Source:
        Zhang et al. 2022, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic
        Long-Tailed Recognition", arXiv 2107.09249, section 4.2; Vanint/SADE-AgnosticLT,
        test_training_cifar.py, where the unlabelled images are those of the test itself.

    Example:
        The first expert answers by what both views of an image share, the second by what they do
        not.

        >>> from trainables.artifacts import Classifier
        >>> head, zeros = Experts(count=2, own="nothing"), torch.zeros(2)
        >>> first, second = torch.tensor([[4.0, 0], [-4, 0]]), torch.tensor([[0, 4.0], [0, -4]])
        >>> state = {"experts.0.weight": first, "experts.1.weight": second}
        >>> state |= {"experts.0.bias": zeros, "experts.1.bias": zeros}
        >>> trained = Classifier(head, 2, state, zeros, torch.ones(2), zeros)
        >>> def views(augmentation, generator):
        ...     noise = torch.randn(64, generator=generator)
        ...     return torch.stack([torch.arange(64) % 2 * 2.0 - 1, noise], dim=1)
        >>> weighed = ExpertWeights()(
        ...     classifier=trained,
        ...     augmented_pool=views,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> weighed.head.weights[0] > weighed.head.weights[1]
        True
    """

    reads: ClassVar[frozenset[str]] = frozenset({"backbone", "pool"})

    augmentation: Augmentation = Field(default="crop_flip")  # type: ignore[assignment]
    epochs: Annotated[int, Field(ge=0)] = 5
    lr: Annotated[float, Field(gt=0), Range(0.01, 1.0, log=True)] = 0.1
    batch_size: Annotated[int, Field(ge=1)] = 128
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    smallest: Annotated[float, Field(ge=0, le=1)] = 0.05

    def __call__(
        self,
        *,
        classifier: Classifier,
        augmented_pool: Callable[[Augmentation, torch.Generator], torch.Tensor],
        generator: torch.Generator,
        report: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> Classifier:
        from trainables.expert_weights import most_stable_weights
        from trainables.predict import head_module

        head = classifier.head
        if not isinstance(head, Experts) or head.name != "experts":
            raise ValueError(
                f"rebalancers/{self.name} needs the head 'experts', whose answers it weighs; "
                f"received '{head.name}'"
            )
        experts = cast("ExpertsHead", head_module(classifier))
        learned = most_stable_weights(
            self._views(experts, augmented_pool, generator),
            head.count,
            device=classifier.logit_offset.device,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            smallest=self.smallest,
        )
        weights = tuple(round(weight, 6) for weight in learned.tolist())
        if report is not None:
            report({f"rebalance/weight_{i}": weight for i, weight in enumerate(weights)}, 0)
        settings = {name: getattr(head, name) for name in Experts.model_fields}
        return classifier._replace(head=Experts(**{**settings, "weights": weights}))

    def _views(
        self,
        experts: ExpertsHead,
        augmented_pool: Callable[[Augmentation, torch.Generator], torch.Tensor],
        generator: torch.Generator,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield per pass every expert's logits of two views, in one random order."""
        for _ in range(self.epochs):
            there = next(experts.parameters()).device
            views = [augmented_pool(self.augmentation, generator).to(there) for _ in range(2)]
            if not len(views[0]):
                return
            order = torch.randperm(len(views[0]), generator=generator).to(there)
            with torch.no_grad():
                first, second = (experts.each(view.float()[order]) for view in views)
            yield first, second
