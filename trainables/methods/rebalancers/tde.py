"""Total direct effect (TDE) of a causal classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

LOOKED_UP = {"heads": ("causal_norm",)}


class TDE(Rebalancer):
    """Total direct effect (TDE): predictions without the effect of the mean training feature.

    A `causal_norm` head is trained on frozen instance-balanced features, with a moving average of
    the features. Predictions subtract ``alpha`` times each feature's component along this average.
    If the classifier has a `causal_norm` head already, only the head's alpha changes.

    Args:
        alpha: Strength of the correction in predictions, >= 0; 0 for none. 1 in the reference code
            for CIFAR-10 (1.5 for CIFAR-100, 3 for ImageNet-LT), which recommends that alpha times
            the mean cosine of feature and moving average be about 1.
        num_heads: Number of separately normalized blocks of the feature, >= 1, a divisor of D; 2 in
            the reference code.
        epochs: Number of epochs, >= 0. Default 20, this project's choice, as the paper trains head
            and trunk together.
        lr: Initial learning rate, > 0; 0.1 for batches of 128, as 0.2 for 256 in the reference
            code.
        batch_size: Samples per step, >= 1.
        weight_decay: L2 penalty on the class vectors, >= 0; 5e-4 in the reference code.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with a
        `causal_norm` head, its ``feature_mean`` and no logit offset.

    An absent class is never a target, so its logits become small. Without samples the mean feature
    is zero and the correction has no effect.

    Raises:
        ValueError: D is not a multiple of ``num_heads``.
        ArithmeticError: The trained weights are not finite.

    Source:
        Tang et al. 2020, "Long-Tailed Classification by Keeping the Good and Removing the Bad
        Momentum Causal Effect", arXiv 2009.12991, eq. (8) to (10);
        KaihuaTang/Long-Tailed-Recognition.pytorch, which trains head and trunk together, as the
        head `causal_norm` in ``classify.head``; here the trunk is frozen.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("causal_norm"), 2, {}, zeros, torch.ones(2), zeros)
        >>> TDE(alpha=0.7)(
        ...     classifier=trained,
        ...     features=torch.zeros(0, 2),
        ...     labels=torch.zeros(0, dtype=torch.int64),
        ...     generator=torch.Generator(),
        ... ).head.alpha
        0.7
    """

    alpha: Annotated[float, Field(ge=0, le=100), Range(0.0, 3.0)] = 1.0
    num_heads: Annotated[int, Field(ge=1)] = 2
    epochs: Annotated[int, Field(ge=0)] = 20
    lr: Annotated[float, Field(gt=0), Range(0.01, 1.0, log=True)] = 0.1
    batch_size: Annotated[int, Field(ge=1)] = 128
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
    ) -> Classifier:
        if classifier.head.name == "causal_norm":
            settings = {**classifier.head.model_dump(), "alpha": self.alpha}
            return classifier._replace(head=Head.parse({"causal_norm": settings}))
        head = Head.parse({"causal_norm": {"alpha": self.alpha, "num_heads": self.num_heads}})
        state = self._train(head, classifier, features, labels, generator)
        return classifier._replace(
            head=head,
            state=state,
            feature_mean=state["mean_feature"],
            logit_offset=torch.zeros_like(classifier.logit_offset),
        )

    def _train(
        self,
        head: Head,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Return the state of a `causal_norm` head trained on instance-balanced features."""
        from trainables.features import head_training as heads

        module = heads.new_head(
            head,
            num_features=classifier.num_features,
            num_classes=len(classifier.class_counts),
            generator=generator,
            device=features.device,
        )
        heads.train_head(
            module,
            features=features,
            labels=labels,
            draws=heads.shuffled_draws(len(labels), epochs=self.epochs, generator=generator),
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
        )
        return heads.head_state(module)
