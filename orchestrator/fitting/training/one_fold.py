"""The rehearsal of a network that was trained: one fold of classes plays new.

Such a network has seen all classes, so it is trained once more, without some of them and with the
same recipe. Their images then come to that network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orchestrator.execution.execute import MODELS, RecipeResult
from orchestrator.fitting.rehearsing import Rehearsed, choose_score, scores_for
from orchestrator.fitting.training.kept_out import enough, spare
from trainables.artifacts import ImageView
from trainables.context import derive_seed
from trainables.data.shots.photo_set import PhotoSet, write_table
from trainables.features import predict
from trainables.inference.reference import reference_of
from trainables.methods.scores import Score
from trainables.models.backbone import extract_features, from_artifact
from trainables.rehearsal.noticing import share_of, taken_for
from trainables.rehearsal.outcome import Rehearsal, Turn
from trainables.rehearsal.rules import LEVELS
from trainables.settings import assign

if TYPE_CHECKING:
    from trainables.data.views import Views
    from trainables.experiment import Experiment

TABLE = "rehearsal-photos.csv"
SHARE, LEAST = 0.2, 2  # of the classes play new; so many at least play new, and stay known

Run = Callable[["Experiment"], RecipeResult]


class Fold(NamedTuple):
    """A fold of classes, and what is known of the recipe that is rehearsed.

    Attributes:
        new: Names of the classes that play new.
        recipe: The recipe of the service.
        views: Its views, of all classes.
        level: False alarm of the service.
        met: Classes that the backbone was trained on before.
    """

    new: Sequence[str]
    recipe: Experiment
    views: Views
    level: float
    met: frozenset[str] = frozenset()


def classes_of_fold(names: Collection[str], never_new: Collection[str], seed: int = 0) -> list[str]:
    """Return which classes play new: about 20 %, drawn; none where there are too few.

    Args:
        names: All classes.
        never_new: Classes that stay known, such as catch-all folders.
        seed: Of the draw.

    Example:
        >>> len(classes_of_fold([f"class {n}" for n in range(20)], []))
        4
        >>> classes_of_fold(["cat", "dog", "fox"], []), classes_of_fold("abcd", "abc")
        ([], [])
    """
    able = sorted(set(names) - set(never_new))
    wanted = max(LEAST, round(SHARE * len(names)))
    if len(able) < LEAST or len(names) - wanted < LEAST:
        return []
    rng = np.random.default_rng(derive_seed(seed, "fit", "fold"))
    return sorted(str(name) for name in rng.permutation(able)[:wanted])


def images_of_fold(images: PhotoSet, new: Collection[str], *, level: float) -> PhotoSet:
    """Return the photos that a fold trains and calibrates with: no new class, no test image.

    Args:
        images: The photos, before any are kept out: the fold keeps its own out.
        new: Classes that play new.
        level: Level of false alarm that thresholds are set for.
    """
    photos = [p for p in images.photos if p.part != "test" and p.class_name not in new]
    classes = [name for name in images.classes if name not in new]
    return spare(images._replace(photos=photos, classes=classes), level=level)


def why_not(fold: PhotoSet, new: Collection[str], level: float) -> str:
    """Return why a fold can't be played, or nothing."""
    if not new:
        return "there are too few classes: two play new while two or more stay known"
    if not enough(fold, level):
        return f"without {' and '.join(new)} too few images can be kept out to set a threshold"
    return ""


