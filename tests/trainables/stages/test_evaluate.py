"""Evaluate looks at the held-out images once where the update left the trunk alone."""

from typing import Any

import pytest
import torch

from trainables.artifacts import Backbone, PseudoLabels
from trainables.context import Context
from trainables.data.views import build_views
from trainables.experiment import Experiment, load_experiment
from trainables.models.backbone import same_trunk
from trainables.pipeline import plan, run, run_step
from trainables.stages import evaluate, extract_held_out

SETS = ["classify.training.epochs=1", "update.training.epochs=1", "data.stream.novel=40"]


def held_out(artifacts: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Return the results of both stages that see held-out images."""
    found = dict(artifacts)
    for step in plan(experiment):
        if step.stage in ("extract_held_out", "evaluate"):
            inputs = {name: found[name] for name in step.inputs}
            found.update(run_step(step, inputs, Context()))
    return found


def test_an_unchanged_trunk_is_used_once_and_gives_the_same_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = load_experiment("experiments/digits.yaml", SETS)
    views = build_views(experiment.data)
    artifacts = run(experiment, Context(), views=views)
    looked: list[int] = []
    extract = extract_held_out.extract_views

    def counted(trunk: Any, views: Any, **options: Any) -> list[torch.Tensor]:
        looked.extend(len(view.indices) for view in views)
        return extract(trunk, views, **options)

    monkeypatch.setattr(extract_held_out, "extract_views", counted)
    once = held_out(artifacts, experiment)
    assert len(looked) == 3  # the held-out views
    assert once["held_out_features"].updated.shape == (0, once["held_out_features"].first.shape[1])
    monkeypatch.setattr(extract_held_out, "same_trunk", lambda one, other: False)
    twice = held_out(artifacts, experiment)
    assert torch.equal(twice["held_out_features"].updated, twice["held_out_features"].first)
    assert twice["evaluation"].metrics == once["evaluation"].metrics
    assert len(looked) == 3 + 6


def test_trunks_are_the_same_only_bit_by_bit() -> None:
    weights = {"a": torch.ones(2), "b": torch.zeros(3)}
    one = Backbone("fastnet", 16, 4, "nothing", weights)
    assert same_trunk(one, one._replace(state={k: v.clone() for k, v in weights.items()}))
    moved = {**weights, "b": torch.tensor([0.0, 0.0, 1e-9])}
    assert not same_trunk(one, one._replace(state=moved))
    assert not same_trunk(one, one._replace(state={"a": weights["a"]}))
    assert not same_trunk(one, one._replace(architecture="resnet32"))


@pytest.mark.parametrize(
    ("weights", "expected"), [([0.0, 0.0, 0.0], None), ([1.0, 0.0, 0.5], 0.5), ([0.0, 1.0, 0.0], 0)]
)
def test_unrelated_images_among_the_kept_are_no_share_where_nothing_was_kept(
    weights: list[float], expected: float | None
) -> None:
    labels = PseudoLabels(
        torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3]), torch.tensor(weights), 1, {}
    )
    truth = torch.tensor([-1, 3, 3])  # of no class, then a new class
    found = evaluate._discovery_metrics(labels, truth, num_known=3)["discover/unrelated_kept"]
    assert found == expected if expected is not None else found != found, "NaN is left out"
