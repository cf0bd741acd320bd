"""What a model's answers tell about one's photos: confusions, weak classes, mistakes, labels.

Every function takes plain arrays: ``labels [N]`` int (positions in ``class_names``),
``probabilities [N, C]`` of images that the model was not fitted to (test images, or training images
answered out of fold), ``files [N]``. Nothing is decoded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainables.errors import readable

Array = np.ndarray[Any, Any]
BLOCK_ROWS = 1024  # mistakes whose similarities are in memory together


class Answers(NamedTuple):
    """Labels ``[N]``, probabilities ``[N, C]`` and files ``[N]`` of images, and class names."""

    labels: Array
    probabilities: Array
    files: Sequence[str]
    class_names: Sequence[str]

    @property
    def predicted(self) -> Array:
        """Most probable class ``[N]``."""
        found: Array = self.probabilities.argmax(1)
        return found


class Confusion(NamedTuple):
    """Images of one class that were taken for another, the surest first; ``of`` are all of it."""

    true_class: str
    predicted_class: str
    of: int
    files: list[str]

    @property
    def share(self) -> float:
        """Share of the true class's images."""
        return len(self.files) / self.of


class ClassFigure(NamedTuple):
    """A class's images, how many were named rightly, and what the others were taken for.

    ``taken_for`` holds names and numbers of images, the most frequent first.
    """

    class_name: str
    images: int
    right: int
    taken_for: list[tuple[str, int]]

    @property
    def accuracy(self) -> float:
        """Share of the class's images that were named rightly."""
        return self.right / self.images


class Mistake(NamedTuple):
    """An image whose answer differs from its label; ``probability`` is that of the answer."""

    file: str
    label: str
    predicted: str
    probability: float


class Suspect(NamedTuple):
    """An image whose label may be wrong, with the class that the model suggests in its place.

    ``label_probability`` and ``suggested_probability`` are out of sample.
    """

    file: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float


def confusions(answers: Answers) -> list[Confusion]:
    """Return the pairs of classes that are confused, the largest share of a class first.

    Example:
        >>> sure = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
        >>> found = confusions(Answers(np.array([0, 0, 0, 1]), sure, "abcd", ["lynx", "ocelot"]))
        >>> [(pair.true_class, pair.predicted_class, pair.files, pair.of) for pair in found]
        [('lynx', 'ocelot', ['b', 'c'], 3)]
    """
    predicted, names = answers.predicted, answers.class_names
    counts = np.bincount(answers.labels, minlength=len(names))
    wrong = np.flatnonzero(predicted != answers.labels)
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in _surest(answers, wrong):
        pairs.setdefault((int(answers.labels[row]), int(predicted[row])), []).append(int(row))
    found = [
        Confusion(names[i], names[j], int(counts[i]), [answers.files[row] for row in rows])
        for (i, j), rows in pairs.items()
    ]
    return sorted(found, key=lambda c: (-c.share, -len(c.files), c.true_class, c.predicted_class))


def weakest_classes(answers: Answers) -> list[ClassFigure]:
    """Return the classes that have images, the least accurate first."""
    predicted, names = answers.predicted, answers.class_names
    found = []
    for number, name in enumerate(names):
        given = predicted[answers.labels == number]
        if not len(given):
            continue
        taken = np.bincount(given, minlength=len(names))
        right, taken[number] = int(taken[number]), 0
        order = [int(j) for j in np.argsort(-taken, kind="stable") if taken[j]]
        others = [(names[j], int(taken[j])) for j in order]
        found.append(ClassFigure(name, len(given), right, others))
    return sorted(found, key=lambda row: (row.accuracy, -row.images, row.class_name))


def surest_mistakes(answers: Answers) -> list[Mistake]:
    """Return the images that were named wrongly, the most probable wrong answer first."""
    predicted, names = answers.predicted, answers.class_names
    rows = _surest(answers, np.flatnonzero(predicted != answers.labels))
    return [
        Mistake(
            file=answers.files[row],
            label=names[answers.labels[row]],
            predicted=names[predicted[row]],
            probability=float(answers.probabilities[row, predicted[row]]),
        )
        for row in rows
    ]


def suspect_labels(answers: Answers) -> list[Suspect]:
    """Return images whose labels may be wrong, the most suspect first: confident learning.

    ``t_j`` is the mean probability of class j over the images labelled j. An image labelled i
    counts for the most probable class j with ``p_j >= t_j``; where ``j != i`` its label is suspect.
    Classes that the model does not tell (`classes_told`) have no suspects, and are none's
    suggestion. Suspects are in the order of the normalized margin ``p_i - p_j``, ascending.

    Source: Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", arXiv:1911.00068, equations 1 and 2 and section 3.2 (prune by the confident joint's
    off-diagonals). The few lines stand in for cleanlab, whose license (AGPL) this program can't
    take on.

    Args:
        answers: Probabilities must be out of sample: a model agrees with labels that it was fitted
            to. Give training and test images apart, because their models differ.

    Example:
        >>> sure = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
        >>> labels = np.array([0, 0, 0, 1, 1])  # the third looks like its neighbors
        >>> [s.file for s in suspect_labels(Answers(labels, sure, "abcde", ["lynx", "ocelot"]))]
        ['c']
    """
    labels, probabilities = answers.labels, answers.probabilities
    if not len(labels):
        return []
    own, suggested = probabilities[np.arange(len(labels)), labels], _confident(answers)
    told = classes_told(answers)
    sound = (suggested >= 0) & told[labels] & told[suggested]
    rows = np.flatnonzero(sound & (suggested != labels))
    margins = own[rows] - probabilities[rows, suggested[rows]]
    return [
        Suspect(
            file=answers.files[row],
            label=answers.class_names[labels[row]],
            suggested=answers.class_names[suggested[row]],
            label_probability=float(own[row]),
            suggested_probability=float(probabilities[row, suggested[row]]),
        )
        for row in rows[np.argsort(margins, kind="stable")]
    ]


