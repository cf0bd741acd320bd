"""Gains of one version over another, paired by image, with intervals by groups of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np
import pandas as pd

from orchestrator.registry.resampling import (
    Estimate,
    calibration_gain,
    class_mean,
    class_mean_gain,
    rate_estimate,
)
from orchestrator.registry.shared_images import Shared
from trainables.functional.paired_rules import Gain, Rate, matched_interval
from trainables.inference.outcomes import Outcomes, Part

BANDS = ("many", "medium", "few")
UNSHARED = "accuracy/unshared_classes"  # lost to classes that only one of the two knows
CHANCE = "accuracy/chance"
BALANCED, CALIBRATION = "accuracy/balanced", "calibration/ece"


def paired_gains(shared: Shared, bands: Mapping[str, str]) -> dict[str, Gain]:
    """Return what the newer version gains in each figure, by the figure's name.

    Of an image of class c, ``d`` is 1 where only the newer version is right, -1 where only the
    other one is, else 0; each answers with the largest of all its outputs. ``accuracy/balanced`` is
    the mean over classes of the mean of ``d``, ``accuracy/many|medium|few`` that over the classes
    of a band, both without the images of ``accuracy/unshared_classes``: those that one version lost
    to a class that it alone knows. ``calibration/ece`` is the fall of the calibration error.

    A figure that no image shows is left out, and calibration where a probability is missing.

    Args:
        shared: The shared images; images of classes that one version does not know are not judged.
        bands: Band of each class.
    """
    images = shared.images[shared.images["label"].isin(shared.classes)].reset_index(drop=True)
    if images.empty:
        return {}
    mine = (images["mine"] == images["label"]).to_numpy(float)
    theirs = (images["theirs"] == images["label"]).to_numpy(float)
    mine_left = images["mine"].isin(shared.only_mine).to_numpy()
    theirs_left = images["theirs"].isin(shared.only_theirs).to_numpy()
    gained = mine - theirs
    attributed = np.where(mine_left | theirs_left, gained, 0.0)
    band = images["label"].map(bands).to_numpy()
    every = np.ones(len(images), dtype=bool)
    asked = {BALANCED: (gained - attributed, every)}
    asked |= {f"accuracy/{name}": (gained - attributed, band == name) for name in BANDS}
    if shared.only_mine or shared.only_theirs:
        asked[UNSHARED] = (attributed, every)
    same = _same_answers(images)
    found = {}
    for figure, (values, rows) in asked.items():
        if rows.any():
            estimate = class_mean_gain(values[rows], images[rows])
            figures = [class_mean(right[rows], images["label"][rows]) for right in (mine, theirs)]
            found[figure] = _gain(figure, estimate, figures, images[rows], shared.origin, same)
    stated = tuple(images[f"{who}_probability"].to_numpy(float) for who in ("my", "their"))
    if np.isfinite(stated).all():
        estimate, errors = calibration_gain(stated, (mine, theirs), images["group"])
        found[CALIBRATION] = _gain(CALIBRATION, estimate, errors, images, shared.origin, same)
    if UNSHARED in found:
        beside = f", beside {100 * found[UNSHARED].value:+z.2f} points by classes that one knows"
        found[BALANCED] = found[BALANCED]._replace(where=f"{found[BALANCED].where}{beside}")
    return found


def over_constant(outcomes: Outcomes, part: Part = "test") -> Gain | None:
    """Return the gain in balanced accuracy over always answering the most frequent class.

    Whatever class is always answered has a balanced accuracy of 1 / C, which is chance. ``None``
    without answers to images of two classes: of a single one, nobody is better than that answer.
    """
    images = outcomes.answered(part).reset_index(drop=True)
    if images["label"].nunique() < 2:
        return None
    train = outcomes.images[outcomes.images["part"] == "train"]["label"]
    usual = str((train if len(train) else images["label"]).mode().iloc[0])
    right = (images["predicted"] == images["label"]).to_numpy(float)
    constant = (images["label"] == usual).to_numpy(float)
    estimate = class_mean_gain(right - constant, images)
    figures = [class_mean(values, images["label"]) for values in (right, constant)]
    origin = "out_of_fold/" if part == "train" else "test/"
    gain = _gain(CHANCE, estimate, figures, images, origin, same=False)
    return gain._replace(where=f" of always answering '{usual}'{gain.where}")


def rehearsal_gain(mine: Outcomes, theirs: Outcomes, renamed: Mapping[str, str]) -> Gain | None:
    """Return the gain in AUROC of classes that played new in the rehearsals of both versions.

    Its interval is the t-interval of the paired differences over these classes; one class has none.
    """
    now = {renamed.get(name, name): value for name, value in theirs.rehearsal.items()}
    common = sorted(set(mine.rehearsal) & set(now))
    common = [name for name in common if math.isfinite(mine.rehearsal[name] + now[name])]
    if not common:
        return None
    pairs = [(mine.rehearsal[name], now[name]) for name in common]
    value = fmean(a - b for a, b in pairs)
    half = _t_half([a - b for a, b in pairs]) if len(common) > 1 else 1.0
    return Gain(
        figure="novelty/auroc",
        value=value,
        low=max(-1.0, value - half),
        high=min(1.0, value + half),
        mine=fmean(a for a, _ in pairs),
        theirs=fmean(b for _, b in pairs),
        spread=half,
        effective=len(common),
        number=len(common),
        same=all(a == b for a, b in pairs),
        origin="rehearsal/",
        where=f" over {len(common)} classes",
        unit="rehearsed classes",
    )


def _t_half(values: Sequence[float]) -> float:
    """Return half the width of the 95 % t-interval of a mean, of two values or more."""
    from scipy.stats import t as student_t

    quantile = float(student_t.ppf(0.975, len(values) - 1))
    return quantile * stdev(values) / math.sqrt(len(values))


def with_seeds(gain: Gain, mine: Mapping[str, float], theirs: Mapping[str, float]) -> Gain:
    """Widen a gain's interval by the noise of seeds, where both versions ran on common ones.

    The half-widths of images and of seeds (95 % t-interval of the paired differences) add up as
    squares. A closed form has no seeds. A seed without a number leaves an interval of NaN, by which
    nothing can be told.

    Args:
        gain: A gain over images.
        mine: Metrics with ``<origin><figure>/seed/<n>`` of the first version.
        theirs: Those of the other one.
    """
    prefix = f"{gain.origin}{gain.figure}/seed/"
    common = sorted(n for n in mine if n.startswith(prefix) and n in theirs)
    if len(common) < 2:
        return gain
    differences = [mine[name] - theirs[name] for name in common]
    if not all(map(math.isfinite, differences)):
        return gain._replace(low=math.nan, high=math.nan, spread=math.nan, same=False)
    noise = _t_half(differences)
    return gain._replace(
        low=max(-1.0, gain.value - math.hypot(gain.value - gain.low, noise)),
        high=min(1.0, gain.value + math.hypot(gain.high - gain.value, noise)),
        spread=math.hypot(gain.spread, noise),
        same=gain.same and not any(differences),
    )


def false_alarms(outcomes: Outcomes) -> dict[str, Rate]:
    """Return the share of known test images that are called unknown, by band of their class."""
    images = outcomes.answered("test")
    band = images["label"].map(outcomes.bands())  # none of a class that is not known
    found = {}
    for name in BANDS:
        rows = images[band == name]
        if len(rows):
            estimate = rate_estimate((~rows["known"]).to_numpy(float), rows["group"])
            found[name] = Rate(name, *estimate, number=len(rows))
    return found


def _gain(
    figure: str,
    estimate: Estimate,
    figures: Sequence[float],
    images: pd.DataFrame,
    origin: str,
    same: bool,
) -> Gain:
    """Return a gain whose interval is at least as wide as its number of images calls for."""
    value, low, high, effective = estimate
    spread = (high - low) / 2
    least, most = matched_interval(value, spread, effective)
    classes = images["label"].nunique()
    return Gain(
        figure=figure,
        value=value,
        low=max(-1.0, min(low, least)),
        high=min(1.0, max(high, most)),
        mine=float(figures[0]),
        theirs=float(figures[1]),
        spread=spread,
        effective=effective,
        number=len(images),
        same=same,
        origin=origin,
        where=f" on {len(images)} images of {classes} class{'es' if classes != 1 else ''}",
    )


def _same_answers(images: pd.DataFrame) -> bool:
    """Say whether both versions gave the same answers, probabilities included.

    Which images they call unknown does not count, as no figure here reads that.
    """
    equal = images["mine"] == images["theirs"]
    close = np.isclose(images["my_probability"], images["their_probability"], atol=1e-6)
    return bool((equal & close).all())
