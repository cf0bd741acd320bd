"""Open world: what tells known from unknown, and how the unknown get their pseudo-labels.

The classifier stays, so all trials share one trained trunk. Calibration and confidence decide what
enters the pool; clusterer and pseudo-labeler decide what is learned from it. The oracle takes no
part: it reads labels that a deployment does not have.
"""

from __future__ import annotations

from search_spaces.pick import Pick, suited
from trainables.experiment import Experiment
from trainables.methods.scores import Score
from trainables.settings import assign
from trainables.stages import score

OBJECTIVES = ("evaluate/novelty/auroc:max", "evaluate/update/accuracy:max")


def choose_confidence(pick: Pick, base: Experiment) -> None:
    """Choose calibration and confidence: what enters the pool."""
    scores = suited(Score, score.PROVIDES["method"])
    pick.method("score.method", base.score.method, scores)
    pick.method("score.calibrator", base.score.calibrator)


def choose_pseudo_labels(pick: Pick, base: Experiment) -> None:
    """Choose how samples of the pool are grouped, and which groups are believed."""
    pick.method("discover.clusterer", base.discover.clusterer)
    pick.method("discover.pseudo_labeler", base.discover.pseudo_labeler)


def vary(pick: Pick, base: Experiment) -> Experiment:
    """Return the base with what `pick` chose for the open world."""
    choose_confidence(pick, base)
    choose_pseudo_labels(pick, base)
    return assign(base, pick.changes)
