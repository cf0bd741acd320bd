"""Every stage for real, on a handful of digits."""

from typing import Any

import numpy as np
import pytest
import torch

from trainables.artifacts import load_artifact, save_artifact
from trainables.context import Context
from trainables.data.views import Views, build_views
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import plan, run, run_step
from trainables.settings import assign
from trainables.stages import classify

SMALL = {
    "classify.training.epochs": 3,
    "classify.training.batch_size": 32,
    "update.training.epochs": 3,
    "update.training.batch_size": 64,
    "score.threshold": {"known_recall": {"keep": 0.7}},
}


@pytest.fixture(scope="module")
def artifacts(base: Experiment, views: Views) -> dict[str, Any]:
    return run(base, Context(), views=views)


def again(stage: str, experiment: Experiment, artifacts: dict[str, Any]) -> dict[str, Any]:
    """Run one stage on the artifacts of a whole run."""
    step = next(s for s in plan(experiment) if s.stage == stage)
    return run_step(step, {name: artifacts[name] for name in step.inputs}, Context())


def test_metrics_are_finite_and_in_range(artifacts: dict[str, Any]) -> None:
    metrics = artifacts["evaluation"].metrics
    assert all(np.isfinite(v) for v in metrics.values())
    shares = ["accuracy", "accuracy/balanced", "novelty/auroc", "update/accuracy"]
    assert all(0 <= metrics[f"evaluate/{name}"] <= 1 for name in shares)
    assert metrics["evaluate/oracle"] == 0.0


def test_the_same_seed_gives_the_same_run(
    base: Experiment, views: Views, artifacts: dict[str, Any]
) -> None:
    second = run(base, Context(), views=views)
    assert second["evaluation"].metrics == artifacts["evaluation"].metrics
    for name, tensor in artifacts["backbone"].state.items():
        assert torch.equal(tensor, second["backbone"].state[name])


def test_another_seed_gives_another_run(base: Experiment, views: Views) -> None:
    short = assign(base, {"classify.training.epochs": 1})
    first, second = (run(short, Context(seed=s), views=views)["classifier"] for s in (0, 1))
    assert not torch.equal(first.state["weight"], second.state["weight"])


def test_training_leaves_the_ambient_generator_alone(base: Experiment, views: Views) -> None:
    torch.random.set_rng_state(torch.Generator().manual_seed(5).get_state())
    before = torch.random.get_rng_state()
    run(assign(base, {"classify.training.epochs": 1}), Context(), views=views)
    assert torch.equal(before, torch.random.get_rng_state())


def test_iterations_of_a_sampler_are_reported(base: Experiment, artifacts: dict[str, Any]) -> None:
    sampler = {"deferred": {"base": "class_aware", "start": 0.5}}
    settings = assign(base, {"classify.training.epochs": 2, "classify.sampler": sampler}).classify
    views = {name: artifacts[name] for name in ("backbone", "known_train", "validation_known")}
    reports: list[dict[str, float]] = []
    context = Context(report=lambda metrics, _: reports.append(dict(metrics)))
    classify.run(settings, **views, context=context)
    counts = np.bincount(views["known_train"].labels)
    drawn = [counts.sum(), counts.max() * len(counts)]
    assert [report["classify/samples_per_epoch"] for report in reports] == drawn
    steps = np.cumsum(np.ceil(np.array(drawn) / settings.training.batch_size))
    assert [report["classify/steps"] for report in reports] == steps.tolist()


@pytest.mark.parametrize("mode", ["head", "full"])
def test_the_update_takes_a_stream(base: Experiment, artifacts: dict[str, Any], mode: str) -> None:
    changes = {"update.mode": mode, "update.training.epochs": 1}
    one = again("update", assign(base, {**changes, "update.sampler": "class_aware"}), artifacts)
    other = again("update", assign(base, {**changes, "update.sampler": "random_under"}), artifacts)
    weights = [found["updated_classifier"].state["weight"] for found in (one, other)]
    assert not torch.equal(*weights)
    assert all(bool(weight.isfinite().all()) for weight in weights)


