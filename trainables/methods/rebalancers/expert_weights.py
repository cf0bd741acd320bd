"""Expert weights, learned on unlabelled images (SADE)."""

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
    from trainables.models.experts import ExpertsHead


class ExpertWeights(Rebalancer):
    """Expert weights by prediction stability on unlabelled images (SADE's test-time aggregation).

    The weights ``w = softmax(v)`` of the experts' logits maximize ``mean_i cos(p(x_i), p(x'_i))``,
    where p is the softmax of the weighted logits and x, x' are two random views of an image in the
    pool. An expert is most stable on its strongest classes, so the weights favor the expert whose
    prior fits the pool. No labels are used.

    Args:
        augmentation: Augmentation of the views. Default ``crop_flip``; the reference code adds
            color jitter and blur.
        epochs: Epochs over the pool, each with new views and two forward passes of the trunk, >= 0;
            5 in the reference code.
        lr: Learning rate, > 0; 0.1 in the reference code.
        batch_size: Images per step, >= 1; 128 in the reference code.
        weight_decay: L2 penalty on v, >= 0; 5e-4 in the reference code.
        smallest: Stop after an epoch in which a weight falls below this value, in [0, 1]; 0.05 in
            the reference code, for weights rounded to two digits.

    Shapes:
        classifier: head `experts`. augmented_pool(augmentation, generator) returns the pool's
        features [N, E * D]. Returns the classifier with the ``weights`` of its head set.

    The weights suit later images only as far as these are distributed as the pool, which includes
    images of new and unrelated classes. Without images all weights are equal.

    Raises:
        ValueError: The head is not `experts`.

    Source:
        Zhang et al. 2022, "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic
        Long-Tailed Recognition", arXiv 2107.09249, section 4.2; Vanint/SADE-AgnosticLT,
        test_training_cifar.py, in which the unlabelled images are the test images.

    Example:
        The first expert uses the feature that both views share, the second the other feature.

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

    extra_views: ClassVar[frozenset[str]] = frozenset({"backbone", "pool"})

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
        from trainables.features.expert_weights import most_stable_weights
        from trainables.features.predict import head_module

        head = classifier.head
        if not isinstance(head, Experts) or head.name != "experts":
            raise ValueError(
                f"rebalancers/{self.name} needs the head 'experts'; received '{head.name}'; set "
                "classify.head=experts"
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
        """Yield for each epoch every expert's logits of two views, in one random order."""
        for _ in range(self.epochs):
            device = next(experts.parameters()).device
            views = [augmented_pool(self.augmentation, generator).to(device) for _ in range(2)]
            if not len(views[0]):
                return
            order = torch.randperm(len(views[0]), generator=generator).to(device)
            with torch.no_grad():
                first, second = (experts.each(view.float()[order]) for view in views)
            yield first, second
