"""The recipe that serves: a sweep's choice on one's own images, with every class known.

Choices travel from the laboratory, fitted numbers never do. What the laboratory has and the service
has not (classes that play new, validation images, a stream) is said, with what is done instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.data.cuts.service import SLICE_GROUPS, SLICE_IMAGES, service_parts
from trainables.data.data_settings import Data
from trainables.data.folders import outline_folder
from trainables.data.service_settings import SERVICE, SERVICE_CHANGES
from trainables.data.source_cache import Source
from trainables.data.source_names import own_kind
from trainables.data.sources import own_path
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.pipeline import plan
from trainables.settings import assign

LEVEL = 0.05  # of false alarm, unless the recipe has another one
SHARE = 3  # at most one in so many images of a class calibrates, unless the threshold needs more
OTHERWISE = (
    "a sweep on one's own images ends with a model that knows every class; with --no-promote the "
    "sweep registers none, and any recipe can be tried"
)


class ServiceRecipe(NamedTuple):
    """A recipe in world `service`, and a line for each thing that is done otherwise there."""

    recipe: Experiment
    notes: list[str]


def ends_in_service(base: Experiment) -> bool:
    """Say whether the winner of a sweep is run once more with all classes known.

    Example:
        >>> from trainables.experiment import Experiment
        >>> ends_in_service(Experiment())  # digits keep their protocol
        False
    """
    return bool(own_kind(base.data.source))


def service_recipe(base: Experiment, changes: Mapping[str, Any], served: str = "") -> ServiceRecipe:
    """Return a recipe of a sweep in world `service`.

    Where answers to training images out of fold can be had, the whole train part trains. Otherwise
    the source's own validation images calibrate, or, where it has none, some images of the classes
    that have enough.

    Args:
        base: The base recipe, of one's own images.
        changes: What a finalist changes in it, and its seed.
        served: Source of the model that serves, with the parts of its ledger; empty: that of the
            base recipe.

    Raises:
        ConfigError: It can't be run there; one line says why, and what can be done.
    """
    chosen = assign(base, {**changes, **({"data.source": served} if served else {})})
    if chosen.data.world == SERVICE:
        return ServiceRecipe(chosen, [])
    more, notes = _threshold(chosen)
    frozen = not chosen.trunk_tuner().moves
    if frozen and chosen.extract.batchnorm == "shifted":
        more["extract.batchnorm"] = "frozen"
        notes.append("batch norm stays as pretrained, because images answer out of fold")
    try:
        more["data.validation_per_class"], why = _slice(chosen, more)
        recipe = assign(chosen, {**SERVICE_CHANGES, **more})
    except ConfigError as error:
        raise ConfigError(f"{error}; {OTHERWISE}") from None
    return ServiceRecipe(recipe, [*why, *notes])


def _threshold(chosen: Experiment) -> tuple[dict[str, Any], list[str]]:
    """Return the threshold's settings: a level of false alarm, that of the recipe if it has one."""
    method = chosen.score.threshold
    if method.name == "false_alarm":
        return {"score.threshold": method.dump()}, []
    note = f"its threshold is set for a false alarm of {100 * LEVEL:g} %, not by '{method.name}'"
    return {"score.threshold": {"false_alarm": {"level": LEVEL}}}, [note]


def check_service(base: Experiment, served: str = "") -> ServiceRecipe:
    """Return how the base recipe would serve, before anything runs; see `service_recipe`.

    Raises:
        ConfigError: It could not, or a class has no training image.
    """
    found = service_recipe(base, {}, served)
    plan(found.recipe)
    service_parts(found.recipe.data, outline(found.recipe.data))
    return found


def answers_out_of_fold(recipe: Experiment) -> bool:
    """Say whether training images have answers by fits without their group.

    The trunk must not have learnt from them, and the classifier must be fitted to features alone.
    """
    method = recipe.rebalance.method
    frozen = recipe.pretrain.method.name == "pretrained" and not recipe.trunk_tuner().moves
    return frozen and method.answers_out_of_fold and not recipe.needs_validation


def _slice(chosen: Experiment, more: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return how many images of a class calibrate without training, and why."""
    # a rebalancer that needs validation images is refused where the world has none yet
    plain = assign(chosen, {**SERVICE_CHANGES, "rebalance.method": "none", **more})
    source, chooses = outline(plain.data), chosen.needs_validation
    own = 0 if source.validation is None else int(source.validation.sum())
    if own and not chooses:
        return 0, [f"the {own} images of its own validation part calibrate, and do not train"]
    if answers_out_of_fold(chosen):
        return 0, []
    able = _able(source)
    level: float = getattr(plain.score.threshold, "level", LEVEL)
    needed = max(math.ceil(1 / level - 1 - 1e-9) - own, 1)
    least = math.ceil(needed / max(len(able), 1))
    smallest = min(able.values(), default=0)
    if least >= smallest:
        raise ConfigError(
            f"data.source: {_reason(chosen)}, and there are {len(able)} classes of {SLICE_IMAGES} "
            f"images or more in {SLICE_GROUPS} groups, too few to keep {needed} images for "
            "calibration; take pretrained weights with classify.trunk=frozen and "
            "rebalance.method=ridge, or add images"
        )
    wanted = max(least, min(chosen.data.validation_per_class // 2, smallest // SHARE))
    of_classes = f"{len(able)} class{'es' if len(able) > 1 else ''}"
    return wanted, [
        f"{_reason(chosen)}, so {wanted} images of each of the {of_classes} of {SLICE_IMAGES} or "
        "more calibrate, and do not train"
    ]


def _reason(chosen: Experiment) -> str:
    """Say why images do not answer out of fold."""
    method = chosen.rebalance.method
    if chosen.needs_validation:
        return f"rebalance.method '{method.name}' chooses by validation images"
    if chosen.pretrain.method.name != "pretrained" or chosen.trunk_tuner().moves:
        return "its trunk is trained on these images"
    return f"rebalance.method '{method.name}' starts from a classifier trained on all images"


def outline(data: Data) -> Source:
    """Return a source of one's own in world `service`, by the heads of its files."""
    return outline_folder(
        own_path(data.source),
        skip_unreadable=data.skip_unreadable,
        cache=Path(data.root) / ".cache",
        columns=data.columns,
        as_written=True,
    ).source


def _able(source: Source) -> dict[int, int]:
    """Return the training images of each class that has enough to give some away."""
    free = ~source.is_test if source.validation is None else ~source.is_test & ~source.validation
    found = {}
    for label in range(len(source.class_names)):
        members = np.flatnonzero(free & (source.labels == label))
        groups = len(members) if source.groups is None else len(set(source.groups[members]))
        if len(members) >= SLICE_IMAGES and groups >= SLICE_GROUPS:
            found[label] = len(members)
    return found
