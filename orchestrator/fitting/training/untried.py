"""A fit in which nothing was searched: what is known of the one recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from orchestrator.execution.execute import MODELS
from orchestrator.fitting.figures.intervals import mean_of_rates, rates_by_class
from orchestrator.fitting.fit_record import Search
from orchestrator.fitting.service import Tried
from orchestrator.fitting.trying.answer_table import AnswerTable
from orchestrator.fitting.trying.choosing import Choice
from orchestrator.records import Interval
from trainables.artifacts import LabelledView
from trainables.inference.reference import reference_of

WORDS = "logit-adjusted network"
NO_GAIN = Interval(mean=0.0, low=0.0, high=0.0, values=[0.0])


def untried(artifacts: Mapping[str, Any], kept_out: LabelledView) -> Tried:
    """Return the one recipe as the base that is served, judged by the images that are kept out.

    Args:
        artifacts: Of its run.
        kept_out: Images that it was not trained on.
    """
    reference = reference_of(dict(artifacts), MODELS["first"])
    assert reference is not None  # images are kept out
    predicted = reference.predicted
    names = [str(name) for name in artifacts["known_train"].class_names]
    labels = kept_out.labels
    groups = torch.arange(len(labels)).numpy() if kept_out.groups is None else kept_out.groups
    rates = rates_by_class(predicted.numpy() == labels, labels, groups, names)
    balanced = mean_of_rates(list(rates.values()))
    search = Search(
        variants=1,
        metric="balanced",
        best=WORDS,
        honest=balanced,
        base=WORDS,
        gain=NO_GAIN,
        served=WORDS,
        serves_base=True,
        classes_not_judged=[name for name in names if name not in rates],
        kept_out=len(labels),
    )
    table = AnswerTable(predicted[None].to(torch.int16), torch.zeros(1, dtype=torch.float64))
    return Tried((), table, Choice(0, balanced, NO_GAIN, 0), search, 0)
