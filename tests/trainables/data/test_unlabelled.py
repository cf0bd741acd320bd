"""Semi-supervised training: where unlabelled images come from, who sees them, what is learned."""

from __future__ import annotations

import types
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from trainables import pipeline
from trainables.artifacts import ImageView, LabelledView
from trainables.context import Context
from trainables.data.cuts.class_sizes import unlabelled_sizes
from trainables.data.sources import load_source
from trainables.data.views import Views, build_views
from trainables.errors import ConfigError
from trainables.experiment import Data, Experiment, load_experiment
from trainables.methods.self_trainers.hard_labels import HardLabels
from trainables.pipeline import plan, run, run_step, step_key
from trainables.settings import assign, build
from trainables.training.self_training import Lesson, self_labelled

DIGITS = load_source("digits", Path("unused"))
SET_APART: dict[str, Any] = {
    "max_per_class": 40,
    "unlabelled": {"ratio": 2.0, "imbalance_factor": 4.0},
}


def digits(**changes: Any) -> Views:
    return build_views(build(Data, {**SET_APART, **changes}))


# --- the protocol -------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["validation", "test"])
@pytest.mark.parametrize("profile", ["exponential", "step", "balanced", "natural"])
def test_they_are_training_images_of_known_classes_that_nobody_else_has(
    world: str, profile: str
) -> None:
    settings = {"ratio": 1.0, "imbalance_factor": 4.0}
    views = digits(world=world, profile=profile, max_per_class=20, unlabelled=settings)
    lists = {k: v for k, v in views.index_lists.items() if k != "pool_unrelated"}
    for (first, a), (second, b) in combinations(lists.items(), 2):
        assert not set(a) & set(b), (first, second)
    own = np.array(lists["unlabelled"])
    assert not DIGITS.is_test[own].any()
    known = views.summary["known_classes"]
    counts = np.array(views.summary["class_counts"])
    wanted = unlabelled_sizes(counts, **settings)
    assert np.bincount(DIGITS.labels[own], minlength=10)[known].tolist() == wanted.tolist()
    assert len(own) == wanted.sum() > 0.9 * counts.sum()
    assert len(views.unlabelled.indices) == len(own)


def test_the_view_holds_these_images_alone_in_an_order_that_tells_nothing() -> None:
    views = digits()
    own = views.index_lists["unlabelled"]
    held = views.unlabelled
    assert isinstance(held, ImageView)
    assert len(held.images) == len(own), "no other image is within reach"
    assert held.indices.tolist() == list(range(len(own)))
    stored = {DIGITS.images[index].tobytes(): int(DIGITS.labels[index]) for index in own}
    labels = np.array([stored.pop(image.tobytes()) for image in held.images])
    assert not stored
    assert (np.diff(labels) != 0).mean() > 0.5


def test_labels_of_unlabelled_images_are_in_no_view() -> None:
    views = digits()
    labelled = [n for n, v in views._asdict().items() if getattr(v, "labels", None) is not None]
    truths = ["known_train", "validation_known", "validation_novel", "pool_labels"]
    assert labelled == [*truths, "held_out_known", "held_out_novel", "held_out_unknown"]
    own = {DIGITS.images[index].tobytes() for index in views.index_lists["unlabelled"]}
    for name in set(labelled) - {"pool_labels"}:
        view = getattr(views, name)
        assert not own & {image.tobytes() for image in view.images[view.indices]}, name


def test_what_they_leave_over_goes_to_the_stream_and_nothing_else_moves() -> None:
    with_them, without = digits(), digits(unlabelled={})
    for name in set(with_them._fields) - {"pool", "pool_labels", "unlabelled", "summary"}:
        if hasattr(getattr(without, name), "digest"):
            assert getattr(with_them, name).digest == getattr(without, name).digest, name
    assert with_them.pool.digest != without.pool.digest
    assert digits(world="test").unlabelled.digest == with_them.unlabelled.digest


def test_none_leave_no_trace() -> None:
    plain, off = build_views(Data()), build_views(build(Data, {"unlabelled": {"ratio": 0.0}}))
    assert len(plain.unlabelled.indices) == 0
    assert "unlabelled" not in plain.index_lists
    assert "unlabelled" not in plain.summary["sizes"]
    steep = build_views(build(Data, {"unlabelled": {"imbalance_factor": 50.0}}))
    assert plain.summary == off.summary == steep.summary
    assert digits().summary["protocol_hash"] != digits(unlabelled={}).summary["protocol_hash"]


