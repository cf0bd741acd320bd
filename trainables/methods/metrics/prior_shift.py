from __future__ import annotations

import torch

from trainables.functional.prior_shift import (
    FACTORS,
    accuracy_under,
    exchange_prior,
    held_prior_strength,
    shifted_prior,
)
from trainables.methods.metrics import Metric


class PriorShift(Metric):
    """Accuracy on tests that are long-tailed themselves, the same way as the training or reversed.

    ``prior_shift/forward_50``: accuracy if the most frequent training class were 50 times as
    frequent in the test as the rarest, falling exponentially between them; ``backward_50``: if the
    rarest were; the same for 25, 10, 5 and 2. Each class's accuracy is weighted by the prior: no
    sample is drawn again. ``.../prior_given``: the same where the prior is known, so that the prior
    which the logits hold is exchanged for it: ``z - s log pi_train + log pi_test``;
    ``prior_shift/strength`` is that s, found on validation samples.

    Shapes:
        logits [N, C], labels [N] int64 in 0..C-1, class_counts [C]; validation_logits [M, C] and
        validation_labels [M] from the same classifier. Gives fractions in [0, 1]; higher = better
        (but for the strength).

    No sample at all gives an empty dictionary. A class without samples takes no part.

    Source:
        Hong et al. 2021, "Disentangling Label Distribution for Long-tailed Visual Recognition"
        (LADE), arXiv 2012.00321; Zhang et al. 2022, "Self-Supervised Aggregation of Diverse Experts
        for Test-Agnostic Long-Tailed Recognition" (SADE), arXiv 2107.09249, whose tests are drawn.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # always the first class
        >>> labels, counts = torch.tensor([0, 1]), torch.tensor([3, 1])
        >>> found = PriorShift()(
        ...     logits=logits,
        ...     labels=labels,
        ...     class_counts=counts,
        ...     validation_logits=logits,
        ...     validation_labels=labels,
        ... )
        >>> round(found["prior_shift/forward_2"], 3), round(found["prior_shift/backward_2"], 3)
        (0.667, 0.333)
        >>> round(found["prior_shift/backward_2/prior_given"], 3)  # now always the second
        0.667
    """

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        validation_logits: torch.Tensor,
        validation_labels: torch.Tensor,
    ) -> dict[str, float]:
        if len(labels) == 0:
            return {}
        strength = held_prior_strength(validation_logits, validation_labels, class_counts)
        result = {"prior_shift/strength": strength}
        plain = logits.argmax(1) == labels
        for backward, direction in ((False, "forward"), (True, "backward")):
            for factor in FACTORS:
                prior = shifted_prior(class_counts, factor, backward=backward)
                name = f"prior_shift/{direction}_{factor:g}"
                informed = exchange_prior(logits, class_counts, prior, strength=strength)
                result[name] = accuracy_under(prior, plain, labels)
                right = informed.argmax(1) == labels
                result[f"{name}/prior_given"] = accuracy_under(prior, right, labels)
        return result
