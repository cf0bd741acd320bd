"""Random search over rebalancers and their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from trainables.closed_form.groups import judging
from trainables.closed_form.statistics import samples
from trainables.context import derive_seed
from trainables.features.predict import predict_logits
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

Report = Callable[[Mapping[str, float], int], None]
LOOKED_UP = {"rebalancers": ("none", ".among")}


class Tuned(Rebalancer):
    """Random search over settings of fast rebalancers, by validation or out-of-fold accuracy.

    Candidates are the given classifier and, for each rebalancer, its default settings and
    ``tries - 1`` settings drawn from its search ranges, all with one seed. Heads are trained in
    one batch, so that a hundred heads take little longer than one; closed forms share their
    decompositions. The candidate with the largest mean of per-class accuracies on the validation
    images is chosen, on a tie the one with the smallest mean per-class cross-entropy, then the
    first. Settings and scores of all candidates are reported.

    Without validation images, accuracies are those of answers to training images by fits without
    the image: exact for closed forms, otherwise from five folds, over the classes of at least 3
    images. Rebalancers that start from the given classifier (and that classifier) are then left
    out, because it was trained on the images.

    Args:
        among: Names of the rebalancers.
        tries: Number of settings per rebalancer, >= 1. Default 32, this project's choice.

    Shapes:
        classifier: any head; rebalancers that need another head are left out. features [N, D],
        labels [N] int64, validation_features [V, D], validation_labels [V] int64. Returns the
        classifier of the best candidate.

    The same validation images serve for calibration later. Accuracies on validation images are
    optimistic after the selection, accuracies on held-out images are not.

    Raises:
        ValueError: No rebalancer supports the head, or none can be judged.

    Source:
        Papers sweep tau of `tau_norm` and `logit_adjustment` in this way, but on test images (Kang
        et al. 2020, arXiv 1910.09217, section 5.2). Wang et al. 2021, "Horizontally Fused Training
        Array", arXiv 2102.02344, for the training of many models at once.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> state = {"weight": torch.eye(2), "bias": torch.tensor([0.0, 2.0])}  # favors class 1
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
        """Refuse unknown names, `tuned`, upper bounds, and methods that need extra views."""
        for name in self.among:
            method = Rebalancer.lookup(name)
            if method.oracle or method.extra_views or name == self.name:
                raise ValueError(f"rebalancers/tuned.among: '{name}' is not allowed")
        if not self.among:
            raise ValueError("rebalancers/tuned.among: must name at least one rebalancer")
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
        report: Report,
        groups: torch.Tensor | None = None,
    ) -> Classifier:
        from trainables.features.rebalancer_search import apply_in_batch

        tries = self._tries(generator)
        available = {
            "classifier": classifier,
            "features": features,
            "labels": labels,
            "groups": groups,
            "class_counts": class_counts,
        }
        seed = int(torch.randint(2**62, (), generator=generator))
        if not len(validation_labels):
            best = self._best_out_of_fold(tries, available, seed, report)
            return apply_in_batch([best], available, seed=seed)[0]
        results = apply_in_batch(tries, available, seed=seed)
        if len(results) == 1:  # "none" supports every head
            raise ValueError(
                f"rebalancers/tuned: none of {', '.join(self.among)} supports the head "
                f"'{classifier.head.name}'"
            )
        answers = (
            (place, predict_logits(results[place], validation_features))
            for place in sorted(results)
        )
        return results[_best(tries, answers, validation_labels, report)]

    def picked(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        generator: torch.Generator,
        report: Report,
        groups: torch.Tensor | None = None,
    ) -> Rebalancer:
        """Return the best candidate by answers to training images out of fold."""
        tries = self._tries(generator)
        available = {
            "classifier": classifier,
            "features": features,
            "labels": labels,
            "groups": groups,
            "class_counts": class_counts,
        }
        seed = int(torch.randint(2**62, (), generator=generator))
        return self._best_out_of_fold(tries, available, seed, report)

    def _best_out_of_fold(
        self, tries: list[Rebalancer], available: Mapping[str, Any], seed: int, report: Report
    ) -> Rebalancer:
        """Return the best candidate by answers to the training images."""
        from trainables.features.rebalancer_search import answer_out_of_fold

        if not any(method.from_features for method in tries):
            raise ValueError(
                "rebalancers/tuned: there are no validation images, and answers to training images "
                f"can stand in for them only for rebalancers that are fitted to features alone, "
                f"which none of {', '.join(self.among)} is; raise data.validation_per_class, or "
                "add ridge, lda or crt to rebalance.method.tuned.among"
            )
        data = samples(available["features"], available["labels"], groups=available.get("groups"))
        rows = judging(data, len(available["class_counts"]))
        if not bool(rows.any()):
            raise ValueError(
                "rebalancers/tuned: there are no validation images, and fewer than two classes "
                "have 3 training images to stand in for them; choose one rebalancer"
            )
        found = answer_out_of_fold(tries, available, data, seed=seed)
        answers = ((place, logits[rows]) for place, logits in found)
        return tries[_best(tries, answers, data.labels[rows], report)]

    def _tries(self, generator: torch.Generator) -> list[Rebalancer]:
        """Return the candidate rebalancers, "none" first."""
        from trainables.features.rebalancer_search import draw_settings

        tries = [Rebalancer.parse("none")]
        for name in self.among:
            method = Rebalancer.lookup(name)
            # one generator per name, so that draws do not depend on the other names and on `tries`
            settings_generator = torch.Generator().manual_seed(
                derive_seed(generator.initial_seed(), name)
            )
            settings = [
                {},
                *(draw_settings(method, settings_generator) for _ in range(self.tries - 1)),
            ]
            tries += [Rebalancer.parse({name: chosen}) for chosen in settings]
        return tries


def _best(
    tries: list[Rebalancer],
    answers: Iterable[tuple[int, torch.Tensor]],
    labels: torch.Tensor,
    report: Report,
) -> int:
    """Report how good each candidate's answers are, and return the index of the best."""
    from trainables.features.rebalancer_search import merit

    merits = {}
    for place, logits in answers:
        merits[place] = merit(logits, labels)
        report(
            {"rebalance/try/accuracy": merits[place][0], **_numeric_settings(tries[place])}, place
        )
    return max(merits, key=lambda place: (merits[place], -place))


def _numeric_settings(method: Rebalancer) -> dict[str, float]:
    """Return the numeric settings of a rebalancer as metrics."""
    plain = method.model_dump(mode="json")
    return {
        f"rebalance/try/{method.name}/{name}": float(value)
        for name, value in plain.items()
        if isinstance(value, int | float)
    }
