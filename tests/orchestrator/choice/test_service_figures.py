"""Figures of the model that answers after a sweep: whose they are, and of which images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.choice.service_figures import (
    class_aurocs,
    own_metrics,
    rehearsal_metrics,
    uncalibrated,
)
from orchestrator.records import FinalistRecord, interval
from orchestrator.registry.paired import false_alarms
from trainables.inference.model import Predictions
from trainables.inference.outcomes import Outcomes, image_table


def table(train: dict[str, int], unknown: dict[str, list[bool]]) -> Outcomes:
    """Return a model's table: training images of each class, and which test images are unknown."""
    rows = [(name, "train", True) for name, count in train.items() for _ in range(count)]
    rows += [(name, "test", alarm) for name, alarms in unknown.items() for alarm in alarms]
    digests = [f"d{number}" for number in range(len(rows))]
    images = image_table(digests, [r[1] for r in rows], [r[0] for r in rows], digests)
    asked = [n for n, row in enumerate(rows) if row[1] == "test"]
    zeros = np.zeros(len(asked))
    answers = Predictions(
        zeros.astype(int), [rows[n][0] for n in asked], zeros, zeros,
        np.array([not rows[n][2] for n in asked]),
    )  # fmt: skip
    found = Outcomes(images, tuple(train), many_above=10, few_below=4)
    return found.with_answers("test", [digests[n] for n in asked], answers)


def test_classes_that_set_no_threshold_are_named_by_band() -> None:
    sizes = {"cat": 11, "dog": 10, "elk": 4, "fox": 3, "gnu": 3}
    found = table(sizes, {"cat": [True] + [False] * 19, "dog": [True, False], "elk": [True, False]})
    assert uncalibrated(found, {"cat", "dog"}) == {"medium": ["elk"], "few": ["fox", "gnu"]}
    assert uncalibrated(found, set(sizes)) == {}
    assert uncalibrated(found, None) == {}  # answers out of fold
    rates = false_alarms(found)
    assert {band: rate.value for band, rate in rates.items()} == {"many": 0.05, "medium": 0.5}
    assert 0 <= rates["many"].low < 0.05 < rates["many"].high < 0.3


def test_what_a_rehearsal_alone_can_tell_comes_from_it() -> None:
    metrics = {
        "evaluate/novelty/auroc": interval([0.5, 1.0]), "evaluate/accuracy": interval([0.1]),
        "evaluate/update/accuracy": interval([0.25]), "test/novelty/auroc": interval([0.2]),
    }  # fmt: skip
    finalist = FinalistRecord(trial_id="t", params={}, seeds=[1, 2], metrics=metrics)
    assert rehearsal_metrics(finalist) == {
        "rehearsal/novelty/auroc": 0.75,
        "rehearsal/update/accuracy": 0.25,
    }
    assert rehearsal_metrics(None) == {}


def test_own_figures_are_those_of_the_first_model_and_out_of_fold() -> None:
    given = {
        "evaluate/first/novelty/false_alarm": 0.1, "evaluate/first/accuracy/new": 0.0,
        "evaluate/first/forgetting": 0.0, "evaluate/accuracy": 0.9, "out_of_fold/accuracy": 0.4,
        "evaluate/leaked_pretraining": 0.0, "evaluate/unknown_pretraining": 1.0,
    }  # fmt: skip
    assert own_metrics(given) == {
        "test/novelty/false_alarm": 0.1, "out_of_fold/accuracy": 0.4,
        "evaluate/leaked_pretraining": 0.0, "evaluate/unknown_pretraining": 1.0,
    }  # fmt: skip


def test_each_new_class_is_told_from_the_known_ones_alone() -> None:
    confidence = torch.tensor([0.9, 0.4, 0.5, 0.1, 0.95, 0.4])
    arrays = {
        "labels": torch.tensor([0, 1, 2, 2, 3, 3]), "class_counts": torch.tensor([5, 4]),
        "confidence": confidence,
    }  # fmt: skip
    # lynx .5 and .1 against .9 and .4: 3 of 4 pairs; ocelot .95 and .4 (a tie): 1.5 of 4
    assert class_aurocs(arrays, ["lynx", "ocelot"]) == pytest.approx(
        {"lynx": 0.75, "ocelot": 0.375}
    )
    assert set(class_aurocs(arrays, ["lynx", "ocelot", "serval"])) == {"lynx", "ocelot"}
    none = {**arrays, "labels": torch.full((6,), 2)}
    assert class_aurocs(none, ["lynx"]) == {}
