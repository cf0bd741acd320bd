"""Many corrections at once: draws within ranges, equal to each alone, the best one kept."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from trainables import batched_heads
from trainables.artifacts import Classifier
from trainables.context import Context
from trainables.corrections import applied_together, drawn_settings, merit
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.head_training import HeadJob, head_state, new_head, train_job
from trainables.methods.heads import Head
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range, search_range
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.rebalancers.tuned import Tuned
from trainables.objectives import FORMS, head_objective, loss_objective
from trainables.pipeline import run
from trainables.predict import predict_logits

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
    job = HeadJob(module, draws, batch_size=16, lr=0.1, weight_decay=5e-4)
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
    result = method.supplied(
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
        drawn = drawn_settings(method, generator)
        Rebalancer.parse({name: drawn})
        for field, value in drawn.items():
            allowed = search_range(method.model_fields[field])
            if isinstance(allowed, Choice):
                assert value in allowed.values
            else:
                assert isinstance(allowed, Range)
                assert allowed.low <= value <= allowed.high
    assert drawn_settings(method, seeded(1)) == drawn_settings(method, seeded(1))


def test_a_logarithmic_range_is_drawn_in_the_logarithm() -> None:
    crt, generator = Rebalancer.lookup("crt"), seeded()
    rates = torch.tensor([drawn_settings(crt, generator)["lr"] for _ in range(400)])
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
    alone = [method.supplied({**given, "generator": seeded(7)}) for method in methods]

    def refuse(job: HeadJob, **_: object) -> nn.Module:
        raise AssertionError("a head was trained alone")

    monkeypatch.setattr(batched_heads, "train_job", refuse)
    found = applied_together(methods, given, seed=7)
    assert sorted(found) == list(range(len(TRIES)))
    for place, expected in enumerate(alone):
        torch.testing.assert_close(found[place].state, expected.state, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[place].logit_offset, expected.logit_offset)


@pytest.mark.parametrize("head", ["cosine", "mlp", "causal_norm"])
def test_corrections_that_need_a_linear_head_are_left_out_for_others(head: str) -> None:
    methods = [Rebalancer.parse(value) for value in TRIES]
    found = applied_together(methods, available(head), seed=0)
    assert sorted(found) == [0, 1, 3, 4]


def test_a_correction_that_diverges_is_left_out() -> None:
    given = {**available(), "features": FEATURES * 1e20}
    rates = [{"crt": {"lr": 1e19, "epochs": 20}}, {"crt": {"lr": 1e-30, "epochs": 20}}]
    found = applied_together([Rebalancer.parse(value) for value in rates], given, seed=0)
    assert list(found) == [1]


def test_merit_is_the_mean_over_classes_of_accuracy_then_of_certainty() -> None:
    state = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    plain = Classifier(
        Head.parse("linear"), 2, state, torch.zeros(2), torch.ones(2), torch.zeros(2)
    )
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    accuracy, certainty = merit(plain, features, torch.tensor([0, 0, 1, 1]))
    assert accuracy == pytest.approx((1 + 0.5) / 2)
    low, high = 0.31326168751822286, 1.3132616875182228  # log(1 + exp(-1)), log(1 + e)
    assert certainty == pytest.approx(-(low + (high + low) / 2) / 2)


# --- the method -----------------------------------------------------------------------------------


def test_the_best_try_is_kept_and_every_try_is_reported() -> None:
    given = available()
    result, rows = tuned(Tuned(tries=6), given)
    assert len(rows) == 1 + 5 * 6
    best = max(row["rebalance/try/accuracy"] for row in rows)
    assert merit(result, HELD_OUT_FEATURES, HELD_OUT)[0] == best
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
    result = method.supplied(
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


def test_without_validation_images_or_a_fitting_head_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"none; raise data\.validation_per_class"):
        Tuned().supplied(
            {
                **available(),
                "generator": seeded(),
                "validation_features": HELD_OUT_FEATURES[:0],
                "validation_labels": HELD_OUT[:0],
                "report": print,
            }
        )
    with pytest.raises(ValueError, match="none of lws fits the head 'cosine'"):
        tuned(Tuned(among=("lws",), tries=2), available("cosine"))


@pytest.mark.parametrize(
    ("among", "message"),
    [
        ("[crtt]", "unknown name 'crtt'.*did you mean 'crt'"),
        ("[tuned]", "'tuned' cannot be tried"),
        ("[expert_weights]", "'expert_weights' cannot be tried"),
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
