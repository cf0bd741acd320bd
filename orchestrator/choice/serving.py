"""Choice of the model that answers: the one before the update, or the updated one.

Both answer the same validation images, with the same seeds. The updated model answers if it gives
significantly more right answers and loses no more on known classes than the gate on forgetting
allows. A right answer is the image's class; for a class that a model has not learned, "unknown".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from orchestrator.choice.paired_gains import Gains, mean_gain
from orchestrator.choice.selection import Answers
from orchestrator.records import Interval
from trainables.methods.gates import Gate
from trainables.methods.gates.forgetting import Forgetting

Served = Literal["first", "updated"]


class Serving(NamedTuple):
    """The model that answers, and why.

    ``difference`` is the mean accuracy over known and new classes, updated minus first.
    """

    served: Served
    reason: str
    difference: Interval


def choose_served(answers: Sequence[Answers], gate: Forgetting | None = None) -> Serving:
    """Choose between the model before and the model after the update, on validation images.

    Args:
        answers: Answers of one recipe, one entry per seed.
        gate: Gate on forgetting, whose allowed losses hold; by default with default settings.
    """
    rng = np.random.default_rng(0)
    gains, losses = [], []
    for each in answers:
        classes = np.unique(each.labels)
        known = classes[classes < len(each.band)]
        gains.append(Gains(each.updated_right - each.first_right, each.labels, classes))
        losses.append(Gains(each.predicted - each.updated, each.labels, known))
    gain, loss = mean_gain(gains, rng), mean_gain(losses, rng)
    passed, _ = (gate or _default_gate())(
        challenger=_named(loss), champion=_named(Interval(mean=0, low=0, high=0, values=[0]))
    )
    shown = (
        f"right answers {gain.mean:+z.4f} [{gain.low:+z.4f}, {gain.high:+z.4f}], known classes "
        f"{-loss.mean:+z.4f} [{-loss.high:+z.4f}, {-loss.low:+z.4f}] by the update, on validation"
    )
    if not gain.low > 0:
        return Serving("first", f"the update gives not significantly more: {shown}", gain)
    if not passed:
        return Serving("first", f"the update forgets more than is allowed: {shown}", gain)
    return Serving("updated", f"the update gives significantly more: {shown}", gain)


def _default_gate() -> Forgetting:
    found = Gate.parse("forgetting")
    assert isinstance(found, Forgetting)
    return found


def _named(loss: Interval) -> dict[str, float]:
    """Return a loss of accuracy and its interval under the names that the gate reads."""
    name = Forgetting().metric
    return {name: loss.mean, f"{name}/low": loss.low, f"{name}/high": loss.high}
