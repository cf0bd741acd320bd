"""Gates that stop at the expert that is enough."""

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
    from trainables.routed_experts import RoutedExpertsHead


class ExpertRouting(Rebalancer):
    """Learns which samples the first experts can answer alone (RIDE's second stage).

    Behind every expert but the last stands a gate. It learns, by binary cross-entropy, whether the
    mean logits so far are wrong and those with one of the next experts are right: the experts are
    frozen, only the gates train, every class drawn alike. A sample is answered by the mean logits
    of the experts up to the first gate that does not ask for more.

    Args:
        pos_weight: Weight of a sample that needs more, > 0: larger asks more experts, for more
            accuracy at more cost. 100 in the released CIFAR-100 recipe.
        top_choices: Largest logits that a gate sees, >= 1; 30 there.
        hidden: Width of a gate's layer on the features, >= 1; 16 there.
        epochs: Passes, >= 0. 20 is our choice, on cached features; 5 augmented ones there.
        lr: First learning rate, > 0; 0.01 there.
        batch_size: Samples per step, >= 1; 128 as for the other rebalancers here, 512 there.
        weight_decay: L2 penalty on the gates, >= 0; 5e-4 there.

    Shapes:
        classifier: head `experts`. features [N, E * D], labels [N] int64. Returns a classifier with
        the head `routed_experts`: the same experts bit by bit, and gates. Gates that are there
        already are trained anew.

    Where the training images are all right with the first expert, nothing needs more, and all
    samples stop there. What is used of it is measured by `evaluate` (``cost/experts_used``).

    Raises:
        ValueError: The head is not `experts`.
        ArithmeticError: The training did not converge to finite weights.

    Source:
        Wang et al. 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts",
        arXiv 2010.01809, section 3.3; frank-xwang/RIDE-LongTailRecognition,
        model/ldam_drw_resnets/ea_resnet_cifar.py, whose SGD has Nesterov's momentum.

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
        >>> routed.head.name, len(routed.state) - len(state)  # gates, and how many classes they see
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
        from trainables import head_training as heads
        from trainables.class_weights import full_precision

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
        """Return the head with gates around the given one's experts."""
        given = classifier.head
        if not isinstance(given, Experts):
            raise ValueError(
                f"rebalancers/{self.name} needs the head 'experts', whose answers it routes; "
                f"received '{given.name}'"
            )
        own = {name: getattr(given, name) for name in Experts.model_fields}
        return RoutedExperts(**own, top_choices=self.top_choices, hidden=self.hidden)

    def _objective(self, wanted: torch.Tensor) -> Callable[..., torch.Tensor]:
        """Return the mean binary cross-entropy of all gates; ``wanted [N, G]`` of all samples."""
        weight = torch.tensor(self.pos_weight).to(wanted)

        def objective(needed: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> Any:
            return torch.nn.functional.binary_cross_entropy_with_logits(
                needed, wanted[rows], pos_weight=weight
            )

        return objective


def needs_more(right: torch.Tensor) -> torch.Tensor:
    """Return whether an expert is wrong where a later one is right ``[N, E - 1]``.

    Args:
        right: Whether the mean of the first experts is right ``[N, E]`` bool.

    Example:
        >>> needs_more(torch.tensor([[False, True, False], [False, False, False]]))
        tensor([[ True, False],
                [False, False]])
    """
    later = right[:, 1:].flip(1).cummax(dim=1).values.flip(1)
    return ~right[:, :-1] & later