def test_more_than_there_are_is_refused_with_what_fits() -> None:
    with pytest.raises(ConfigError) as caught:
        build_views(build(Data, {"unlabelled": {"ratio": 2.0}}))
    message = str(caught.value)
    assert "\n" not in message
    assert "data.unlabelled: class '" in message
    bound = int(message.partition("data.max_per_class of at most ")[2].partition(",")[0])
    fitting = build(Data, {"unlabelled": {"ratio": 2.0}, "max_per_class": bound})
    assert len(build_views(fitting).unlabelled.indices) > 0
    tighter = fitting.model_copy(update={"max_per_class": bound + 1})
    with pytest.raises(ConfigError, match=f"at most {bound},"):
        build_views(tighter)
    with pytest.raises(ConfigError, match=r"allowed: a smaller data\.unlabelled\.ratio; received"):
        build_views(build(Data, {"unlabelled": {"ratio": 5000.0}}))


# --- the plan -----------------------------------------------------------------------------------

SMALL = {
    "data.image_size": 8,
    **{f"data.{name}": value for name, value in SET_APART.items()},
    "classify.training.epochs": 3,
    "classify.training.batch_size": 32,
    "update.training.epochs": 1,
    "score.threshold": {"known_recall": {"keep": 0.7}},
}
PLAIN = assign(load_experiment("experiments/digits.yaml"), SMALL)
SELF = assign(PLAIN, {"classify.self_trainer": "hard_labels"})


