"""Open world: detection of unknown samples, and their pseudo-labels.

The classifier is fixed, so all trials share one trained trunk. Calibrator and score determine which
samples enter the pool; clusterer and pseudo-labeler determine the pool's pseudo-labels. The oracle
is left out, because it uses labels that a deployment does not have.
"""

from __future__ import annotations

from search_spaces.pick import Pick, suited
from trainables.experiment import Experiment
from trainables.methods.scores import Score
from trainables.settings import assign
from trainables.stages import score

OBJECTIVES = ("evaluate/novelty/auroc:max", "evaluate/update/accuracy:max")


def choose_confidence(pick: Pick, base: Experiment) -> None:
    """Choose score and calibrator, which determine the samples of the pool."""
    scores = suited(Score, score.PROVIDES["method"])
    pick.method("score.method", base.score.method, scores)
    pick.method("score.calibrator", base.score.calibrator)


def choose_pseudo_labels(pick: Pick, base: Experiment) -> None:
    """Choose clusterer and pseudo-labeler of the pool."""
    pick.method("discover.clusterer", base.discover.clusterer)
    pick.method("discover.pseudo_labeler", base.discover.pseudo_labeler)


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with the values that `pick` chose for the open world."""
    choose_confidence(pick, base)
    choose_pseudo_labels(pick, base)
    return assign(base, pick.changes)
