"""The head of a tail without some classes: what it answers about the others, and about theirs."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Classifier
from trainables.closed_form.fitting import ClosedForm, Fit, FromSums
from trainables.closed_form.statistics import Samples, Statistics
from trainables.features.predict import predict_logits
from trainables.features.rebalancer_search import (
    answer_out_of_fold,
    apply_in_batch,
    fit_closed_forms,
)
from trainables.methods.heads import Head
from trainables.methods.rebalancers import Rebalancer


class Parted(NamedTuple):
    """The images of a turn.

    Attributes:
        known: Images of the classes that stay known, with labels 0..K-1.
        classes: Those classes, by their number among all ``[K]``, ascending.
        new: Rows of the images of the classes that play new ``[M]``.
        rows: Rows of the known images ``[N]``.
    """

    known: Samples
    classes: Tensor
    new: Tensor
    rows: Tensor


def part(data: Samples, new: tuple[int, ...]) -> Parted:
    """Part the images of a turn.

    Known images that share a group with a new one are left out: a copy or the same burst of a
    really new class would not be among the training images.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> data = samples(torch.zeros(4, 1), torch.tensor([0, 1, 2, 2]))
        >>> found = part(data, (1,))
        >>> found.known.labels.tolist(), found.classes.tolist(), found.new.tolist()
        ([0, 1, 1], [0, 2], [1])
    """
    leaving = torch.isin(data.labels, torch.tensor(new, device=data.labels.device))
    stay = ~leaving & ~torch.isin(data.groups, data.groups[leaving])
    known = data.part(stay)
    classes = known.labels.unique()
    labels = torch.searchsorted(classes, known.labels)
    new_rows, rows = leaving.nonzero().flatten(), stay.nonzero().flatten()
    return Parted(known._replace(labels=labels), classes, new_rows, rows)


class HeadAnswers(NamedTuple):
    """Logits of known images by heads without their group ``[N, K]``, and of new ones ``[M, K]``.

    ``counts [K]`` are the images of the known classes.
    """

    known: Tensor
    new: Tensor
    counts: Tensor


class Heads:
    """A rebalancer, and what is kept of all images so that classes can be taken away from it.

    Where the rebalancer is fitted to sums over images, the sums of the classes that leave are
    subtracted, which is exact; other rebalancers are fitted again.

    Args:
        rebalancer: Fitted to features alone.
        data: All images.
        head: That a rebalancer which trains a head trains anew.
    """

    def __init__(self, rebalancer: Rebalancer, data: Samples, head: Head) -> None:
        self.rebalancer, self.data, self.head = rebalancer, data, head
        if isinstance(rebalancer, FromSums):
            self.data = rebalancer.prepared(data)

    @cached_property
    def sums(self) -> Statistics:
        """The sums over all images."""
        assert isinstance(self.rebalancer, FromSums)
        return self.rebalancer.gather(self.data, int(self.data.labels.max()) + 1)

    @cached_property
    def of_all(self) -> Any:
        """What fits without some classes share."""
        assert isinstance(self.rebalancer, FromSums)
        return self.rebalancer.of_all(self.data, self.sums)

    def without(self, parted: Parted, *, seed: int) -> HeadAnswers:
        """Return the answers of the head that knows the other classes alone.

        Args:
            parted: The images of the turn.
            seed: Of folds and training, where there is no closed form.
        """
        counts = torch.bincount(parted.known.labels)
        blank = _blank(self.head, parted.known, counts)
        classifier, logits, _ = self._fit(blank, parted, seed)
        if logits is None:
            given = {"classifier": blank, "class_counts": counts}
            found = answer_out_of_fold([self.rebalancer], given, parted.known, seed=seed)
            ((_, logits),) = found
        new = predict_logits(classifier, self.data.features[parted.new])
        return HeadAnswers(logits.float(), new, counts)

    def _fit(self, blank: Classifier, parted: Parted, seed: int) -> Fit:
        """Return the classifier, and its logits out of fold if they have a closed form."""
        known = parted.known
        if isinstance(self.rebalancer, FromSums):
            own = known._replace(projection=self.data.projection)
            if len(known.labels) + len(parted.new) < len(self.data.labels):
                # a class that lost some of its images has another weight
                kept = self.rebalancer.gather(own, len(parted.classes))
                return self.rebalancer.fit_sums(kept, classifier=blank, data=own)
            return self.rebalancer.fit_without(
                self.of_all,
                self.sums.without(self.data.part(parted.new), parted.classes),
                leaving=parted.new,
                staying=parted.rows,
                classifier=blank,
                data=own,
            )
        if isinstance(self.rebalancer, ClosedForm):
            ((_, fit),) = fit_closed_forms([self.rebalancer], blank, known)
            return fit
        given = {
            "classifier": blank,
            "class_counts": blank.class_counts,
            "features": known.features,
            "labels": known.labels,
            "groups": known.groups,
        }
        return Fit(apply_in_batch([self.rebalancer], given, seed=seed)[0], None)


def _blank(head: Head, known: Samples, counts: Tensor) -> Classifier:
    """Return an untrained classifier: its kind of head, its width, and the images per class."""
    zeros = torch.zeros(len(counts), device=known.features.device)
    width = known.features.shape[1]
    mean = known.features.float().mean(dim=0)
    return Classifier(head, width, {}, zeros, counts, mean)
