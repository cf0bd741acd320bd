"""Distribution alignment (DisAlign)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.losses.cost_sensitive import CostSensitive
from trainables.methods.method import Choice, Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.models.head_modules import AlignedHead

LOOKED_UP = {"heads": ("aligned",)}


class DisAlign(Rebalancer):
    """Distribution alignment (DisAlign): a scale and shift per class, weighted by a confidence.

    With logits z of the frozen head and ``sigma = sigmoid(v . x + c)``, the new logits are
    ``paper``: ``sigma (alpha z + beta) + (1 - sigma) z``;
    ``official``: ``(1 + sigma alpha) z + sigma beta``.
    Only alpha (initially 1), beta and c (initially 0) and v are trained, on instance-balanced
    samples, by cross-entropy with class weights ``w_c ~ n_c^(-rho)`` (generalized re-weighting).

    Args:
        variant: One of the forms above; the initial logits of ``paper`` are those of the given
            classifier.
        rho: Power of the class weights, >= 0; with 0 all samples, with 1 all classes have equal
            weight. 1.2 in the reference code for ImageNet-LT.
        epochs: Number of epochs, >= 0; 10 in the reference code.
        lr: Initial learning rate, > 0; 0.1 in the reference code.
        batch_size: Samples per step, >= 1; 128 as in this project's other rebalancers.
        weight_decay: L2 penalty on the trained parameters, >= 0; 5e-4 in the reference code.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with the head
        `aligned` around the old head, whose weights stay unchanged, and no logit offset. If the
        old head is `aligned`, its alignment is replaced.

    An absent class has the weight of the rarest present class and is never a target.

    Raises:
        ArithmeticError: The trained weights are not finite.

    Source:
        Zhang et al. 2021, "Distribution Alignment: A Unified Framework for Long-tail Visual
        Recognition", arXiv 2103.16370, equations 4 to 9; Megvii-BaseDetection/DisAlign and cvpods.
        The paper has no results for CIFAR.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> state = {"weight": torch.tensor([[-1.0], [1.0]]), "bias": torch.zeros(2)}
        >>> zeros, counts = torch.zeros(2), torch.tensor([3, 1])
        >>> trained = Classifier(Head.parse("linear"), 1, state, zeros, counts, zeros[:1])
        >>> aligned = DisAlign(rho=1.0)(
        ...     classifier=trained,
        ...     features=torch.zeros(4, 1),
        ...     labels=torch.tensor([0, 0, 0, 1]),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> aligned.head.name, aligned.state["base.weight"].flatten().tolist()
        ('aligned', [-1.0, 1.0])
    """

    variant: Annotated[Literal["paper", "official"], Choice(("paper", "official"))] = "paper"
    rho: Annotated[float, Field(ge=0, le=4), Range(0.2, 1.5)] = 1.2
    epochs: Annotated[int, Field(ge=0), Range(5, 30)] = 10
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
        from trainables.features import head_training as heads
        from trainables.features.objectives import loss_objective

        frozen = _base_classifier(classifier)
        head = Head.parse({"aligned": {"base": frozen.head.dump(), "variant": self.variant}})
        counts = classifier.class_counts
        built = heads.new_head(
            head,
            num_features=classifier.num_features,
            num_classes=len(counts),
            generator=generator,
            device=features.device,
        )
        module = cast("AlignedHead", built)
        module.base.load_state_dict(frozen.state)
        module.base.requires_grad_(requires_grad=False)
        draws = heads.shuffled_draws(len(labels), epochs=self.epochs, generator=generator)
        steps = -(-len(draws) // self.batch_size)
        heads.train_head(
            module,
            features=features,
            labels=labels,
            draws=draws,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            objective=loss_objective(CostSensitive(gamma=self.rho), counts, num_steps=steps),
        )
        return classifier._replace(
            head=head,
            state=heads.head_state(module),
            logit_offset=torch.zeros_like(classifier.logit_offset),
        )


def _base_classifier(classifier: Classifier) -> Classifier:
    """Return the classifier with its base head, if its head is `aligned`."""
    if classifier.head.name != "aligned":
        return classifier
    base: Head = classifier.head.base  # type: ignore[attr-defined]
    inner = {
        name.removeprefix("base."): value
        for name, value in classifier.state.items()
        if name.startswith("base.")
    }
    return classifier._replace(head=base, state=inner)
