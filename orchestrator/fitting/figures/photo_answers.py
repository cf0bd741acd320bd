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


class PhotoAnswers(NamedTuple):
    """Answers to the test images, and out of fold to the training images."""

    test: Part
    train: Part

    def shown(self) -> tuple[Answers, Neighbors, str]:
        """Return the answers of a page, where training images alike are sought, and what they are.

        With few test images, answers to training images out of fold are shown with them.
        """
        parts, what = [self.test], "test images"
        if len(self.test.answers.labels) < FEW_TEST:
            parts, what = [self.test, self.train], "test images, and training images out-of-fold"
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
) -> PhotoAnswers:
    """Return what the first model of a recipe answers, in probabilities.

    Args:
        artifacts: What the recipe's stages gave.
        views: The views of its data.
        files: The file of each image of the source.
        class_names: The classes in the order of the logits.
        out_of_fold: Logits of the training images ``[N, C]`` by fits without the image's group.
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

    train = views.known_train
    return PhotoAnswers(
        part(test, views.index_lists["held_out_known"], logits, asked),
        part(train, train.indices.tolist(), out_of_fold, artifacts["features"].known_train),
    )
