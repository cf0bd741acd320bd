"""What a stage does not train stays, bit by bit: hashes of every parameter and buffer."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from trainables.context import Context
from trainables.data.views import Views, build_views
from trainables.experiment import Experiment, load_experiment
from trainables.models.backbone import build_trunk
from trainables.pipeline import plan, run, run_step
from trainables.settings import assign

BASE = assign(
    load_experiment("experiments/digits.yaml"),
    {
        "data.image_size": 8,
        "classify.training.epochs": 3,
        "classify.training.batch_size": 32,
        "update.training.epochs": 2,
        "update.training.batch_size": 64,
        "score.threshold": {"known_recall": {"keep": 0.7}},
    },
)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PIXELS = {"mean", "std"}  # what images are normalised by: constants


def hashed(value: Any) -> Any:
    """Return hashes of all tensors and arrays in an artifact, by name."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, dict):
        return {name: hashed(part) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return hashed(value._asdict())
    return None


@pytest.fixture(scope="module")
def views() -> Views:
    return build_views(BASE.data)


@pytest.fixture(scope="module")
def artifacts(views: Views) -> dict[str, Any]:
    return run(BASE, Context(), views=views)


def again(stage: str, experiment: Experiment, artifacts: dict[str, Any]) -> dict[str, Any]:
    """Run one stage on the artifacts of a whole run, none of which may change."""
    step = next(step for step in plan(experiment) if step.stage == stage)
    given = {name: artifacts[name] for name in step.inputs}
    before = hashed(given)
    found = run_step(step, given, Context())
    assert hashed(given) == before, f"{stage} wrote into its inputs"
    return found


def drawn_trunk(views: Views) -> dict[str, Any]:
    return again("pretrain", BASE, views._asdict())


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of the parameters and buffers whose hash differs."""
    old, new = hashed(before), hashed(after)
    assert old.keys() == new.keys()
    return {name for name in old if old[name] != new[name]}


def statistics(state: dict[str, torch.Tensor]) -> set[str]:
    found = {name for name in state if name.rpartition(".")[2] in STATISTICS}
    assert found
    return found


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("classify", {}),
        ("extract", {}),
        ("extract", {"extract.batchnorm": "shifted", "extract.shift_steps": 3}),
        *(("rebalance", {"rebalance.method": name}) for name in ("crt", "lws_plus", "disalign")),
        *(("rebalance", {"rebalance.method": name}) for name in ("bags", "tau_norm", "tde", "ncm")),
        ("score", {"score.method": "mahalanobis"}),
        ("discover", {}),
        ("update", {"update.mode": "head"}),
        ("update", {"update.mode": "full", "update.rounds": 2}),
        ("evaluate", {}),
    ],
    ids=str,
)
def test_no_stage_writes_into_what_others_use(
    stage: str, changes: dict[str, Any], artifacts: dict[str, Any], views: Views
) -> None:
    given = dict(artifacts)
    if "tde" in changes.values():
        changes = changes | {"classify.head": "causal_norm"}
        given.update(again("classify", assign(BASE, changes), {**given, **drawn_trunk(views)}))
    again(stage, assign(BASE, changes), given)


def test_a_trunk_that_nobody_trained_is_the_one_that_was_drawn(views: Views) -> None:
    state = drawn_trunk(views)["backbone"].state
    drawn = build_trunk("fastnet", 8, generator=Context().generator("pretrain", "initial"))
    assert moved(drawn.state_dict(), state) == set()
    fresh = {name: float(state[name].float().mean()) for name in statistics(state)}
    assert set(fresh.values()) == {0.0, 1.0}


def test_the_first_classifier_moves_everything_and_validation_moves_nothing(views: Views) -> None:
    trunk = drawn_trunk(views)
    result = again("classify", BASE, {**views._asdict(), **trunk})
    before, after = trunk["backbone"].state, result["backbone"].state
    assert moved(before, after) == set(before) - PIXELS
    steps = int(result["classifier"].train_cost["classify_steps"])
    counters = {int(after[name]) for name in after if name.endswith("num_batches_tracked")}
    assert counters == {steps}, "a pass that is no step was seen by batch norm"


@pytest.mark.parametrize("batchnorm", ["frozen", "shifted"])
def test_extract_moves_statistics_or_nothing(batchnorm: str, artifacts: dict[str, Any]) -> None:
    chosen = assign(BASE, {"extract.batchnorm": batchnorm, "extract.shift_steps": 3})
    before = artifacts["backbone"].state
    after = again("extract", chosen, artifacts)["backbone"].state
    assert moved(before, after) == (statistics(before) if batchnorm == "shifted" else set())


def test_phase_a_of_an_update_leaves_the_trunk_and_phase_b_the_head(
    artifacts: dict[str, Any],
) -> None:
    assert artifacts["pseudo_labels"].num_new_clusters > 0
    first = again("update", assign(BASE, {"update.mode": "head"}), artifacts)
    both = again("update", assign(BASE, {"update.mode": "full"}), artifacts)
    before = artifacts["backbone"].state
    assert moved(before, first["updated_backbone"].state) == set()
    assert moved(before, both["updated_backbone"].state) == set(before) - PIXELS
    heads = [found["updated_classifier"].state for found in (first, both)]
    assert moved(*heads) == set()


def test_phase_b_moves_the_blocks_of_its_tuner_alone(artifacts: dict[str, Any]) -> None:
    chosen = {"update.mode": "full", "update.trunk": {"last_blocks": {"blocks": 1}}}
    before = artifacts["backbone"].state
    after = again("update", assign(BASE, chosen), artifacts)["updated_backbone"].state
    last = {name for name in before if name.startswith("network.groups.2.")}
    assert moved(before, after) == last
    assert statistics(before) & last
