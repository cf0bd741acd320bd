"""Balanced group softmax (BAGS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self, cast

import torch
from pydantic import Field, model_validator

from trainables.methods.heads import Head
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.features.head_training import HeadObjective
    from trainables.models.group_softmax import GroupSoftmaxHead, RawGroups

LOOKED_UP = {"heads": ("group_softmax",)}


class BAGS(Rebalancer):
    """Balanced group softmax (BAGS): a new head with one softmax per group of classes of like size.

    Classes are grouped by their number of training images; each group has an additional class
    "others". The loss is the sum over groups of the mean cross-entropy over the group's members and
    ``others_ratio`` non-members per member, drawn for each batch from instance-balanced samples.
    Predictions compare the classes' probabilities within their groups, see the head
    `group_softmax`.

    Args:
        edges: Class sizes at which a new group begins, ascending; 10, 100 and 1000 in the paper.
        others_ratio: Non-members per member, >= 0; 8 in the reference code.
        epochs: Number of epochs, >= 0; 12 in the reference code.
        lr: Initial learning rate, > 0; 0.1 as in this project's other rebalancers.
        batch_size: Samples per step, >= 1; 128 as in this project's other rebalancers.
        weight_decay: L2 penalty on weights and biases, >= 0; 5e-4 as in this project's other
            rebalancers.

    Shapes:
        classifier: any head; its weights are ignored. features [N, D], labels [N] int64. Returns a
        classifier with a `group_softmax` head and no logit offset.

    An absent class joins the group of the rarest present class and is never a target. A batch
    without members of a group does not train that group. A single group (equal counts) gives
    cross-entropy with an additional class that is never a target.

    Raises:
        ValueError: The edges are not ascending.
        ArithmeticError: The trained weights are not finite.

    Source:
        Li et al. 2020, "Overcoming Classifier Imbalance for Long-tail Object Detection with
        Balanced Group Softmax", arXiv 2006.10408; FishYuLi/BalancedGroupSoftmax
        gs_bbox_head_with0.py. The paper is on detection; its background group is left out. There
        are no published results for CIFAR.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> zeros, counts = torch.zeros(2), torch.tensor([50, 5])
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, counts, zeros[:1])
        >>> labels = torch.tensor([0] * 50 + [1] * 5)
        >>> features = 2.0 * labels[:, None] - 1
        >>> grouped = BAGS(batch_size=11)(
        ...     classifier=trained,
        ...     features=features,
        ...     labels=labels,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> grouped.state["group"].tolist()  # 50 images: second group; 5 images: first group
        [1, 0]
    """

    edges: tuple[Annotated[int, Field(ge=1)], ...] = (10, 100, 1000)
    others_ratio: Annotated[float, Field(ge=0, le=1000), Range(1.0, 32.0, log=True)] = 8.0
    epochs: Annotated[int, Field(ge=0), Range(5, 30)] = 12
    lr: Annotated[float, Field(gt=0), Range(0.01, 1.0, log=True)] = 0.1
    batch_size: Annotated[int, Field(ge=1)] = 128
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4

    @model_validator(mode="after")
    def _edges_ascend(self) -> Self:
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges must ascend; received {list(self.edges)}")
        return self

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
    ) -> Classifier:
        from trainables.features import head_training as heads
        from trainables.models.group_softmax import RawGroups, count_groups

        group = count_groups(classifier.class_counts, self.edges)
        head = Head.parse({"group_softmax": {"num_groups": int(group.max()) + 1}})
        built = heads.new_head(
            head,
            num_features=classifier.num_features,
            num_classes=len(classifier.class_counts),
            generator=generator,
            device=features.device,
        )
        raw = RawGroups(cast("GroupSoftmaxHead", built))
        raw.head.group.copy_(group)
        draws = heads.shuffled_draws(len(labels), epochs=self.epochs, generator=generator)
        heads.train_head(
            raw,
            features=features,
            labels=labels,
            draws=draws,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            objective=self._objective(raw, draws, generator),
        )
        return classifier._replace(
            head=head,
            state=heads.head_state(raw.head),
            logit_offset=torch.zeros_like(classifier.logit_offset),
        )

    def _objective(
        self, raw: RawGroups, draws: torch.Tensor, generator: torch.Generator
    ) -> HeadObjective:
        """Return the loss over all groups; non-members are drawn from ``generator``."""
        from trainables.models.group_softmax import group_loss, keep_others

        group, groups = raw.head.group, len(raw.head.others_bias)
        # all are drawn before the first step, because each copy to a GPU synchronizes
        uniforms = [
            torch.rand(len(batch), groups, generator=generator)
            for batch in draws.split(self.batch_size)
        ]
        batches = iter(torch.cat(uniforms).to(group.device).split(self.batch_size))

        def objective(
            logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor
        ) -> torch.Tensor:
            kept = keep_others(group[labels], self.others_ratio, next(batches))
            return group_loss(raw.split(logits), group, labels, kept)

        return objective
