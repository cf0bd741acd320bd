"""Can the images that set the threshold tell the false alarm that is asked for? Before any work."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from trainables.data.source_names import PRIOR_FILE
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from trainables.data.shots.photo_set import PhotoSet

MOST_LEVEL = 0.5  # `--false-alarm` is below it


def require_threshold(images: PhotoSet, options: FitOptions) -> None:
    """Refuse photos of which too few set the threshold, as the classes are expected.

    With weights ``w_i`` of the images, which make classes come as they are expected, they tell a
    level of false alarm if ``(sum w_i)^2 / sum w_i^2 >= 1 / level - 1``: 19 at 5 %, of images that
    weigh alike (`trainables.methods.thresholds.false_alarm`). A training image of a class that is
    one shot has no answer out of fold, and is none of them.

    Args:
        images: The photos; those that validate set the threshold, without any those that train.
        options: What was asked for.

    Raises:
        ConfigError: There are too few, or ``--expect`` names a file that can't be used.
    """
    import torch

    from trainables.inference.expected_prior import expected_prior, weights_of

    train = [photo for photo in images.photos if photo.part == "train"]
    own = [photo for photo in images.photos if photo.part == "val"]
    names = list(images.classes)
    trained = Counter(photo.class_name for photo in train)
    shots = Counter(name for name, _ in {(p.class_name, p.group) for p in train})
    labels = torch.tensor([names.index(p.class_name) for p in own or train], dtype=torch.int64)
    told = torch.tensor([bool(own) or shots[names[n]] > 1 for n in labels.tolist()]).bool()
    prior = expected_prior(options.prior, torch.tensor([trained[name] for name in names]), names)
    weights = weights_of(prior, labels)
    assert weights is not None
    weights = weights[told]
    alike = float(weights.sum().square() / weights.square().sum().clamp_min(1e-300))
    if alike >= 1 / options.false_alarm - 1 - 1e-9:
        return
    heaviest = names[int(labels[told][weights.argmax()])] if len(weights) else names[0]
    to = " to val/" if "val" in images.own_parts else ""
    raise ConfigError(_too_few(options, len(weights), alike, heaviest, to))


def _too_few(options: FitOptions, number: int, alike: float, heaviest: str, to: str) -> str:
    """Return what is wrong and what to do, in one line."""
    level, usual = options.false_alarm, options.expect == "natural"
    needed = math.ceil(1 / level - 1 - 1e-9)
    few = f"{number:,} images{' of val/' if to else ''} set the threshold"
    remedies = [f"add images{to}"]
    owner = f"--false-alarm {level:g}"
    told_alike = math.floor(alike + 1e-9)
    if not usual:
        file = options.prior.removeprefix(PRIOR_FILE) if options.prior != "balanced" else "balanced"
        owner = f"--expect {file}"
    if not usual or told_alike < number:  # what validates has other shares than what trains
        shares = "with the shares of the training images" if usual else "with these shares"
        few += f", and {shares} they tell no more than {told_alike} alike"
        remedies = [f"add images of '{heaviest}'{to}"]
        remedies += [] if usual else [f"expect less of '{heaviest}'"]
    # rounded up to two decimals, so that it is allowed
    enough = math.ceil(100 / (alike + 1) - 1e-9) / 100
    if enough < MOST_LEVEL:
        remedies.append(f"give --false-alarm {enough:g}")
    told = ", ".join(remedies[:-1]) + (" or " if len(remedies) > 1 else "") + remedies[-1]
    return f"{owner}: {few}; a false alarm of {100 * level:g} % needs {needed}: {told}"