def test_rebalance_does_not_touch_the_trunk(base: Experiment, artifacts: dict[str, Any]) -> None:
    step = next(s for s in plan(base) if s.stage == "rebalance")
    assert set(step.outputs) == {"classifier", "out_of_fold"}
    before = {name: value.clone() for name, value in artifacts["backbone"].state.items()}
    again("rebalance", assign(base, {"rebalance.method": {"crt": {"epochs": 1}}}), artifacts)
    after = artifacts["backbone"].state
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_student_starts_with_the_old_rows_bit_by_bit(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    still = assign(base, {"update.training.epochs": 0})
    grown = again("update", still, artifacts)["updated_classifier"]
    old = artifacts["classifier"].state["weight"]
    assert torch.equal(grown.state["weight"][: len(old)], old)
    assert len(grown.state["weight"]) == len(old) + artifacts["pseudo_labels"].num_new_clusters


def test_new_classes_start_at_the_offset_of_those_that_can_answer(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    old = artifacts["classifier"]
    offset = torch.linspace(0, 1, len(old.logit_offset))
    offset[2] = -65504.0  # what silences a class without images
    silent = old._replace(
        logit_offset=offset, class_counts=old.class_counts.index_fill(0, torch.tensor([2]), 0)
    )
    still = assign(base, {"update.training.epochs": 0})
    grown = again("update", still, {**artifacts, "classifier": silent})["updated_classifier"]
    new = grown.logit_offset[len(offset) :]
    assert len(new)
    torch.testing.assert_close(new, offset[offset >= 0].mean().expand(len(new)))
    assert torch.equal(grown.logit_offset[: len(offset)], offset)


def test_head_mode_keeps_the_trunk_and_full_mode_moves_it(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    full = assign(base, {"update.mode": "full", "update.training.epochs": 1})
    old = artifacts["backbone"].state
    head = artifacts["updated_backbone"].state
    moved = again("update", full, artifacts)["updated_backbone"].state
    assert all(torch.equal(old[k], head[k]) for k in old)
    assert any(not torch.equal(old[k], moved[k]) for k in old)


def test_an_empty_pool_selection_leaves_the_model_as_it_was(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    none = {**artifacts}
    none["pool_selection"] = none["pool_selection"]._replace(
        positions=torch.zeros(0, dtype=torch.int64)
    )
    none.update(again("discover", base, none))
    assert none["pseudo_labels"].num_new_clusters == 0
    none.update(again("update", base, none))
    none.update(again("rescore", base, none))
    assert none["updated_classifier"] is none["classifier"]
    assert none["updated_scorer"] is none["scorer"]
    metrics = again("evaluate", base, none)["evaluation"].metrics
    assert metrics["evaluate/update/accuracy/novel"] == 0.0
    assert metrics["evaluate/update/forgetting"] == pytest.approx(0.0, abs=1e-9)


def test_a_class_without_a_held_out_image_is_not_judged(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    view = artifacts["held_out_known"]
    kept = view.labels != 1
    fewer = view._replace(indices=view.indices[kept], labels=view.labels[kept])
    mine = {**artifacts, "held_out_known": fewer}
    mine |= again("extract_held_out", base, mine)
    found = again("evaluate", base, mine)["evaluation"]
    accuracy = found.arrays["class_accuracy"]
    assert accuracy.isnan().nonzero().flatten().tolist() == [1]
    assert found.metrics["evaluate/accuracy/balanced"] == pytest.approx(float(accuracy.nanmean()))


def test_the_oracle_is_marked(base: Experiment, views: Views) -> None:
    oracle = assign(base, {"discover.pseudo_labeler": "oracle"})
    metrics = run(oracle, Context(), views=views)["evaluation"].metrics
    assert metrics["evaluate/oracle"] == 1.0


def test_an_odd_number_of_classes_with_one_image_in_each_small_one_runs_through() -> None:
    step = {"step": {"imbalance_factor": 10_000.0}}
    hard = assign(
        load_experiment("experiments/digits.yaml"),
        {**SMALL, "classify.training.epochs": 1, "data.profile": step, "rebalance.method": "bags"},
    )
    views = build_views(hard.data)
    counts = np.bincount(views.known_train.labels).tolist()
    assert len(counts) == 7
    assert counts[3:] == [1] * 4, "the class in the middle is a small one, not lost"
    metrics = run(hard, Context(), views=views)["evaluation"].metrics
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["evaluate/accuracy/few"] <= 1


def test_a_bound_on_the_head_reads_the_pool_and_is_marked(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    bound = assign(base, {"rebalance.method": "classifier_bound"})
    inputs = {step.stage: step.inputs for step in plan(bound)}
    assert "pool_labels" in inputs["rebalance"]
    assert "pool_labels" not in {s.stage: s.inputs for s in plan(base)}["rebalance"]
    mine = {**artifacts}
    for stage in ("rebalance", "score", "discover", "update", "rescore", "evaluate"):
        mine.update(again(stage, bound, mine))
    assert mine["updated_classifier"].oracle
    assert mine["evaluation"].metrics["evaluate/oracle"] == 1.0


def test_size_and_iterations_stand_beside_every_score(
    base: Experiment, views: Views, artifacts: dict[str, Any]
) -> None:
    size, cost = len(views.known_train.labels), artifacts["evaluation"].metrics
    assert cost["evaluate/cost/classify_samples"] == 3 * size
    assert cost["evaluate/cost/classify_steps"] == 3 * -(-size // 32)
    assert "evaluate/cost/rebalance_steps" not in cost
    weights = (artifacts["backbone"].state, artifacts["classifier"].state)
    learned = sum(
        value.numel()
        for state in weights
        for name, value in state.items()
        if name.rpartition(".")[2] in ("weight", "bias")
    )
    assert cost["evaluate/cost/parameters"] == learned
    mine = {**artifacts, **again("rebalance", assign(base, {"rebalance.method": "crt"}), artifacts)}
    assert mine["classifier"].train_cost == {
        **artifacts["classifier"].train_cost,
        "rebalance_steps": -(-10 * size // 128),
        "rebalance_samples": 10 * size,
    }


def test_pool_labels_do_not_change_anything_before_evaluate(
    base: Experiment, views: Views, artifacts: dict[str, Any]
) -> None:
    shuffled = views._replace(
        pool_labels=views.pool_labels._replace(labels=views.pool_labels.labels[::-1].copy())
    )
    second = run(base, Context(), views=shuffled)
    assert torch.equal(second["pseudo_labels"].labels, artifacts["pseudo_labels"].labels)
    for name, tensor in artifacts["updated_classifier"].state.items():
        assert torch.equal(tensor, second["updated_classifier"].state[name])


@pytest.mark.parametrize("method", ["simclr", "rotation"])
def test_pretraining_reads_no_label_and_trains(base: Experiment, views: Views, method: str) -> None:
    short = {"epochs": 3, "batch_size": 64, "lr": 0.02}
    changed = assign(base, {"pretrain.method": method, "pretrain.training": short})
    step = plan(changed)[0]
    view = views.known_train
    losses: list[float] = []
    context = Context(report=lambda m, e: losses.append(m["pretrain/loss"]))
    first = run_step(step, {"known_train": view}, context)["backbone"]
    blind = view._replace(labels=np.zeros_like(view.labels))
    second = run_step(step, {"known_train": blind}, Context())["backbone"]
    assert losses[-1] < losses[0]
    assert all(torch.equal(t, second.state[k]) for k, t in first.state.items())


def test_a_checkpoint_is_loaded_by_the_pretrained_pretrainer(
    base: Experiment, views: Views, artifacts: dict[str, Any], tmp_path: Any
) -> None:
    save_artifact(artifacts["backbone"], tmp_path)
    path = tmp_path / "trunk.safetensors"
    from safetensors.torch import save_file

    save_file(artifacts["backbone"].state, path)
    loaded = assign(base, {"pretrain.method": {"pretrained": {"checkpoint": str(path)}}})
    result = run_step(plan(loaded)[0], {"known_train": views.known_train}, Context())
    assert all(
        torch.equal(t, artifacts["backbone"].state[k]) for k, t in result["backbone"].state.items()
    )


@pytest.mark.parametrize("name", ["backbone", "classifier", "scorer", "features", "evaluation"])
def test_artifacts_survive_storage(name: str, artifacts: dict[str, Any], tmp_path: Any) -> None:
    artifact = artifacts[name]
    digest = save_artifact(artifact, tmp_path / "one")
    loaded = load_artifact(type(artifact), tmp_path / "one")
    assert save_artifact(loaded, tmp_path / "two") == digest
    assert type(loaded) is type(artifact)


@pytest.mark.parametrize(
    "choice",
    [
        *("none", "logit_adjustment", "crt", "tau_norm", "tde", "disalign", "bags", "ncm"),
        {"ncm": {"distance": "normalized_squared_l2"}},
        {"ncm": {"distance": "centered_normalized_dot"}},
        {"ncm": {"distance": "centered_normalized_squared_l2"}},
    ],
    ids=str,
)
def test_every_rebalancer_runs_through_to_the_update(
    choice: Any, base: Experiment, artifacts: dict[str, Any]
) -> None:
    changed = assign(base, {"rebalance.method": choice})
    mine = {**artifacts, "classifier": artifacts["classifier"]}
    for stage in ("rebalance", "score", "discover", "update", "rescore", "evaluate"):
        mine.update(again(stage, changed, mine))
    assert mine["evaluation"].metrics["evaluate/accuracy/balanced"] > 0.2