def inputs(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    return {step.stage: step.inputs for step in plan(experiment)}


def test_only_classify_gets_them_and_only_for_a_self_trainer() -> None:
    assert [stage for stage, names in inputs(SELF).items() if "unlabelled" in names] == ["classify"]
    assert [stage for stage, names in inputs(PLAIN).items() if "unlabelled" in names] == []


def test_a_self_trainer_without_unlabelled_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'hard_labels' learns from unlabelled") as caught:
        assign(SELF, {"data.unlabelled.ratio": 0.0})
    assert "\n" not in str(caught.value)


class Nothing(NamedTuple):
    nothing: str


@pytest.mark.parametrize("stage", ["classify", "evaluate"])
def test_a_stage_that_asks_for_their_labels_is_refused(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(settings: Any, *, unlabelled_labels: Any, context: Context) -> Nothing:
        return Nothing("x")

    module = types.ModuleType("toy")
    module.run, module.PROVIDES = asks, {}  # type: ignore[attr-defined]
    monkeypatch.setitem(pipeline.STAGES, stage, module)
    with pytest.raises(ConfigError, match=f"stage '{stage}' needs 'unlabelled_labels'"):
        plan(SELF)


def test_the_baseline_is_found_again_whatever_is_unlabelled() -> None:
    def key(experiment: Experiment, factor: float) -> str:
        changed = assign(experiment, {"data.unlabelled.imbalance_factor": factor})
        found = build_views(changed.data)._asdict()
        digests = {name: view.digest for name, view in found.items() if hasattr(view, "digest")}
        digests["backbone"] = "trunk"
        step = next(step for step in plan(changed) if step.stage == "classify")
        return step_key(step, digests, seed=0)

    assert key(PLAIN, 1.0) == key(PLAIN, 4.0)
    assert key(SELF, 1.0) != key(SELF, 4.0)


# --- the stage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views() -> Views:
    return build_views(PLAIN.data)


def learned(experiment: Experiment, views: Views) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Run pretrain and classify; return their artifacts and reports."""
    reports: list[dict[str, float]] = []
    context = Context(report=lambda metrics, _: reports.append(dict(metrics)))
    artifacts: dict[str, Any] = dict(views._asdict())
    for step in plan(experiment, ["pretrain", "classify"]):
        given = {name: artifacts[name] for name in step.inputs}
        artifacts.update(run_step(step, given, context))
    return artifacts, reports


def weights(artifacts: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {**artifacts["backbone"].state, **artifacts["classifier"].state}


def test_the_teacher_is_the_classifier_without_self_training(views: Views) -> None:
    _, plain = learned(PLAIN, views)
    _, both = learned(SELF, views)
    teacher = [
        {name.replace("/teacher", ""): value for name, value in report.items()}
        for report in both
        if "classify/teacher/loss" in report
    ]
    assert teacher == plain
    student = [report for report in both if "classify/loss" in report]
    everything = len(views.known_train.labels) + len(views.unlabelled.indices)
    assert [report["classify/samples_per_epoch"] for report in student] == [everything] * 3


def test_if_no_label_is_sure_enough_nothing_changes(views: Views) -> None:
    unsure = {"classify.self_trainer": {"hard_labels": {"threshold": 1.0}}}
    plain, _ = learned(PLAIN, views)
    same, reports = learned(assign(SELF, unsure), views)
    assert reports[-1]["classify/samples_per_epoch"] == len(views.known_train.labels)
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(same)[name], tensor), name


def test_they_teach_something_and_settings_matter(views: Views) -> None:
    plain, _ = learned(PLAIN, views)
    found = [
        weights(learned(assign(SELF, {"classify.self_trainer": chosen}), views)[0])
        for chosen in ("hard_labels", {"hard_labels": {"weight": 0.2}})
    ]
    name = "weight"
    assert not torch.equal(found[0][name], weights(plain)[name])
    assert not torch.equal(found[0][name], found[1][name])


def test_the_whole_run_counts_labelled_images_and_all_iterations(views: Views) -> None:
    artifacts = run(SELF, Context(), views=views)
    counts = views.summary["class_counts"]
    assert artifacts["classifier"].class_counts.tolist() == counts
    labelled, further = sum(counts), len(views.unlabelled.indices)
    assert artifacts["classifier"].train_cost == {
        "classify_samples": 3.0 * (labelled + labelled + further),
        "classify_steps": 3.0 * (-(-labelled // 32) + -(-(labelled + further) // 32)),
    }
    metrics = artifacts["evaluation"].metrics
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"classify.sampler": "class_aware"},
        {"classify.sampler": "class_balanced", "classify.mixing": "mixup"},
        {"classify.branches": "bbn"},
        {"classify.loss": {"joint": {"contrast": "bcl"}}},
        {"classify.training.epochs": 0},
    ],
    ids=str,
)
def test_every_way_to_train_can_go_with_it(changes: dict[str, Any], views: Views) -> None:
    chosen = {"classify.self_trainer": {"hard_labels": {"weight": 0.5, "threshold": 0.3}}}
    artifacts, _ = learned(
        assign(SELF, {"classify.training.epochs": 1, **chosen, **changes}), views
    )
    assert all(bool(tensor.isfinite().all()) for tensor in weights(artifacts).values())


def test_an_interrupted_student_goes_on(views: Views, tmp_path: Path) -> None:
    def stop(metrics: Any, epoch: int) -> None:
        if "classify/loss" in metrics and epoch == 2:
            raise RuntimeError("killed")

    artifacts: dict[str, Any] = dict(views._asdict())
    first, second = plan(SELF, ["pretrain", "classify"])
    artifacts.update(run_step(first, {"known_train": views.known_train}, Context()))
    given = {name: artifacts[name] for name in second.inputs}
    with pytest.raises(RuntimeError, match="killed"):
        run_step(second, given, Context(folder=tmp_path, checkpoint_seconds=0.0, report=stop))
    seen: list[str] = []
    heard = Context(
        folder=tmp_path, checkpoint_seconds=0.0, report=lambda metrics, _: seen.extend(metrics)
    )
    resumed = run_step(second, given, heard)
    whole = run_step(second, given, Context())
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(resumed)[name], tensor), name
    assert seen.count("classify/teacher/loss") == seen.count("classify/loss") == 3


# --- what is learned from -----------------------------------------------------------------------


def image_view(count: int) -> tuple[LabelledView, ImageView]:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    known = LabelledView(images, np.array([4, 1]), np.array([2, 0]), 3, "known")
    return known, ImageView(images, np.arange(5, count), "unlabelled")


def test_kept_images_follow_the_labelled_ones() -> None:
    known, unlabelled = image_view(9)
    logits = torch.tensor([[9.0, 0, 0], [0, 0.1, 0], [0, 0, 9.0], [0, 9.0, 0]])
    trainer = HardLabels(weight=0.5, threshold=0.9)
    lesson = self_labelled(trainer, logits, known=known, unlabelled=unlabelled, context=Context())
    view = lesson.view
    assert view.images[view.indices][:, 0, 0, 0].tolist() == [4, 1, 5, 7, 8]
    assert view.labels.tolist() == [2, 0, 0, 2, 1]
    assert lesson.weights is not None
    assert lesson.weights.tolist() == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert lesson.class_counts.tolist() == [2, 1, 2]
    assert Lesson(known).class_counts.tolist() == [1, 0, 1]


def test_equal_weights_leave_the_epoch_to_the_sampler() -> None:
    known, unlabelled = image_view(9)
    lesson = self_labelled(
        HardLabels(), torch.eye(4)[:, :3], known=known, unlabelled=unlabelled, context=Context()
    )
    assert lesson.weights is None
    assert len(lesson.view.labels) == 6
