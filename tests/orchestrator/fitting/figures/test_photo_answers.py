"""What a page is made of: probabilities of the exported head and scorer, and who is near whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.fitting.figures.photo_answers import Part, PhotoAnswers, answers_to_photos
from orchestrator.fitting.fit_record import FEW_TEST
from orchestrator.report.photo_findings import Answers
from trainables.artifacts import Classifier, Features, HeldOutFeatures, LabelledView, Scorer
from trainables.data.views import Views
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.scores import Score

NAMES = ["cat", "dog"]


def view(indices: list[int], labels: list[int], groups: list[int]) -> LabelledView:
    nothing = np.zeros((0, 1, 1, 3), dtype=np.uint8)
    places, classes = np.array(indices, dtype=np.int64), np.array(labels, dtype=np.int64)
    return LabelledView(nothing, places, classes, 2, "", np.array(groups, dtype=np.int64))


def test_probabilities_are_those_of_head_offset_and_calibrator() -> None:
    weight, bias, offset = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.5, 0.0]), [0.0, -0.25]
    state = {"weight": torch.tensor(weight).float(), "bias": torch.tensor(bias).float()}
    classifier = Classifier(
        Head.parse("linear"), 2, state, torch.tensor(offset), torch.tensor([2, 1]), torch.zeros(2)
    )
    given = {"logits": torch.tensor([[4.0, 0.0], [0.0, 4.0]]), "labels": torch.tensor([0, 0])}
    calibrator = Calibrator.parse("temperature")
    fitted = calibrator.call_with(given, "fit")
    scorer = Scorer(calibrator, fitted, Score.parse("msp"), {}, 0.0)
    temperature = float(next(iter(fitted.values())))
    asked = torch.tensor([[1.0, 1.0], [3.0, 0.0]])
    learnt = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    train, test = view([4, 0, 2], [1, 0, 0], [7, 8, 9]), view([3, 1], [1, 0], [5, 6])
    views = Views(
        **dict.fromkeys(Views._fields)  # type: ignore[arg-type]
    )._replace(known_train=train, held_out_known=test, index_lists={"held_out_known": [3, 1]})
    artifacts = {
        "classifier": classifier,
        "scorer": scorer,
        "features": Features(learnt, torch.zeros(0, 2)),
        "held_out_features": HeldOutFeatures(torch.cat([asked, asked * 9]), asked[:0]),
    }
    out_of_fold = torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 2.0]])
    files = [Path(f"{n}.png") for n in range(5)]
    found = answers_to_photos(artifacts, views, files, NAMES, out_of_fold)

    raw = asked.numpy() @ weight.T + bias + np.array(offset)
    assert temperature != pytest.approx(1.0)
    for logits, part in ((raw, found.test), (out_of_fold.numpy(), found.train)):
        scaled = np.exp(logits / temperature)
        wanted = scaled / scaled.sum(1, keepdims=True)
        assert part.answers.probabilities == pytest.approx(wanted, rel=1e-5)
    assert found.test.answers.files == ["3.png", "1.png"]
    assert found.train.answers.files == ["4.png", "0.png", "2.png"]
    assert found.test.features.tolist() == asked.tolist()
    assert found.train.groups.tolist() == [7, 8, 9]

    # few test images: those of training are shown too, but the only dog, whose fit knew no dog
    answers, neighbors, what = found.shown()
    assert answers.files == ["3.png", "1.png", "0.png", "2.png"]
    assert answers.labels.tolist() == [1, 0, 0, 0]
    assert found.beside.features.tolist() == learnt[1:].tolist()
    assert neighbors.train_classes == ["dog", "cat", "cat"]
    assert neighbors.groups is not None
    assert neighbors.groups.tolist() == [5, 6, 8, 9]
    assert "out-of-fold" in what


def test_many_test_images_are_shown_alone() -> None:
    def part(number: int, first: int) -> Part:
        files = [f"{first + n}.png" for n in range(number)]
        labels = np.zeros(number, dtype=np.int64)
        answers = Answers(labels, np.full((number, 2), 0.5), files, NAMES)
        return Part(answers, np.ones((number, 3)), np.arange(first, first + number))

    answers, neighbors, what = PhotoAnswers(part(FEW_TEST, 100), part(5, 0)).shown()
    assert (len(answers.labels), what) == (FEW_TEST, "test images")
    assert neighbors.train_files == [f"{n}.png" for n in range(5)]


def test_images_that_were_kept_out_stand_in_for_those_that_trained() -> None:
    def part(number: int, first: int, level: float) -> Part:
        files = [f"{first + n}.png" for n in range(number)]
        labels = np.zeros(number, dtype=np.int64)
        answers = Answers(labels, np.full((number, 2), level), files, NAMES)
        return Part(answers, np.ones((number, 3)), np.arange(first, first + number))

    found = PhotoAnswers(part(2, 100, 0.5), part(5, 0, 1.0), part(3, 50, 0.25))
    answers, neighbors, what = found.shown()
    assert what == "test images, and images kept out of the training"
    assert answers.probabilities[:, 0].tolist() == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert neighbors.train_files == [f"{n}.png" for n in range(5)]
    assert found.beside is found.kept_out
    assert found._replace(kept_out=None).beside.answers.files == found.train.answers.files
