"""Evaluate looks at the held-out images once where the update left the trunk alone."""

from typing import Any

import pytest
import torch

from trainables.artifacts import Backbone
from trainables.context import Context
from trainables.data import build_views
from trainables.experiment import load_experiment
from trainables.pipeline import plan, run, run_step
from trainables.stages import evaluate

SETS = ["classify.training.epochs=1", "update.training.epochs=1", "data.stream.novel=40"]


def test_an_unchanged_trunk_is_used_once_and_gives_the_same_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = load_experiment("experiments/digits.yaml", SETS)
    views = build_views(experiment.data)
    artifacts = run(experiment, Context(), views=views)
    step = plan(experiment)[-1]
    inputs = {name: artifacts[name] for name in step.inputs}
    looked: list[int] = []
    extract = evaluate.extract_features

    def counted(trunk: torch.nn.Module, view: Any, **options: Any) -> torch.Tensor:
        looked.append(len(view.indices))
        return extract(trunk, view, **options)

    monkeypatch.setattr(evaluate, "extract_features", counted)
    once = run_step(step, inputs, Context())["evaluation"].metrics
    assert len(looked) == 2  # the two held-out views
    monkeypatch.setattr(evaluate, "_same_trunk", lambda one, other: False)
    assert run_step(step, inputs, Context())["evaluation"].metrics == once
    assert len(looked) == 2 + 4


def test_trunks_are_the_same_only_bit_by_bit() -> None:
    weights = {"a": torch.ones(2), "b": torch.zeros(3)}
    one = Backbone("fastnet", 16, 4, "nothing", weights)
    assert evaluate._same_trunk(one, one._replace(state={k: v.clone() for k, v in weights.items()}))
    moved = {**weights, "b": torch.tensor([0.0, 0.0, 1e-9])}
    assert not evaluate._same_trunk(one, one._replace(state=moved))
    assert not evaluate._same_trunk(one, one._replace(state={"a": weights["a"]}))
    assert not evaluate._same_trunk(one, one._replace(architecture="resnet32"))
