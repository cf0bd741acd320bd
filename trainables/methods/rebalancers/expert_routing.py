"""Expert routing (RIDE): gates that decide where to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
from pydantic import Field

from trainables.methods.heads.experts import Experts
from trainables.methods.heads.routed_experts import RoutedExperts
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.models.routed_experts import RoutedExpertsHead


class ExpertRouting(Rebalancer):
    """Expert routing (RIDE): gates trained to predict which samples need further experts.

    Behind each expert but the last is a gate. Its target is whether the mean logits so far are
    wrong and the mean logits with one of the next experts are right; its loss is binary
    cross-entropy. Only the gates are trained, class-balanced, with frozen experts. The logits of a
    sample are the mean over the experts up to the first gate that requests no further expert.

    Args:
        pos_weight: Weight of samples that need a further expert, > 0; a larger weight gives higher
            accuracy at a higher cost. 100 in the reference recipe for CIFAR-100.
        top_choices: Number of largest logits that a gate gets, >= 1; 30 in the reference recipe.
        hidden: Width of a gate's hidden layer on the features, >= 1; 16 in the reference code.
        epochs: Number of epochs, >= 0. Default 20 on cached features, this project's choice; 5 with
            augmentation in the reference recipe.
        lr: Initial learning rate, > 0; 0.01 in the reference recipe.
        batch_size: Samples per step, >= 1; 128 as in this project's other rebalancers, 512 in the
            reference recipe.
        weight_decay: L2 penalty on the gates, >= 0; 5e-4 in the reference recipe.

    Shapes:
        classifier: head `experts`. features [N, E * D], labels [N] int64. Returns a classifier with
        the head `routed_experts`, which has the same experts, unchanged, and new gates.

    If the first expert is right on all training images, no gate ever requests a further expert.
    `evaluate` reports the mean number of used experts (``cost/experts_used``).

    Raises:
        ValueError: The head is not `experts`.
        ArithmeticError: The trained weights are not finite.

    Source:
        Wang et al. 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts",
        arXiv 2010.01809, section 3.3; frank-xwang/RIDE-LongTailRecognition,
        model/ldam_drw_resnets/ea_resnet_cifar.py, which uses Nesterov momentum.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> head, zeros = Experts(count=2, own="nothing"), torch.zeros(2)
        >>> state = head.build(2, 2).state_dict()
        >>> trained = Classifier(head, 2, state, zeros, torch.ones(2), zeros)
        >>> routed = ExpertRouting()(
        ...     classifier=trained,
        ...     features=torch.eye(2),
        ...     labels=torch.arange(2),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> routed.head.name, len(routed.state) - len(state)  # gates and their number of classes
        ('routed_experts', 5)
    """

    pos_weight: Annotated[float, Field(gt=0), Range(1.0, 300.0, log=True)] = 100.0
    top_choices: Annotated[int, Field(ge=1)] = 30
    hidden: Annotated[int, Field(ge=1)] = 16
    epochs: Annotated[int, Field(ge=0)] = 20
    lr: Annotated[float, Field(gt=0), Range(0.001, 0.1, log=True)] = 0.01
    batch_size: Annotated[int, Field(ge=1)] = 128
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        report: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> Classifier:
        from trainables.features import head_training as heads
        from trainables.functional.class_weights import full_precision

        head = self._routed(classifier)
        built = heads.new_head(
            head,
            num_features=classifier.num_features,
            num_classes=len(classifier.class_counts),
            generator=generator,
            device=features.device,
        )
        module = cast("RoutedExpertsHead", built.eval())
        experts = {k: v for k, v in classifier.state.items() if k.startswith("experts.")}
        module.load_state_dict({**module.state_dict(), **experts})
        with torch.no_grad():
            rows = full_precision(features)
            means = module.running_means(module.each(rows))
            inputs = module.gate_inputs(rows, means)
        answers = (means + classifier.logit_offset).argmax(dim=2)
        wanted = needs_more(answers == labels[:, None]).to(inputs)
        draws = heads.class_balanced_draws(
            labels, num_draws=self.epochs * len(labels), generator=generator
        )
        heads.train_head(
            module.gates,
            features=inputs,
            labels=labels,
            draws=draws,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            objective=self._objective(wanted),
        )
        if report is not None and len(rows):
            used = module.experts_used(rows).double().mean().item()
            needed = wanted.double().mean().item()
            report({"rebalance/experts_used": used, "rebalance/more_needed": needed}, 0)
        return classifier._replace(head=head, state=heads.head_state(module))

    def _routed(self, classifier: Classifier) -> RoutedExperts:
        """Return the routed head with the experts of the classifier's head."""
        head = classifier.head
        if not isinstance(head, Experts):
            raise ValueError(
                f"rebalancers/{self.name} needs the head 'experts'; received '{head.name}'; set "
                "classify.head=experts"
            )
        settings = {name: getattr(head, name) for name in Experts.model_fields}
        return RoutedExperts(**settings, top_choices=self.top_choices, hidden=self.hidden)

    def _objective(self, wanted: torch.Tensor) -> Callable[..., torch.Tensor]:
        """Return the mean binary cross-entropy of all gates with the targets ``wanted [N, G]``."""
        weight = torch.tensor(self.pos_weight).to(wanted)

        def objective(needed: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> Any:
            return torch.nn.functional.binary_cross_entropy_with_logits(
                needed, wanted[rows], pos_weight=weight
            )

        return objective


def needs_more(right: torch.Tensor) -> torch.Tensor:
    """Return whether a running mean is wrong and a later one is right ``[N, E - 1]``.

    Args:
        right: Whether the running mean of the experts' logits is right ``[N, E]`` bool.

    Example:
        >>> needs_more(torch.tensor([[False, True, False], [False, False, False]]))
        tensor([[ True, False],
                [False, False]])
    """
    later = right[:, 1:].flip(1).cummax(dim=1).values.flip(1)
    return ~right[:, :-1] & later
