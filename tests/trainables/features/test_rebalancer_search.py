"""Many corrections at once: draws within ranges, equal to each alone, the best one kept."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from trainables.artifacts import Classifier
from trainables.closed_form import ridge_classifier, statistics
from trainables.closed_form.projection import project
from trainables.closed_form.statistics import samples as samples_of
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.features import batched_heads
from trainables.features.head_training import HeadTrainingSpec, head_state, new_head, train_job
from trainables.features.objectives import FORMS, head_objective, loss_objective
from trainables.features.predict import predict_logits
from trainables.features.rebalancer_search import (
    answer_out_of_fold,
    apply_in_batch,
    draw_settings,
    merit,
)
from trainables.methods.heads import Head
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range, search_range
from trainables.methods.rebalancers import Rebalancer, lda
from trainables.methods.rebalancers.tuned import Tuned
from trainables.pipeline import run

WIDTH, COUNTS = 6, torch.tensor([60, 15, 5])
LABELS = torch.repeat_interleave(torch.arange(3), COUNTS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(labels: torch.Tensor, seed: int) -> torch.Tensor:
    noise = torch.randn(len(labels), WIDTH, generator=seeded(seed))
    return 1.5 * torch.eye(3, WIDTH)[labels] + 0.8 * noise + 0.3


FEATURES = samples(LABELS, 1)
HELD_OUT = torch.arange(3).repeat(20)
HELD_OUT_FEATURES = samples(HELD_OUT, 2)


def classifier(head: str = "linear") -> Classifier:
    module = new_head(Head.parse(head), num_features=WIDTH, num_classes=3, generator=seeded(3))
    draws = torch.arange(len(LABELS)).repeat(30)
    job = HeadTrainingSpec(module, draws, batch_size=16, lr=0.1, weight_decay=5e-4)
    state = head_state(train_job(job, features=FEATURES, labels=LABELS))
    return Classifier(Head.parse(head), WIDTH, state, torch.zeros(3), COUNTS, FEATURES.mean(0))


def available(head: str = "linear") -> dict[str, Any]:
    return {
        "classifier": classifier(head),
        "features": FEATURES,
        "labels": LABELS,
        "class_counts": COUNTS,
    }


def tuned(method: Tuned, given: Mapping[str, Any]) -> tuple[Classifier, list[dict[str, float]]]:
    rows: list[dict[str, float]] = []
    result = method.call_with(
        {
            **given,
            "generator": seeded(5),
            "validation_features": HELD_OUT_FEATURES,
            "validation_labels": HELD_OUT,
            "report": lambda metrics, step: rows.append({"step": step, **metrics}),
        }
    )
    return result, rows


# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(Rebalancer.shelf))
def test_drawn_settings_lie_in_their_ranges_and_make_a_method(name: str) -> None:
    method, generator = Rebalancer.lookup(name), seeded()
    for _ in range(20):
        drawn = draw_settings(method, generator)
        Rebalancer.parse({name: drawn})
        for field, value in drawn.items():
            allowed = search_range(method.model_fields[field])
            if isinstance(allowed, Choice):
                assert value in allowed.values
            else:
                assert isinstance(allowed, Range)
                assert allowed.low <= value <= allowed.high
    assert draw_settings(method, seeded(1)) == draw_settings(method, seeded(1))


def test_a_logarithmic_range_is_drawn_in_the_logarithm() -> None:
    crt, generator = Rebalancer.lookup("crt"), seeded()
    rates = torch.tensor([draw_settings(crt, generator)["lr"] for _ in range(400)])
    assert float((rates < 0.1).float().mean()) == pytest.approx(0.5, abs=0.08)  # 0.01 to 1


# --- together -------------------------------------------------------------------------------------

TRIES: list[Any] = [
    "none",
    {"logit_adjustment": {"tau": 0.5}},
    "tau_norm",
    {"crt": {"epochs": 4, "lr": 0.3}},
    {"crt": {"epochs": 2, "lr": 0.05, "loss": "label_aware_smoothing"}},
    {"lws": {"epochs": 3}},
    {"lws": {"epochs": 2, "lr": 0.5}},
    {"lws_plus": {"epochs": 3, "head_lr_factor": 0.4}},
    {"lws_plus": {"epochs": 2, "loss": "label_aware_smoothing"}},
]


def test_corrections_together_are_equal_to_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = available()
    methods = [Rebalancer.parse(value) for value in TRIES]
    alone = [method.call_with({**given, "generator": seeded(7)}) for method in methods]

    def refuse(job: HeadTrainingSpec, **_: object) -> nn.Module:
        raise AssertionError("a head was trained alone")

    monkeypatch.setattr(batched_heads, "train_job", refuse)
    found = apply_in_batch(methods, given, seed=7)
    assert sorted(found) == list(range(len(TRIES)))
    for place, expected in enumerate(alone):
        torch.testing.assert_close(found[place].state, expected.state, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[place].logit_offset, expected.logit_offset)


@pytest.mark.parametrize("head", ["cosine", "mlp", "causal_norm"])
def test_corrections_that_need_a_linear_head_are_left_out_for_others(head: str) -> None:
    methods = [Rebalancer.parse(value) for value in TRIES]
    found = apply_in_batch(methods, available(head), seed=0)
    assert sorted(found) == [0, 1, 3, 4]


def test_a_correction_that_diverges_is_left_out() -> None:
    given = {**available(), "features": FEATURES * 1e20}
    fixed = {"epochs": 20, "rate": "fixed"}
    rates = [{"crt": {"lr": 1e19, **fixed}}, {"crt": {"lr": 1e-30, **fixed}}]
    found = apply_in_batch([Rebalancer.parse(value) for value in rates], given, seed=0)
    assert list(found) == [1]


def test_merit_is_the_mean_over_classes_of_accuracy_then_of_certainty() -> None:
    state = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    plain = Classifier(
        Head.parse("linear"), 2, state, torch.zeros(2), torch.ones(2), torch.zeros(2)
    )
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    accuracy, certainty = merit(predict_logits(plain, features), torch.tensor([0, 0, 1, 1]))
    assert accuracy == pytest.approx((1 + 0.5) / 2)
    low, high = 0.31326168751822286, 1.3132616875182228  # log(1 + exp(-1)), log(1 + e)
    assert certainty == pytest.approx(-(low + (high + low) / 2) / 2)


# --- the method -----------------------------------------------------------------------------------


def test_the_best_try_is_kept_and_every_try_is_reported() -> None:
    given = available()
    result, rows = tuned(Tuned(tries=6), given)
    assert len(rows) == 1 + 5 * 6
    best = max(row["rebalance/try/accuracy"] for row in rows)
    assert merit(predict_logits(result, HELD_OUT_FEATURES), HELD_OUT)[0] == best
    assert best > rows[0]["rebalance/try/accuracy"]  # better than the classifier as it came
    rates = {row["rebalance/try/crt/lr"] for row in rows if "rebalance/try/crt/lr" in row}
    assert len(rates) == 6
    assert 0.1 in rates  # the defaults take part


def test_what_is_good_already_stays() -> None:
    given = available()
    state = {"weight": 50 * torch.eye(3, WIDTH), "bias": torch.zeros(3)}
    perfect = {**given, "classifier": given["classifier"]._replace(state=state)}
    clean = 10 * torch.eye(3, WIDTH)[HELD_OUT]
    method = Tuned(among=("logit_adjustment",), tries=3)
    result = method.call_with(
        {
            **perfect,
            "generator": seeded(),
            "validation_features": clean,
            "validation_labels": HELD_OUT,
            "report": lambda metrics, step: None,
        }
    )
    assert result is perfect["classifier"]


def test_other_names_leave_the_draws_of_a_correction_alone() -> None:
    given = available()
    _, few = tuned(Tuned(among=("crt",), tries=3), given)
    _, many = tuned(Tuned(among=("tau_norm", "crt"), tries=3), given)
    name = "rebalance/try/crt/lr"
    assert [r[name] for r in few if name in r] == [r[name] for r in many if name in r]


def without_validation(method: Tuned, given: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    rows: list[dict[str, float]] = []
    result = method.call_with(
        {
            **given,
            "generator": seeded(5),
            "validation_features": HELD_OUT_FEATURES[:0],
            "validation_labels": HELD_OUT[:0],
            "report": lambda metrics, step: rows.append({"step": step, **metrics}),
        }
    )
    return result, rows


def test_without_validation_images_answers_out_of_fold_judge() -> None:
    method = Tuned(among=("lda", "knn", "crt", "tau_norm"), tries=3)
    result, rows = without_validation(method, available())
    # the classifier as it came and tau_norm were trained on the images: they can't be judged
    assert sorted(row["step"] for row in rows) == list(range(1, 10))
    best = max(rows, key=lambda row: row["rebalance/try/accuracy"])
    assert 0.5 < best["rebalance/try/accuracy"] < 1  # training images would all be right
    fresh = merit(predict_logits(result, HELD_OUT_FEATURES), HELD_OUT)[0]
    assert fresh == pytest.approx(best["rebalance/try/accuracy"], abs=0.15)


def test_answers_out_of_fold_are_blind_to_the_other_images_of_the_group() -> None:
    values: list[Any] = [{"lda": {"shrinkage": 0.2}}, "fecam", {"knn": {"tau": 0.0}}, "ncm"]
    values += ["crt", {"ncm": {"distance": "centered_normalized_dot"}}]
    methods = [Rebalancer.parse(value) for value in values]
    groups, moved = torch.arange(len(LABELS)) // 2, FEATURES.clone()
    moved[9] += 5.0  # its group has image 8 too
    before, after = (
        dict(
            answer_out_of_fold(
                methods, available(), samples_of(rows, LABELS, groups=groups), seed=3
            )
        )
        for rows in (FEATURES, moved)
    )
    assert sorted(before) == list(range(len(methods)))
    for place in before:  # up to the scale, which all images decide
        first, other = (answers[place][8] - answers[place][8].mean() for answers in (before, after))
        torch.testing.assert_close(first / first.norm(), other / other.norm())


def test_a_training_that_diverges_in_a_fold_has_no_answers() -> None:
    fixed = {"epochs": 20, "rate": "fixed"}
    rates = [{"crt": {"lr": 1e19, **fixed}}, {"crt": {"lr": 1e-30, **fixed}}]
    methods = [Rebalancer.parse(value) for value in rates]
    data = samples_of(FEATURES * 1e20, LABELS)
    assert [n for n, _ in answer_out_of_fold(methods, available(), data, seed=3)] == [1]


def test_groups_stay_whole_in_folds_too() -> None:
    groups = torch.arange(len(LABELS)) // 2
    method = Tuned(among=("crt", "ncm", "lda"), tries=4)
    result, rows = without_validation(method, {**available(), "groups": groups})
    assert len(rows) == 3 * 4
    assert predict_logits(result, FEATURES).isfinite().all()


def test_without_validation_images_a_judge_is_needed() -> None:
    with pytest.raises(ValueError, match=r"raise data\.validation_per_class, or add ridge, lda"):
        without_validation(Tuned(among=("lws", "tau_norm")), available())
    few = {**available(), "features": FEATURES[58:62], "labels": LABELS[58:62]}
    with pytest.raises(ValueError, match="fewer than two classes have 3 training images"):
        without_validation(Tuned(among=("lda",)), few)


def test_a_head_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="none of lws supports the head 'cosine'"):
        tuned(Tuned(among=("lws",), tries=2), available("cosine"))


@pytest.mark.parametrize("memory", [2**26, 1], ids=["all kept", "none kept"])
def test_closed_forms_together_are_equal_to_each_alone(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: list[Any] = ["lda", {"lda": {"shrinkage": 0.3, "prior": 0.5}}, "fecam", "ncm"]
    values += [{"fecam": {"power": 0.5}}, {"knn": {"k": 3, "tau": 0.0}}, "lda"]
    values += [{"lda": {"shrinkage": s, "unbiased": False}} for s in (None, 0.1, 0.9)]
    values += [
        {"ridge": {"width": width, "balance": balance, "seed": seed, "regularizer": level}}
        for width, seed in ((0, 0), (8, 0), (0, 1), (8, 1))
        for balance in ("none", "logit_adjusted", "inverse_frequency")
        for level in (None, 0.01, 3.0)
    ]
    methods, given = [Rebalancer.parse(value) for value in values], available()
    for module in (statistics, ridge_classifier, lda):
        monkeypatch.setattr(module, "MOST_KEPT", memory)
    found = apply_in_batch(methods, given, seed=7)
    assert sorted(found) == list(range(len(methods)))
    for place, method in enumerate(methods):
        alone = method.call_with({**given, "generator": seeded(7)})
        assert found[place].head == alone.head
        torch.testing.assert_close(found[place].state, alone.state)
        torch.testing.assert_close(found[place].logit_offset, alone.logit_offset)


def test_random_features_are_computed_once_for_all_settings_of_one_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    widths: list[int] = []

    def counted(features: torch.Tensor, projection: torch.Tensor | None) -> torch.Tensor:
        if projection is not None:
            widths.append(projection.shape[1])
        return project(features, projection)

    monkeypatch.setattr(statistics, "project", counted)
    ridges = [
        Rebalancer.parse({"ridge": {"width": width, "balance": balance, "regularizer": level}})
        for width in (8, 0, 5)
        for balance in ("none", "inverse_frequency")
        for level in (0.01, None)
    ]
    assert len(apply_in_batch(ridges, available(), seed=0)) == len(ridges)
    assert widths == [8, 5]


@pytest.mark.parametrize(
    ("among", "message"),
    [
        ("[crtt]", "unknown name 'crtt'.*did you mean 'crt'"),
        ("[tuned]", "'tuned' is not allowed"),
        ("[expert_weights]", "'expert_weights' is not allowed"),
        ("[]", "at least one"),
    ],
)
def test_wrong_names_are_one_clear_line(among: str, message: str) -> None:
    sets = ["rebalance.method=tuned", f"rebalance.method.tuned.among={among}"]
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(None, sets)
    assert "\n" not in str(caught.value)


def test_a_recipe_tries_many_corrections_and_reports_each() -> None:
    sets = [
        "data.stream.known=20",
        "data.stream.novel=20",
        "data.image_size=16",
        "pretrain.backbone=fastnet",
        "classify.training.epochs=1",
        "classify.training.precision=float32",
        "classify.training.layout=contiguous",
        "update.training.epochs=1",
        "rebalance.method=tuned",
        "rebalance.method.tuned.tries=4",
    ]
    rows: list[Mapping[str, float]] = []
    context = Context(report=lambda metrics, step: rows.append(metrics))
    metrics = run(load_experiment(None, sets), context)["evaluation"].metrics
    assert sum("rebalance/try/accuracy" in row for row in rows) == 1 + 5 * 4
    assert metrics["evaluate/accuracy/balanced"] > 0


# --- losses in the shared form --------------------------------------------------------------------

FORMED: list[Any] = [
    "label_smoothing",
    {"label_smoothing": {"spread": "others"}},
    "label_aware_smoothing",
    {"label_aware_smoothing": {"variant": "paper", "tail": 0.1}},
    {"cost_sensitive": {"gamma": 0.7}},
]


@pytest.mark.parametrize("chosen", FORMED, ids=str)
def test_a_shared_form_is_the_loss_of_the_shelf(chosen: Any) -> None:
    loss = Loss.parse(chosen)
    assert loss.name in FORMS
    logits = torch.randn(8, 3, generator=seeded(), dtype=torch.float64)
    labels, rows = torch.tensor([0, 1, 2, 0, 0, 1, 0, 2]), torch.arange(8)
    shared = head_objective(loss, COUNTS, num_steps=1)
    assert shared is not None
    expected = loss_objective(loss, COUNTS, num_steps=1)(logits, labels, rows)
    # 1e-6: the shelf makes some of its numbers in float32
    torch.testing.assert_close(shared(logits, labels, rows), expected, rtol=1e-6, atol=1e-6)


def test_every_shared_form_is_tested() -> None:
    assert {Loss.parse(chosen).name for chosen in FORMED} == set(FORMS)


def test_other_losses_keep_their_own_form_and_cross_entropy_needs_none() -> None:
    assert head_objective(Loss.parse("cross_entropy"), COUNTS, num_steps=1) is None
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    objective = head_objective(Loss.parse("seesaw"), COUNTS, num_steps=4)
    assert objective is not None
    assert bool(objective(logits, labels, torch.arange(2)).isfinite())


def test_predictions_of_the_kept_try_carry_its_offset() -> None:
    given = available()
    result, _ = tuned(Tuned(among=("logit_adjustment",), tries=4), given)
    raw = predict_logits(result._replace(logit_offset=torch.zeros(3)), HELD_OUT_FEATURES)
    torch.testing.assert_close(predict_logits(result, HELD_OUT_FEATURES), raw + result.logit_offset)