def classes_told(answers: Answers) -> Array:
    """Say of which classes the model tells the images, so that it may doubt labels ``[C]`` bool.

    Of the images labelled i that count for a class in `suspect_labels`, half or more count for i. A
    weak model contradicts most labels, and would be wrong.

    Example:
        >>> sure = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.8, 0.2], [0.7, 0.3]])
        >>> classes_told(Answers(np.array([0, 0, 1, 1, 1]), sure, "abcde", ["lynx", "ocelot"]))
        array([ True, False])
    """
    labels, found = answers.labels, _confident(answers)
    number = answers.probabilities.shape[1]
    asked = np.bincount(labels[found >= 0], minlength=number)
    agreed = np.bincount(labels[found == labels], minlength=number)
    told: Array = (asked > 0) & (2 * agreed >= asked)
    return told


def _confident(answers: Answers) -> Array:
    """Return the class that each image counts for ``[N]``; -1: none is probable enough."""
    labels, probabilities = answers.labels, answers.probabilities
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(1, counts), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    found: Array = np.where(confident.max(1) >= 0, confident.argmax(1), -1)
    return found


def suspects_csv(
    suspects: Mapping[str, Sequence[Suspect]], corrected: Mapping[str, str] | None = None
) -> str:
    """Return suspects as a table: correct its column ``label`` and give it to ``--labels``.

    Args:
        suspects: Part (``train``, ``test``) to its suspects.
        corrected: File to label of what was corrected before. It stays in the table, without a
            suggestion, so that the newest table alone holds all corrections.

    Example:
        >>> print(suspects_csv({"train": [Suspect("a.jpg", "lynx", "ocelot", 0.1, 0.9)]}), end="")
        path,label,suggested,label_probability,suggested_probability,part
        a.jpg,lynx,ocelot,0.1,0.9,train
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", *Suspect._fields[1:], "part"])
    for part, found in suspects.items():
        for s in found:
            values = (s.label, s.suggested, round(s.label_probability, 4))
            table.writerow([s.file, *values, round(s.suggested_probability, 4), part])
    listed = {s.file for found in suspects.values() for s in found}
    for file, label in sorted((corrected or {}).items()):
        if file not in listed:
            table.writerow([file, label, "", "", "", ""])
    return text.getvalue()


def nearest_images(
    features: Array,
    train_features: Array,
    count: int = 3,
    groups: Array | None = None,
    train_groups: Array | None = None,
) -> Array:
    """Return the training images of largest cosine similarity to each image, nearest first.

    Args:
        features: ``[N, D]`` of the asked images.
        train_features: ``[M, D]``.
        count: How many; fewer if M is smaller.
        groups: Group of each asked image ``[N]``: training images of it are not near, but the image
            itself, or a copy. Without groups no asked image may be a training image.
        train_groups: Group of each training image ``[M]``.

    Returns:
        Positions ``[N, count]`` among the training images; -1 where there are no more.

    Example:
        >>> train = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> nearest_images(np.array([[3.0, 0.1]]), train, count=2)
        array([[0, 2]])
    """
    train = _unit(train_features)
    found = [np.zeros((0, min(count, len(train))), dtype=np.int64)]
    for start in range(0, len(features), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        similar = _unit(features[rows]) @ train.T
        if groups is not None:
            similar[groups[rows, None] == train_groups] = -np.inf
        near = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        found.append(np.where(np.isfinite(np.take_along_axis(similar, near, axis=1)), near, -1))
    return np.concatenate(found)


def shown(file: str) -> str:
    """Return folder and name of a file, in letters that any page takes.

    Example:
        >>> shown("/home/ann/photos/lynx/7.jpg")
        'lynx/7.jpg'
    """
    return readable("/".join(file.replace("\\", "/").split("/")[-2:]))


def _surest(answers: Answers, rows: Array) -> Array:
    """Return rows by the probability of their answer, largest first."""
    found: Array = rows[np.argsort(-answers.probabilities[rows].max(1), kind="stable")]
    return found


def _unit(features: Array) -> Array:
    """Return rows of length 1; a row of zeros stays."""
    wide = features.astype(np.float64, copy=False)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    found: Array = wide / np.where(lengths > 0, lengths, 1.0)
    return found
