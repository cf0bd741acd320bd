"""Average of several rebalanced heads on one trunk (model soup)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from pydantic import model_validator

from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

LINEAR = ("linear", "random_features")  # the average of their weights is that of their logits


class Soup(Rebalancer):
    """Model soup: the average of the heads of several rebalancers, all fitted on the same features.

    ``uniform`` averages all heads. ``greedy`` starts with the first one and takes in each following
    head if the average on validation images does not become worse: not in the mean of per-class
    accuracies, and where that is equal not in the mean per-class cross-entropy.

    Without validation images, answers to training images out of fold take their place, over the
    classes of at least 3 groups of images: each member answers an image by a fit without its group,
    and the average of their logits is the answer of the average without it. Members that start from
    the given classifier have no such answers, because it was trained on the images.

    Args:
        members: The rebalancers, best first, written as `rebalance.method` is.
        selection: ``greedy`` or ``uniform``.

    Shapes:
        classifier: any head that a member supports. features [N, D], labels [N] int64,
        validation_features [V, D], validation_labels [V] int64. Returns a classifier with the head
        of the first member.

    The heads must be linear in their weights, on the same inputs (heads ``linear``, or
    ``random_features`` of one width and seed), so that the average of the weights, logit offsets
    included, has the average of the logits. Members that end in another head than the first are
    left out; a first member with a head of another form stays alone.

    Raises:
        ValueError: No member supports the head, or there are no images to choose members by.

    Source:
        Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
        accuracy without increasing inference time", arXiv 2203.05482, section 2, recipe 1 (greedy,
        by held-out accuracy; members in its order). There whole networks are averaged, here heads.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> zeros, counts = torch.zeros(2), torch.tensor([1, 3])
        >>> state = {"weight": torch.eye(2), "bias": zeros}
        >>> trained = Classifier(Head.parse("linear"), 2, state, zeros, counts, zeros)
        >>> soup = Soup(members=("none", "logit_adjustment"), selection="uniform")
        >>> found = soup(
        ...     classifier=trained,
        ...     features=torch.eye(2),
        ...     labels=torch.arange(2),
        ...     class_counts=counts,
        ...     generator=torch.Generator().manual_seed(0),
        ...     validation_features=torch.eye(2),
        ...     validation_labels=torch.arange(2),
        ...     report=lambda metrics, step: None,
        ... )
        >>> found.logit_offset.exp()  # (1 / .25) ** .5 and (1 / .75) ** .5
        tensor([2.0000, 1.1547])
    """

    members: tuple[Rebalancer, ...] = cast(Any, ("ridge", "lda"))  # parsed, as all defaults are
    selection: Literal["greedy", "uniform"] = "greedy"

    @property
    def answers_out_of_fold(self) -> bool:
        """Say whether all members are fitted to features alone."""
        return all(member.answers_out_of_fold for member in self.members)

    @property
    def chooses(self) -> bool:
        """Say whether answers to images choose among the members."""
        return self.selection == "greedy"

    @property
    def needs_validation(self) -> bool:
        """Say whether nothing but validation images can choose among the members."""
        return self.chooses and not self.answers_out_of_fold

    @classmethod
    def mixes(cls, member: Rebalancer) -> bool:
        """Say whether a rebalancer can be a member: not an upper bound, search or soup."""
        nested = member.name in ("tuned", cls.name)
        return not (nested or member.oracle or member.extra_views or member.needs_validation)

    @model_validator(mode="after")
    def _members_can_be_mixed(self) -> Self:
        """Refuse an empty soup, and members that need more than the training images."""
        if not self.members:
            raise ValueError("rebalancers/soup.members: must name at least one rebalancer")
        for member in self.members:
            if not self.mixes(member):
                raise ValueError(
                    f"rebalancers/soup.members: '{member.name}' is not allowed, because it is an "
                    "upper bound, chooses by validation images, or needs more than features"
                )
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
        groups: torch.Tensor | None = None,
    ) -> Classifier:
        from trainables.features.predict import predict_logits

        if not len(labels):
            return classifier
        available = {
            "classifier": classifier,
            "features": features,
            "labels": labels,
            "groups": groups,
            "class_counts": class_counts,
        }
        heads = [head for _, head in self._fitted(available, _seed(generator))]
        if self.selection == "greedy":
            if not len(validation_labels):
                raise ValueError(
                    "rebalancers/soup: there are no validation images to choose members by; raise "
                    "data.validation_per_class, or set rebalance.method.soup.selection to uniform"
                )
            logits = [predict_logits(head, validation_features) for head in heads]
            heads = [heads[place] for place in _greedy(logits, validation_labels)]
        report({"rebalance/soup/members": float(len(heads))}, 0)
        return averaged(heads)

    def fit_out_of_fold(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        generator: torch.Generator,
        report: Callable[[Mapping[str, float], int], None],
        groups: torch.Tensor | None = None,
    ) -> tuple[Classifier, torch.Tensor | None]:
        """Return the soup, and its logits to the training images out of fold ``[N, C]``.

        There are none (``None``) if a member starts from the given classifier.

        Raises:
            ValueError: There are too few images to choose members by.
        """
        from trainables.closed_form.groups import judging
        from trainables.closed_form.statistics import samples
        from trainables.features.rebalancer_search import answer_out_of_fold

        if not len(labels):
            return classifier, None
        available = {
            "classifier": classifier,
            "features": features,
            "labels": labels,
            "groups": groups,
            "class_counts": class_counts,
        }
        seed = _seed(generator)
        members, heads = zip(*self._fitted(available, seed), strict=True)
        data = samples(features, labels, groups=groups)
        found = dict(answer_out_of_fold(members, available, data, seed=seed))
        kept = list(range(len(members)))
        if self.selection == "greedy":
            rows = judging(data, len(class_counts))
            if len(found) < len(members) or not bool(rows.any()):
                raise ValueError(
                    "rebalancers/soup: there are no validation images to choose members by, and "
                    "too few training images stand in for them; set "
                    "rebalance.method.soup.selection to uniform"
                )
            kept = _greedy([found[place][rows] for place in kept], data.labels[rows])
        report({"rebalance/soup/members": float(len(kept))}, 0)
        soup = averaged([heads[place] for place in kept])
        if len(found) < len(members):
            return soup, None
        return soup, torch.stack([found[place].double() for place in kept]).mean(dim=0)

    def _fitted(
        self, available: Mapping[str, Any], seed: int
    ) -> list[tuple[Rebalancer, Classifier]]:
        """Return the members whose heads can be averaged with the first, and these heads."""
        from trainables.features.rebalancer_search import apply_in_batch

        found = apply_in_batch(self.members, available, seed=seed)
        if not found:
            raise ValueError(
                f"rebalancers/soup: none of {', '.join(m.name for m in self.members)} supports the "
                f"head '{available['classifier'].head.name}'"
            )
        places = sorted(found)
        alike = _like_the_first([found[place] for place in places])
        return [
            (self.members[place], found[place])
            for place in places
            if any(found[place] is head for head in alike)
        ]


def averaged(classifiers: Sequence[Classifier]) -> Classifier:
    """Return the first classifier with the average weights and logit offsets of all.

    Args:
        classifiers: At least one; their states have the same names and shapes.
    """
    first = classifiers[0]
    if len(classifiers) == 1:
        return first
    states = [each.state for each in classifiers]
    state = {name: _mean([each[name] for each in states]) for name in first.state}
    return first._replace(
        state=state, logit_offset=_mean([each.logit_offset for each in classifiers])
    )


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([each.double() for each in tensors]).mean(dim=0).to(tensors[0])


def _like_the_first(classifiers: Sequence[Classifier]) -> list[Classifier]:
    """Return those with the head of the first; it alone if that is not linear in its weights."""
    first = classifiers[0]
    if first.head.name not in LINEAR:
        return [first]
    return [each for each in classifiers if each.head == first.head]


def _greedy(logits: Sequence[torch.Tensor], labels: torch.Tensor) -> list[int]:
    """Return the first head and those that do the average no harm, taken in one by one.

    Args:
        logits: Answers ``[V, C]`` of each head; those of an average of heads are their average.
        labels: ``[V]`` int64.
    """
    from trainables.features.rebalancer_search import merit

    kept, best = [0], merit(logits[0], labels)
    for place in range(1, len(logits)):
        tried = [*kept, place]
        with_head = merit(_mean([logits[each] for each in tried]), labels)
        if with_head >= best:
            kept, best = tried, with_head
    return kept