def rehearse_fold(fold: Fold, images: PhotoSet, folder: Path, run: Run) -> Rehearsed:
    """Train a recipe without the classes of a fold, and see whether it notices their images.

    Thresholds are those of the service at each level, set by the fold's own images that are kept
    out. The score with the better mean AUROC is taken; what is told of a class is told by the score
    that the other classes chose (see `choose_score`).

    Args:
        fold: The classes, and the recipe.
        images: What `images_of_fold` returns.
        folder: Of the model; the fold's table of images is written there.
        run: Runs a recipe's stages.
    """
    levels = tuple(sorted({*LEVELS, fold.level}))
    unplayed = Rehearsal([], [], levels, fold.level, fold.met, 0.0, "")
    reason = why_not(images, fold.new, fold.level)
    scores = scores_for(sum(photo.part == "train" for photo in images.photos))
    if reason:
        return Rehearsed(scores[0], unplayed._replace(cannot_tell=reason))
    write_table(images, folder / TABLE)
    recipe = assign(fold.recipe, {"data.source": f"table:{folder / TABLE}"})
    stage = _Stage(fold, recipe, run)
    played = [stage.turns(score, (fold.level,)) for score in scores]
    best, of_class = choose_score(played)
    told = tuple(level for level in levels if level == fold.level or enough(images, level))
    each = {
        (place, turn.class_name): turn
        for place in {best, *of_class.values()}
        for turn in stage.turns(scores[place], told)
    }
    turns = [each[of_class[name], name] for name in fold.new]
    return Rehearsed(scores[best], unplayed._replace(turns=turns, levels=told))


class _Stage:
    """A network that was trained without the fold's classes, and these classes' images."""

    def __init__(self, fold: Fold, recipe: Experiment, run: Run) -> None:
        self.fold, self._recipe, self._run = fold, recipe, run
        found = run(recipe).artifacts
        self._names = [str(name) for name in found["known_train"].class_names]
        trunk = from_artifact(found["backbone"])
        self._new = {
            name: extract_features(trunk, view) for name, view in _views_of(fold.views, fold.new)
        }

    def turns(self, score: Score, levels: Sequence[float]) -> list[Turn]:
        """Return the turns of the fold's classes with one score."""
        by_level = {level: self._artifacts(score, level) for level in levels}
        return [self._turn(name, by_level) for name in self.fold.new]

    def _artifacts(self, score: Score, level: float) -> dict[str, Any]:
        settings = {
            "score.method": score.dump(),
            "score.threshold": {"false_alarm": {"level": level}},
        }
        return self._run(assign(self._recipe, settings)).artifacts

    def _turn(self, name: str, by_level: dict[float, dict[str, Any]]) -> Turn:
        served = by_level[self.fold.level]
        noticed = {level: self._noticed(name, found) for level, found in by_level.items()}
        reference = reference_of(served, MODELS["first"])
        assert reference is not None  # images are kept out
        confidence, logits = self._answers(name, served)
        unknown = noticed[self.fold.level]
        return Turn(
            class_name=name,
            images=len(confidence),
            noticed={level: share_of(images) for level, images in noticed.items()},
            auroc=auroc(reference.confidence, confidence),
            taken_for=taken_for(logits.argmax(1), unknown, self._names),
            found={},
            together=tuple(other for other in self.fold.new if other != name),
        )

    def _answers(self, name: str, found: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return confidence and calibrated logits of a new class's images."""
        scorer, classifier = found["scorer"], found["classifier"]
        features = self._new[name]
        logits = predict.calibrated(scorer, predict.predict_logits(classifier, features))
        counts = classifier.class_counts
        sure = predict.confidence(scorer, features=features, logits=logits, class_counts=counts)
        return sure, logits

    def _noticed(self, name: str, found: dict[str, Any]) -> Tensor:
        """Return which images of a new class are called unknown."""
        confidence, logits = self._answers(name, found)
        return predict.unknown(found["scorer"], confidence=confidence, logits=logits)


def auroc(known: Tensor, new: Tensor) -> float:
    """Return the probability that a known image is surer than a new one, ties counting half.

    Example:
        >>> auroc(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5]))
        0.875
    """
    from sklearn.metrics import roc_auc_score

    truth = [1] * len(known) + [0] * len(new)
    return float(roc_auc_score(truth, torch.cat([known, new]).double().numpy()))


def _views_of(views: Views, new: Sequence[str]) -> Iterator[tuple[str, ImageView]]:
    """Yield each new class with all of its images that are no test images."""
    names = [str(name) for name in views.summary["known_class_names"]]
    parts = (views.known_train, views.validation_known)
    for name in new:
        label = names.index(name)
        rows = [view.indices[view.labels == label] for view in parts]
        yield name, ImageView(views.known_train.images, np.concatenate(rows), "")
