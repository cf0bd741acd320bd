from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Self

import torch
from pydantic import Field, model_validator

from trainables.context import derive_seed
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class Tuned(Rebalancer):
    """Tries many settings of cheap corrections at once, and keeps the best on validation images.

    Of each correction: its own defaults and ``tries - 1`` draws from its search ranges, all from
    one seed. Heads that train do so together in one computation, so that a hundred cost little
    more than one. Kept is the largest mean of per-class accuracies on the validation images; where
    that is equal the smallest mean cross-entropy, then the first. The classifier as it came takes
    part. What every try was and gave is reported.

    Args:
        among: Corrections to try, by name.
        tries: Settings of each, >= 1. 32 is our choice.

    Shapes:
        classifier: any head; a correction that needs another head is left out. features [N, D],
        labels [N] int64, validation_features [V, D], validation_labels [V] int64. Returns the
        classifier of the best try.

    The validation images that it chooses by are those that calibrate later: their accuracy is
    optimistic afterwards, that of the held-out images is not.

    Raises:
        ValueError: There are no validation images, or no correction fits the head.

    Source:
        Exhaustive search of what comes after training: the papers sweep tau of `tau_norm` and
        `logit_adjustment` like this (Kang et al. 2020, arXiv 1910.09217, section 5.2), on test
        images, which is not done here. Training models together: Wang et al. 2021, "Horizontally
        Fused Training Array", arXiv 2102.02344.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> state = {"weight": torch.eye(2), "bias": torch.tensor([0.0, 2.0])}  # leans to class 1
        >>> zeros, counts = torch.zeros(2), torch.tensor([1, 9])
        >>> trained = Classifier(Head.parse("linear"), 2, state, zeros, counts, zeros)
        >>> best = Tuned(among=("logit_adjustment",), tries=1)(
        ...     classifier=trained,
        ...     features=torch.eye(2),
        ...     labels=torch.arange(2),
        ...     class_counts=counts,
        ...     generator=torch.Generator().manual_seed(0),
        ...     validation_features=torch.eye(2),
        ...     validation_labels=torch.arange(2),
        ...     report=lambda metrics, step: None,
        ... )
        >>> bool(best.logit_offset[0] > best.logit_offset[1])
        True
    """

    among: tuple[str, ...] = ("logit_adjustment", "tau_norm", "crt", "lws", "lws_plus")
    tries: Annotated[int, Field(ge=1, le=4096)] = 32

    @model_validator(mode="after")
    def _names_are_corrections(self) -> Self:
        """Refuse names that are not on the shelf, itself, upper bounds, and who reads images."""
        for name in self.among:
            method = Rebalancer.lookup(name)
            if method.oracle or method.reads or name == self.name:
                raise ValueError(f"rebalancers/tuned.among: '{name}' cannot be tried")
        if not self.among:
            raise ValueError("rebalancers/tuned.among: names at least one correction")
        return self

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        generator: torch.Generator,
        validation_features: torch.Tensor,
        validation_labels: torch.Tensor,
        report: Callable[[Mapping[str, float], int], None],
    ) -> Classifier:
        from trainables.corrections import applied_together, merit

        if not len(validation_labels):
            raise ValueError(
                "rebalancers/tuned chooses by validation images, of which there are none; raise "
                "data.validation_per_class, or name one correction"
            )
        tries = self._tries(generator)
        available = {
            "classifier": classifier,
            "features": features,
            "labels": labels,
            "class_counts": class_counts,
        }
        seed = int(torch.randint(2**62, (), generator=generator))
        results = applied_together(tries, available, seed=seed)
        if len(results) == 1:  # "none" fits every head
            raise ValueError(
                f"rebalancers/tuned: none of {', '.join(self.among)} fits the head "
                f"'{classifier.head.name}'"
            )
        merits = {}
        for place, result in sorted(results.items()):
            merits[place] = merit(result, validation_features, validation_labels)
            report({"rebalance/try/accuracy": merits[place][0], **_numbers(tries[place])}, place)
        return results[max(merits, key=lambda place: (merits[place], -place))]

    def _tries(self, generator: torch.Generator) -> list[Rebalancer]:
        """Return the corrections to try, "none" first."""
        from trainables.corrections import drawn_settings

        tries = [Rebalancer.parse("none")]
        for name in self.among:
            method = Rebalancer.lookup(name)
            # a generator of its own: other names and numbers of tries leave its draws alone
            own = torch.Generator().manual_seed(derive_seed(generator.initial_seed(), name))
            settings = [{}, *(drawn_settings(method, own) for _ in range(self.tries - 1))]
            tries += [Rebalancer.parse({name: chosen}) for chosen in settings]
        return tries


def _numbers(method: Rebalancer) -> dict[str, float]:
    """Return the settings of a try that are numbers, by name."""
    plain = method.model_dump(mode="json")
    return {
        f"rebalance/try/{method.name}/{name}": float(value)
        for name, value in plain.items()
        if isinstance(value, int | float)
    }
