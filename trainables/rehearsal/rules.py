"""How a rehearsal is played, and whether that fits its images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from trainables.closed_form.statistics import Samples
from trainables.errors import ConfigError, did_you_mean
from trainables.inference.out_of_fold import Tail
from trainables.methods.heads import Head
from trainables.methods.thresholds.false_alarm import FalseAlarm
from trainables.rehearsal.finding import Finding

LEVELS = (0.01, 0.05, 0.1)
SERVED = 0.05


class Rules(NamedTuple):
    """How a rehearsal is played.

    Attributes:
        levels: Levels of false alarm, in (0, 1).
        served: That of the service, one of the levels.
        threshold: Of the service; in place of its own level it is fitted at each of the levels.
        prior: Expected share of each class ``[C]`` in calibration and threshold; ``None``: as in
            training.
        never_new: Names of classes that stay known, such as catch-all folders.
        met: Names of classes that the backbone may know from its pretraining.
        neighbors: Let each class play new once more, with so many classes most like it; 0: not.
        finding: How the pool is laid out and searched for the class; ``None``: it is not.
        head: What a rebalancer that trains a head trains; ``None``: a linear one.
        seed: Of folds, and of a rebalancer that draws.
    """

    levels: tuple[float, ...] = LEVELS
    served: float = SERVED
    threshold: FalseAlarm = FalseAlarm()
    prior: Tensor | None = None
    never_new: frozenset[str] = frozenset()
    met: frozenset[str] = frozenset()
    neighbors: int = 0
    finding: Finding | None = None
    head: Head | None = None
    seed: int = 0


USUAL = Rules()


def check(tail: Tail, data: Samples, names: list[str], rules: Rules) -> None:
    """Refuse arguments that do not fit each other, each in one line.

    Raises:
        ConfigError: What does not fit.
    """
    if not tail.rebalancer.from_features or tail.rebalancer.needs_validation:
        raise ConfigError(
            f"rehearsal: rebalancers/{tail.rebalancer.name} is not fitted to features of training "
            "images alone, so no class can play new; choose one that is, such as ridge, lda or crt"
        )
    sizes = [len(data.features), len(data.labels), len(data.groups)]
    if len(set(sizes)) > 1:
        raise ConfigError(
            "rehearsal: features, labels and groups must be of the same images; received "
            f"{sizes[0]}, {sizes[1]} and {sizes[2]}"
        )
    if len(data.labels) and int(data.labels.max()) >= len(names):
        raise ConfigError(
            f"rehearsal: labels must be below the number of class names, {len(names)}; "
            f"received {int(data.labels.max())}"
        )
    for name in sorted((rules.never_new | rules.met) - set(names)):
        raise ConfigError(
            f"rehearsal: there is no class '{name}' to mark{did_you_mean(name, names)}"
        )
    _check_levels(rules)
    _check_prior(rules.prior, len(names))
    if rules.finding is not None and not 0 < rules.finding.prevalence < 1:
        raise ConfigError(
            f"rehearsal: prevalence must be in (0, 1); received {rules.finding.prevalence}"
        )


def _check_levels(rules: Rules) -> None:
    for level in rules.levels:
        if not 0 < level < 1:
            raise ConfigError(
                f"rehearsal: a level of false alarm must be in (0, 1); received {level}"
            )
    if rules.served not in rules.levels:
        raise ConfigError(
            "rehearsal: the served level of false alarm must be one of "
            f"{', '.join(map(str, rules.levels))}; received {rules.served}"
        )


def _check_prior(prior: Tensor | None, num_classes: int) -> None:
    if prior is None:
        return
    if len(prior) != num_classes:
        raise ConfigError(
            f"rehearsal: the expected prior needs {num_classes} shares, one per class; "
            f"received {len(prior)}"
        )
    if bool((prior < 0).any()) or int((prior > 0).sum()) < 2:
        raise ConfigError(
            "rehearsal: the expected prior must not be negative, and above 0 for two classes at "
            "least, because one of them plays new"
        )
