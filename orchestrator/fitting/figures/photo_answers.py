"""What a model says of each photo, with probabilities and features: what the page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from orchestrator.fitting.fit_record import FEW_TEST
from orchestrator.report.photo_findings import Answers, Array
from orchestrator.report.photo_sections import Neighbors
from trainables.features.predict import calibrated, predict_logits

if TYPE_CHECKING:
    from trainables.artifacts import LabelledView
    from trainables.data.views import Views


class Part(NamedTuple):
    """Answers to N images, their features ``[N, D]`` and groups ``[N]``."""

    answers: Answers
    features: Array
    groups: Array

    def of_several_groups(self) -> Part:
        """Return the images of classes that have two groups or more.

        Out of fold an image of another class is answered by a fit that has never seen its class.
        """
        labels = self.answers.labels
        pairs = np.unique(np.stack([labels, self.groups]), axis=1)[0]
        rows = np.flatnonzero(np.bincount(pairs, minlength=1)[labels] > 1)
        answers = self.answers._replace(
            labels=labels[rows],
            probabilities=self.answers.probabilities[rows],
            files=[self.answers.files[row] for row in rows.tolist()],
        )
        return Part(answers, self.features[rows], self.groups[rows])


class PhotoAnswers(NamedTuple):
    """Answers to the test images, and out of fold to the training images.

    Of a network that was trained on the photos there are none out of fold: ``kept_out`` are those
    to images that were kept out of the training.
    """

    test: Part
    train: Part
    kept_out: Part | None = None

    @property
    def beside(self) -> Part:
        """The answers beside those to the test images that can be judged."""
        return self.train.of_several_groups() if self.kept_out is None else self.kept_out

    def shown(self) -> tuple[Answers, Neighbors, str]:
        """Return the answers of a page, where training images alike are sought, and what they are.

        With few test images, answers to training images out of fold are shown with them.
        """
        parts, what = [self.test], "test images"
        if len(self.test.answers.labels) < FEW_TEST:
            origin = "training images out-of-fold"
            if self.kept_out is not None:
                origin = "images kept out of the training"
            parts, what = [self.test, self.beside], f"test images, and {origin}"
        answers = Answers(
            np.concatenate([part.answers.labels for part in parts]),
            np.concatenate([part.answers.probabilities for part in parts]),
            [file for part in parts for file in part.answers.files],
            self.train.answers.class_names,
        )
        learnt = self.train.answers
        neighbors = Neighbors(
            np.concatenate([part.features for part in parts]),
            self.train.features,
            learnt.files,
            [learnt.class_names[label] for label in learnt.labels],
            np.concatenate([part.groups for part in parts]),
            self.train.groups,
        )
        return answers, neighbors, what


def answers_to_photos(
    artifacts: Mapping[str, Any],
    views: Views,
    files: Sequence[Path],
    class_names: Sequence[str],
    out_of_fold: Tensor,
    *,
    kept_out: bool = False,
) -> PhotoAnswers:
    """Return what the first model of a recipe answers, in probabilities.

    Args:
        artifacts: What the recipe's stages gave.
        views: The views of its data.
        files: The file of each image of the source.
        class_names: The classes in the order of the logits.
        out_of_fold: Logits of the training images ``[N, C]`` by fits without the image's group.
        kept_out: The network was trained on these images; the validation images were kept out.
    """
    scorer, test = artifacts["scorer"], views.held_out_known
    asked = artifacts["held_out_features"].first[: len(test.labels)]
    logits = predict_logits(artifacts["classifier"], asked)

    def part(view: LabelledView, positions: Sequence[int], raw: Tensor, features: Tensor) -> Part:
        probabilities = calibrated(scorer, raw.float()).double().softmax(1).numpy()
        named = [str(files[place]) for place in positions]
        groups = np.array(positions) if view.groups is None else view.groups
        return Part(
            Answers(view.labels, probabilities, named, class_names), features.numpy(), groups
        )

    train, features = views.known_train, artifacts["features"]
    found = PhotoAnswers(
        part(test, views.index_lists["held_out_known"], logits, asked),
        part(train, train.indices.tolist(), out_of_fold, features.known_train),
    )
    if not kept_out:
        return found
    view = views.validation_known
    raw = predict_logits(artifacts["classifier"], features.validation_known)
    return found._replace(
        kept_out=part(view, view.indices.tolist(), raw, features.validation_known)
    )
