"""Answers of a model as tables: verdicts by each class's threshold, digests, parts."""

from pathlib import Path

import pytest
import torch

from trainables.artifacts import OutOfFold, Scorer
from trainables.data.shots.photo_set import Photo
from trainables.experiment import Evaluate
from trainables.inference.outcome_tables import (
    answers_out_of_fold,
    answers_to_test,
    outcomes_of,
)
from trainables.methods.calibrators import Calibrator
from trainables.methods.scores import Score

NAMES = ["ant", "bee"]
SCORER = Scorer(Calibrator.parse("none"), {}, Score.parse("msp"), {}, 0.5, torch.tensor([0.9, 0.2]))
ARRAYS = {
    "confidence_known": torch.tensor([0.8, 0.8, 0.1]),
    "predicted": torch.tensor([0, 1, 1, 0]),  # the last one is of no known class
    "probability": torch.tensor([0.8, 0.7, 0.6]),
}


def photo(name: str, part: str, digest: str) -> Photo:
    return Photo(Path(f"{digest}.png"), name, part, f"g{digest}", digest, digest, (8, 8))  # type: ignore[arg-type]


def test_each_class_has_its_threshold() -> None:
    found = answers_to_test(ARRAYS, SCORER, NAMES)
    assert found.class_name == ["ant", "bee", "bee"]
    assert found.known.tolist() == [False, True, False]  # .8 < .9; .8 >= .2; .1 < .2
    inside = answers_out_of_fold(
        OutOfFold(
            torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([0.3, 0.3]), torch.arange(2)
        ),
        SCORER,
        NAMES,
    )
    assert inside.class_name == ["bee", "ant"]
    assert inside.known.tolist() == [True, False]
    assert inside.probability.tolist() == [torch.tensor([0.0, 2.0]).softmax(0)[1].item()] * 2


def test_probabilities_out_of_fold_are_calibrated() -> None:
    scorer = SCORER._replace(
        calibrator=Calibrator.parse("temperature"),
        calibrator_state={"temperature": torch.tensor(2.0)},
    )
    logits = torch.tensor([[0.0, 2.0]])
    found = answers_out_of_fold(
        OutOfFold(logits, torch.tensor([0.3]), torch.arange(1)), scorer, NAMES
    )
    assert found.probability.tolist() == [pytest.approx(0.7310586)]  # 1 / (1 + exp(-1))


def test_answers_are_told_by_digest_whatever_the_order_of_images() -> None:
    photos = [photo("ant", "test", "a"), photo("bee", "train", "b"), photo("bee", "test", "c"),
              photo("ant", "train", "d"), photo("ant", "test", "e")]  # fmt: skip
    inside = OutOfFold(
        torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([0.3, 0.3]), torch.arange(2)
    )
    found = outcomes_of(
        photos,
        NAMES,
        Evaluate(),
        test=([0, 4, 2], answers_to_test(ARRAYS, SCORER, NAMES)),
        train=([3, 1], answers_out_of_fold(inside, SCORER, NAMES)),
        level=0.05,
    )
    rows = found.images.set_index("digest")
    assert rows["predicted"].to_dict() == {
        "a": "ant", "e": "bee", "c": "bee", "d": "bee", "b": "ant"
    }  # fmt: skip
    assert rows["known"].to_dict() == {"a": False, "e": True, "c": False, "d": True, "b": False}
    assert rows.loc["a", "group"] == "ga"
    assert found.level == 0.05
