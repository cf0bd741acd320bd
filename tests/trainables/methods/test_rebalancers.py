"""Rebalancers: golden vectors, slow oracles, and a contract for the whole shelf."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from search_spaces.long_tail import EXPERT_CORRECTIONS, LINEAR_CORRECTIONS
from tests.helpers.oracles import rebalancers as oracle
from tests.helpers.vectors import golden, variants
from trainables.artifacts import Classifier, load_artifact, save_artifact
from trainables.features import head_training as training
from trainables.features.balanced_training import BalancedTraining
from trainables.features.predict import predict_logits
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.augmentations import Augmentation
from trainables.methods.heads import Head
from trainables.methods.losses import Loss
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.rebalancers.bags import BAGS
from trainables.methods.rebalancers.crt import CRT
from trainables.methods.rebalancers.disalign import DisAlign
from trainables.methods.rebalancers.logit_adjustment import LogitAdjustment
from trainables.methods.rebalancers.lws import LWS
from trainables.methods.rebalancers.lws_plus import LWSPlus
from trainables.methods.rebalancers.none import NoRebalancer
from trainables.methods.rebalancers.tau_norm import TauNorm
from trainables.methods.rebalancers.tde import TDE
from trainables.models.group_softmax import (
    GroupLogits,
    GroupSoftmaxHead,
    count_groups,
    group_loss,
    group_normalizers,
    keep_others,
)
from trainables.models.growth import grow_head

GOLDEN = golden("openworld_scores")
GROUPED = golden("longtail_rebalancers")
METHODS = list(variants(Rebalancer))
COUNTS = (40, 12, 4)
WIDTH = 6

LINEAR_ONLY = set(LINEAR_CORRECTIONS)
EXPERTS_ONLY = set(EXPERT_CORRECTIONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(counts: tuple[int, ...] = COUNTS, seed: int = 1) -> dict[str, torch.Tensor]:
    """Return long-tailed features around one direction per class, all leaning the same way."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(labels), WIDTH, generator=seeded(seed))
    features = 2 * torch.eye(len(counts), WIDTH)[labels] + 0.8 * noise + 0.5
    return {"features": features, "labels": labels, "class_counts": torch.tensor(counts)}


def trained(head: str = "linear", counts: tuple[int, ...] = COUNTS) -> Classifier:
    """Return a head trained on the long tail as it is."""
    given = samples(counts)
    module = training.new_head(
        Head.parse(head), num_features=WIDTH, num_classes=len(counts), generator=seeded(2)
    )
    training.train_head(
        module,
        features=given["features"],
        labels=given["labels"],
        draws=training.shuffled_draws(len(given["labels"]), epochs=30, generator=seeded(3)),
        batch_size=16,
        lr=0.1,
        weight_decay=5e-4,
    )
    return Classifier(
        head=Head.parse(head),
        num_features=WIDTH,
        state=training.head_state(module),
        logit_offset=torch.zeros(len(counts)),
        class_counts=given["class_counts"],
        feature_mean=given["features"].mean(0),
    )


def suited(name: str, counts: tuple[int, ...] = COUNTS) -> Classifier:
    """Return a trained head that a rebalancer takes."""
    return trained("experts" if name in EXPERTS_ONLY else "linear", counts)


def noisy_pool(augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Return features of unlabelled images as they look under an augmentation."""
    still = samples((20, 20, 20), seed=12)["features"]
    return still + 0.3 * torch.randn(still.shape, generator=generator)


def rebalanced(
    method: Rebalancer,
    classifier: Classifier,
    given: dict[str, torch.Tensor] | None = None,
    seed: int = 4,
) -> Classifier:
    empty = {"pool_features": torch.zeros(0, WIDTH), "pool_labels": torch.zeros(0).long()}
    balanced = samples((20, 20, 20), seed=11)
    validation = {
        "validation_features": balanced["features"],
        "validation_labels": balanced["labels"],
        "report": lambda metrics, step: None,
    }
    available = {"classifier": classifier, "generator": seeded(seed), **empty, **validation}
    available |= given or samples()
    available["augmented_pool"] = noisy_pool
    result: Classifier = method.call_with(available)
    return result


def balanced_accuracy(classifier: Classifier) -> float:
    fresh = samples((200, 200, 200), seed=9)
    right = predict_logits(classifier, fresh["features"]).argmax(1) == fresh["labels"]
    return float(right.double().mean())


def double(state: dict[str, torch.Tensor], head: str = "linear") -> Classifier:
    """Return a classifier in float64 for the golden vectors."""
    classes, width = state["weight"].shape
    zeros = torch.zeros(classes, dtype=torch.float64)
    counts = torch.ones(classes, dtype=torch.int64)
    return Classifier(Head.parse(head), width, state, zeros, counts, zeros)


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_result_is_a_classifier_that_predicts_and_is_stored(
    method: Rebalancer, tmp_path: object
) -> None:
    result = rebalanced(method, suited(method.name))
    logits = predict_logits(result, samples()["features"])
    assert logits.shape == (sum(COUNTS), 3)
    assert logits.isfinite().all()
    save_artifact(result, tmp_path)
    again = load_artifact(Classifier, tmp_path)
    torch.testing.assert_close(predict_logits(again, samples()["features"]), logits)
    assert not any(value.requires_grad for value in result.state.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_given_classifier_is_not_changed(method: Rebalancer) -> None:
    classifier = suited(method.name)
    before = {name: value.clone() for name, value in classifier.state.items()}
    rebalanced(method, classifier)
    assert all(torch.equal(before[name], value) for name, value in classifier.state.items())
    assert torch.equal(classifier.logit_offset, torch.zeros(3))


@pytest.mark.parametrize("method", METHODS)
def test_equal_generators_give_equal_results_whatever_the_ambient_one(method: Rebalancer) -> None:
    classifier, results = suited(method.name), []
    for ambient in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(ambient)
            results.append(rebalanced(method, classifier))
    first, second = results
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    assert torch.equal(first.logit_offset, second.logit_offset)


@pytest.mark.parametrize("name", sorted(Rebalancer.shelf))
def test_an_absent_class_leaves_logits_finite_and_is_not_preferred(name: str) -> None:
    counts = (400, 120, 0)
    result = rebalanced(Rebalancer.parse(name), suited(name, counts), samples(counts))
    logits = predict_logits(result, samples(counts)["features"])
    assert logits.isfinite().all()
    assert (logits.argmax(1) == 2).double().mean() < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_and_a_single_one_are_defined(method: Rebalancer) -> None:
    for counts in ((0, 0, 0), (1, 0, 0)):
        result = rebalanced(method, suited(method.name), samples(counts))
        assert predict_logits(result, samples()["features"]).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_low_precision_features_are_read(method: Rebalancer) -> None:
    given = {**samples(), "features": samples()["features"].bfloat16()}
    result = rebalanced(method, suited(method.name), given)
    assert predict_logits(result, samples()["features"]).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_settings_survive_a_round_trip(method: Rebalancer) -> None:
    assert Rebalancer.parse(method.dump()) == method


@pytest.mark.parametrize("head", ["cosine", "mlp", "causal_norm", "nearest_mean"])
@pytest.mark.parametrize("name", sorted(Rebalancer.shelf))
def test_other_heads_work_or_are_refused_by_name(name: str, head: str) -> None:
    method = Rebalancer.parse(name)
    needed = "linear" if name in LINEAR_ONLY else "experts" if name in EXPERTS_ONLY else ""
    if needed:
        with pytest.raises(ValueError, match=f"needs the head '{needed}'.*received '{head}'"):
            rebalanced(method, trained(head))
    else:
        result = rebalanced(method, trained(head))
        assert predict_logits(result, samples()["features"]).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(Rebalancer.shelf) - {"none", "tde", *EXPERTS_ONLY}))
def test_rare_classes_gain(name: str) -> None:
    # tde starts from a head of its own, so it is compared with that head below; what experts get
    # is for other ends
    counts = (400, 40, 8)
    before = trained(counts=counts)
    after = rebalanced(Rebalancer.parse(name), before, samples(counts))
    assert balanced_accuracy(after) > balanced_accuracy(before)


@pytest.mark.parametrize("counts", [(40, 1, 1), (7, 7, 7), (30, 0, 1)], ids=str)
@pytest.mark.parametrize("name", sorted(Rebalancer.shelf))
def test_one_image_equal_sizes_and_absent_classes_are_defined(
    name: str, counts: tuple[int, ...]
) -> None:
    result = rebalanced(Rebalancer.parse(name), suited(name, counts), samples(counts))
    logits = predict_logits(result, samples()["features"])
    assert logits.shape == (sum(COUNTS), 3)
    assert logits.isfinite().all()
    probability = logits.softmax(1)
    torch.testing.assert_close(probability.sum(1), torch.ones(len(logits)))


# --- logit adjustment -----------------------------------------------------------------------------


def test_logit_adjustment_agrees_with_the_official_expression() -> None:
    case, inputs = "logit_adjust_posthoc_tau1.0", GOLDEN.inputs("logit_adjust_posthoc_tau1.0")
    # counts of which the prior is the share: scaled up far enough, rounding does not show
    counts = (inputs["prior"] * 1e15).round().long()
    result = LogitAdjustment()(
        classifier=double({"weight": torch.zeros(10, 1, dtype=torch.float64)}), class_counts=counts
    )
    adjusted = inputs["logits"] + result.logit_offset
    torch.testing.assert_close(adjusted, GOLDEN.output(case, "adjusted"), rtol=1e-9, atol=1e-9)
    assert torch.equal(adjusted.argmax(1), GOLDEN.output(case, "pred"))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 8.0])
def test_logit_adjustment_equals_its_oracle(tau: float) -> None:
    counts = torch.tensor([500, 0, 20, 1])
    classifier = double({"weight": torch.zeros(4, 1, dtype=torch.float64)})
    offset = LogitAdjustment(tau=tau)(classifier=classifier, class_counts=counts).logit_offset
    expected = oracle.prior_offset(counts.tolist(), tau)
    torch.testing.assert_close(offset, torch.tensor(expected, dtype=torch.float64))


def test_the_offset_keeps_its_digits_whatever_the_features_are() -> None:
    counts = torch.tensor([1_000_000, 3, 1])
    given = {**samples(), "features": samples()["features"].bfloat16(), "class_counts": counts}
    offset = rebalanced(LogitAdjustment(), trained(), given).logit_offset
    assert offset.dtype == torch.float32  # bfloat16 would round 13.8 by up to 0.03
    expected = torch.tensor(oracle.prior_offset(counts.tolist(), 1.0))
    torch.testing.assert_close(offset, expected, rtol=1e-6, atol=1e-6)


def test_equal_counts_change_no_prediction_and_the_offset_is_set_not_added() -> None:
    classifier = trained()
    method = LogitAdjustment()
    offset = method(classifier=classifier, class_counts=torch.tensor([7, 7, 7])).logit_offset
    torch.testing.assert_close(offset, offset[:1].expand(3))
    once = rebalanced(method, classifier)
    assert torch.equal(rebalanced(method, once).logit_offset, once.logit_offset)


# --- tau-norm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
def test_tau_norm_agrees_with_the_official_code(tau: float) -> None:
    case, inputs = f"tau_norm_{tau}", GOLDEN.inputs(f"tau_norm_{tau}")
    bias = torch.ones(len(inputs["weight"]), dtype=torch.float64)
    result = TauNorm(tau=tau)(classifier=double({"weight": inputs["weight"], "bias": bias}))
    weight = result.state["weight"]
    torch.testing.assert_close(weight, GOLDEN.output(case, "weight"), rtol=1e-9, atol=1e-9)
    logits = inputs["features"] @ weight.T + result.state["bias"]
    torch.testing.assert_close(logits, GOLDEN.output(case, "logits"), rtol=1e-9, atol=1e-9)


def test_tau_norm_equals_its_oracle_with_a_zero_vector_and_keeps_a_bias_if_asked() -> None:
    weight = torch.randn(4, 3, generator=seeded(), dtype=torch.float64)
    weight[2] = 0
    state = {"weight": weight, "bias": torch.arange(4, dtype=torch.float64)}
    result = TauNorm(tau=0.7, keep_bias=True)(classifier=double(state)).state
    expected = oracle.tau_normalized(weight.tolist(), 0.7)
    torch.testing.assert_close(result["weight"], torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(result["bias"], state["bias"])


def test_tau_norm_reads_a_head_without_bias() -> None:
    result = TauNorm()(classifier=double({"weight": torch.eye(3, dtype=torch.float64) * 5}))
    assert result.state.keys() == {"weight"}


# --- training on cached features ------------------------------------------------------------------


def test_head_training_equals_its_oracle() -> None:
    given = samples()
    module = training.new_head(
        Head.parse("linear"), num_features=WIDTH, num_classes=3, generator=seeded()
    ).double()
    state = training.head_state(module)
    features, labels = given["features"].double(), given["labels"]
    draws = training.class_balanced_draws(labels, num_draws=50, generator=seeded(1))
    training.train_head(
        module,
        features=features,
        labels=labels,
        draws=draws,
        batch_size=16,
        lr=0.3,
        weight_decay=0.01,
    )
    rows, names = features.tolist(), labels.tolist()
    batches = [[(rows[i], names[i]) for i in batch.tolist()] for batch in draws.split(16)]
    weight, bias = oracle.sgd_softmax(
        state["weight"].tolist(), state["bias"].tolist(), batches, lr=0.3, weight_decay=0.01
    )
    torch.testing.assert_close(module.weight.data, torch.tensor(weight, dtype=torch.float64))
    torch.testing.assert_close(module.bias.data, torch.tensor(bias, dtype=torch.float64))


def test_class_balanced_draws_are_uniform_over_the_classes_that_occur() -> None:
    labels = torch.tensor([0] * 97 + [3] * 3)
    draws = training.class_balanced_draws(labels, num_draws=20000, generator=seeded())
    share = float((labels[draws] == 3).double().mean())
    assert share == pytest.approx(0.5, abs=0.02)  # deviation 0.0035


def test_a_head_that_diverges_is_an_error() -> None:
    given = {**samples(), "features": samples()["features"] * 1e20}
    with pytest.raises(ArithmeticError, match="smaller lr"):
        rebalanced(CRT(lr=1e19, rate="fixed", epochs=20), trained(), given)


def test_crt_starts_anew_with_the_settings_of_the_same_head() -> None:
    classifier = trained("cosine")._replace(logit_offset=torch.tensor([5.0, 0.0, 0.0]))
    result = rebalanced(CRT(epochs=0), classifier)
    assert result.head == classifier.head
    assert not torch.allclose(result.state["weight"], classifier.state["weight"])
    assert torch.equal(result.logit_offset, torch.zeros(3))


def test_lws_only_rescales_rows_and_lws_plus_turns_them() -> None:
    classifier = trained()
    for method, turns in ((LWS(), False), (LWSPlus(head_lr_factor=0.0), False), (LWSPlus(), True)):
        result = rebalanced(method, classifier)
        cosine = torch.nn.functional.cosine_similarity(
            result.state["weight"], classifier.state["weight"], dim=1
        )
        assert torch.allclose(cosine.abs(), torch.ones(3), atol=1e-6) is not turns
        factor = result.state["bias"] / classifier.state["bias"]
        if not turns:
            ratio = result.state["weight"] / classifier.state["weight"]
            torch.testing.assert_close(ratio, factor[:, None].expand_as(ratio))
        assert not torch.allclose(factor, torch.ones(3))


def test_no_epochs_of_scaling_change_nothing() -> None:
    classifier = trained()
    for method in (LWS(epochs=0), LWSPlus(epochs=0), NoRebalancer()):
        result = rebalanced(method, classifier)
        for name, value in classifier.state.items():
            torch.testing.assert_close(result.state[name], value)


def balanced_trainings() -> list[type]:
    return [cls for cls in Rebalancer.shelf.values() if issubclass(cls, BalancedTraining)]


@pytest.mark.parametrize("cls", balanced_trainings(), ids=lambda cls: cls.name)
def test_any_loss_on_logits_can_train_a_head(cls: type) -> None:
    plain = rebalanced(cls(), trained())
    # focal without focus is the cross-entropy, so nothing but rounding may differ
    same = rebalanced(cls(loss={"focal": {"gamma": 0.0}}), trained())
    for name, value in plain.state.items():
        torch.testing.assert_close(same.state[name], value, rtol=1e-4, atol=1e-5)
    for loss in ("label_aware_smoothing", "balanced_softmax", {"deferred": {"start": 0.3}}):
        other = rebalanced(cls(loss=loss), trained())
        assert any(not torch.allclose(other.state[k], v) for k, v in plain.state.items()), loss


def test_samples_as_they_come_are_each_drawn_once_per_epoch() -> None:
    given, classifier = samples(), trained()
    method = CRT(draws="instance_balanced", epochs=3, batch_size=16)
    job = method.job(classifier=classifier, labels=given["labels"], generator=seeded())
    for epoch in job.draws.split(len(given["labels"])):
        assert epoch.sort().values.tolist() == list(range(len(given["labels"])))
    balanced = CRT(epochs=30).job(classifier=classifier, labels=given["labels"], generator=seeded())
    share = torch.bincount(given["labels"][balanced.draws]) / len(balanced.draws)
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.05, rtol=0.0)


def test_a_loss_that_needs_more_than_logits_is_refused_by_name() -> None:
    assert "features" in Loss.shelf["influence_balanced"].required_inputs()
    with pytest.raises(ValueError, match="'influence_balanced' needs features; a head on frozen"):
        Rebalancer.parse({"crt": {"loss": "influence_balanced"}})


def test_a_loss_follows_the_progress_of_the_training() -> None:
    class Recorded(Loss):
        def __call__(
            self, *, logits: torch.Tensor, labels: torch.Tensor, progress: float
        ) -> torch.Tensor:
            seen.append(progress)
            return torch.nn.functional.cross_entropy(logits, labels)

    seen: list[float] = []
    try:
        method = CRT(loss=Recorded(), epochs=2, batch_size=16)
        rebalanced(method, trained())
        first = list(seen)
        seen.clear()
        rebalanced(method, trained())  # a second training starts from the beginning
    finally:
        del Loss.shelf[Recorded.name]
    assert seen == first == [step / 7 for step in range(7)]


def test_label_aware_smoothing_makes_frequent_classes_less_sure() -> None:
    given = samples((200, 200, 200), seed=9)
    smooth = LWSPlus(loss={"label_aware_smoothing": {"head": 0.4}}, batch_size=16)
    sure = {}
    for name, method in (("hard", LWSPlus(batch_size=16)), ("smooth", smooth)):
        probability = predict_logits(rebalanced(method, trained()), given["features"]).softmax(1)
        sure[name] = float(probability.amax(1)[given["labels"] == 0].mean())
    assert sure["smooth"] < sure["hard"] - 0.03


# --- distribution alignment -----------------------------------------------------------------------


@pytest.mark.parametrize("head", sorted(Head.shelf))
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_disalign_keeps_the_head_and_trains_four_things(variant: str, head: str) -> None:
    classifier = trained(head)
    result = rebalanced(DisAlign(variant=variant), classifier)
    inner = "base." if head != "aligned" else ""  # an aligned head is aligned anew, not twice
    for name, value in classifier.state.items():
        if inner or name.startswith("base."):
            assert torch.equal(result.state[f"{inner}{name}"], value), name
    own = {name: value for name, value in result.state.items() if not name.startswith("base.")}
    assert own.keys() == {"scale", "shift", "confidence.weight", "confidence.bias"}
    start = rebalanced(DisAlign(variant=variant, epochs=0), classifier).state
    assert all(not torch.equal(start[name], value) for name, value in own.items())


def test_disalign_in_the_form_of_the_paper_starts_as_the_given_classifier() -> None:
    classifier, features = trained(), samples()["features"]
    before = predict_logits(classifier, features)
    paper = rebalanced(DisAlign(epochs=0), classifier)
    torch.testing.assert_close(predict_logits(paper, features), before)
    official = predict_logits(
        rebalanced(DisAlign(epochs=0, variant="official"), classifier), features
    )
    assert torch.equal(official.argmax(1), before.argmax(1))


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_disalign_descends_the_slope_of_its_oracle(variant: str, rho: float) -> None:
    # one step over all samples is lr times the slope, which the oracle finds by differences
    given, classifier, lr = samples((8, 4, 2)), trained(counts=(8, 4, 2)), 0.5
    rows, labels = given["features"].double().tolist(), given["labels"].tolist()
    weight = classifier.state["weight"].double().tolist()
    logits = [
        oracle.logits(row, weight, classifier.state["bias"].double().tolist()) for row in rows
    ]

    def loss(parameters: list[float]) -> float:
        scale, shift = parameters[:3], parameters[3:6]
        vector, start = parameters[6:-1], parameters[-1]
        form = {"official": variant == "official"}
        moved = [
            oracle.aligned(z, row, scale, shift, vector, start, **form)
            for z, row in zip(logits, rows, strict=True)
        ]
        return oracle.reweighted_loss(moved, labels, [8, 4, 2], rho)

    start = [1.0] * 3 + [0.0] * 3 + [0.1] * WIDTH + [0.0]
    slope = []
    for position in range(len(start)):
        up, down = list(start), list(start)
        up[position] += 1e-5
        down[position] -= 1e-5
        slope.append((loss(up) - loss(down)) / 2e-5)
    method = DisAlign(variant=variant, rho=rho, epochs=1, batch_size=14, lr=lr, weight_decay=0.0)
    state = rebalanced(method, classifier, given).state
    parts = ("scale", "shift", "confidence.weight", "confidence.bias")
    found = torch.cat([state[name].flatten() for name in parts]).double()
    wanted = torch.tensor(start, dtype=torch.float64) - lr * torch.tensor(slope)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_stronger_reweighting_favours_the_rare_class() -> None:
    classifier, features = trained(), samples((200, 200, 200), seed=9)["features"]
    share = [
        float(
            (predict_logits(rebalanced(DisAlign(rho=rho), classifier), features).argmax(1) == 2)
            .float()
            .mean()
        )
        for rho in (0.0, 0.6, 1.2)
    ]
    assert share[0] < share[1] < share[2]


# --- classifier bound -----------------------------------------------------------------------------


def test_the_bound_learns_from_known_images_of_the_pool_and_no_others() -> None:
    counts = (400, 40, 8)
    given, before = samples(counts), trained(counts=counts)
    left_out = samples((0, 360, 392), seed=7)
    pool = {"pool_features": left_out["features"], "pool_labels": left_out["labels"]}
    bound = rebalanced(Rebalancer.parse("classifier_bound"), before, {**given, **pool})
    assert bound.oracle
    assert not before.oracle
    plain = rebalanced(CRT(), before, given)
    assert balanced_accuracy(bound) > balanced_accuracy(plain)
    strangers = {
        "pool_features": torch.cat([pool["pool_features"], torch.full((9, WIDTH), 50.0)]),
        "pool_labels": torch.cat([pool["pool_labels"], torch.tensor([3] * 5 + [-1] * 4)]),
    }
    again = rebalanced(Rebalancer.parse("classifier_bound"), before, {**given, **strangers})
    assert all(torch.equal(again.state[name], value) for name, value in bound.state.items())


def test_the_bound_without_a_pool_is_a_retrained_head() -> None:
    alone = rebalanced(Rebalancer.parse("classifier_bound"), trained())
    plain = rebalanced(CRT(), trained())
    assert all(torch.equal(alone.state[name], value) for name, value in plain.state.items())


# --- balanced group softmax -----------------------------------------------------------------------


class Bins(NamedTuple):
    """The official case, its group of background or not apart; ``columns`` are the classes'."""

    foreground: GroupLogits
    presence: GroupLogits
    group: torch.Tensor
    labels: torch.Tensor
    columns: list[int]


def official_groups() -> Bins:
    case, inputs = "bags_group_softmax", GROUPED.inputs("bags_group_softmax")
    logits, slices = inputs["logits"], GROUPED.output(case, "pred_slice").tolist()
    place = GROUPED.output(case, "label2binlabel")  # [bin, class]: position in the bin, 0 = others
    group = place[1:, 1:].argmax(0)  # each foreground class has a position in one bin only
    columns = [slices[1 + int(g)][0] + int(place[1 + int(g), 1 + c]) for c, g in enumerate(group)]
    others = [start for start, _ in slices[1:]]
    foreground = GroupLogits(logits[:, columns], logits[:, others])
    start = slices[0][0]
    presence = GroupLogits(logits[:, [start + 1]], logits[:, [start]])
    return Bins(foreground, presence, group, inputs["labels"] - 1, columns)


def test_group_softmax_agrees_with_the_official_code() -> None:
    foreground, presence, group, labels, columns = official_groups()
    leaf = foreground._replace(classes=foreground.classes.requires_grad_())
    one = torch.zeros(1, dtype=torch.int64)
    there = torch.where(labels >= 0, 0, -1)
    everything = torch.ones(len(labels), 4, dtype=torch.bool)
    loss = group_loss(leaf, group, labels, everything)
    total = loss + group_loss(presence, one, there, everything[:, :1])
    wanted = GROUPED.output("bags_group_softmax", "loss")
    torch.testing.assert_close(total.detach(), wanted, rtol=1e-9, atol=1e-9)
    probability = (leaf.classes - group_normalizers(leaf, group)[:, group]).exp()
    share = (presence.classes - group_normalizers(presence, one)).exp()
    scores = GROUPED.output("bags_group_softmax", "merged_scores")[:, 1:]
    torch.testing.assert_close((share * probability).detach(), scores, rtol=1e-9, atol=1e-9)
    official = GROUPED.output("bags_group_softmax", "grad_logits")
    (slope,) = torch.autograd.grad(loss, leaf.classes)
    torch.testing.assert_close(slope, official[:, columns], rtol=1e-9, atol=1e-9)


def test_groups_follow_the_official_bins() -> None:
    counts = GROUPED.inputs("bags_group_softmax")["class_counts"]
    assert torch.equal(count_groups(counts, (10, 100, 1000)), official_groups().group)


def test_group_loss_equals_its_oracle_with_samples_left_out() -> None:
    draws = seeded()
    classes = torch.randn(9, 5, generator=draws, dtype=torch.float64)
    others = torch.randn(9, 3, generator=draws, dtype=torch.float64)
    group, labels = torch.tensor([0, 2, 2, 0, 2]), torch.tensor([0, 1, 2, 3, 4, -1, 0, 0, 2])
    kept = torch.rand(9, 3, generator=draws) < 0.6
    kept[:, 1] = False  # a group that learns nothing
    found = group_loss(GroupLogits(classes, others), group, labels, kept)
    wanted = oracle.group_loss(
        classes.tolist(), others.tolist(), group.tolist(), labels.tolist(), kept.tolist()
    )
    assert float(found) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 2.0, 100.0])
def test_as_many_others_count_as_the_ratio_says(ratio: float) -> None:
    member = torch.tensor([0] * 3 + [1] * 12 + [2])
    kept = keep_others(member, ratio, torch.rand(16, 4, generator=seeded()))
    for g, members in enumerate((3, 12, 1, 0)):
        inside = member == g
        assert kept[inside, g].all()
        assert int(kept[~inside, g].sum()) == min(16 - members, int(ratio * members))
    again = keep_others(member, ratio, torch.rand(16, 4, generator=seeded(1)))
    assert torch.equal(kept, again) is (ratio in (0.0, 100.0)), "others are drawn anew"


def test_groups_of_odd_counts() -> None:
    edges = (10, 100)
    assert count_groups(torch.tensor([99, 100, 10, 9, 1]), edges).tolist() == [1, 2, 1, 0, 0]
    assert count_groups(torch.tensor([7, 7, 7]), edges).tolist() == [0, 0, 0]
    assert count_groups(torch.tensor([500, 0, 20]), edges).tolist() == [1, 0, 0]
    assert count_groups(torch.tensor([0, 0]), edges).tolist() == [0, 0]


def test_edges_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match=r"edges must ascend; received \[10, 10\]"):
        Rebalancer.parse({"bags": {"edges": [10, 10]}})


def test_bags_groups_by_count_and_survives_two_growths() -> None:
    result = rebalanced(BAGS(edges=(10, 20)), trained())
    assert result.state["group"].tolist() == [2, 1, 0]
    features = samples()["features"]
    head = training.loaded_head(result).eval()
    assert isinstance(head, GroupSoftmaxHead)
    old = head(features)
    for round_number in range(2):
        grow_head(head, 2, features[:2])
        logits = head(features)
        torch.testing.assert_close(logits[:, : old.shape[1]], old)
        assert head.group[-1] == 3 + round_number
        old = logits
    grown = result._replace(
        state=training.head_state(head), class_counts=torch.ones(7), logit_offset=torch.zeros(7)
    )
    assert torch.equal(predict_logits(grown, features), old)


# --- causal ---------------------------------------------------------------------------------------


def test_tde_predicts_as_the_official_code() -> None:
    case, inputs = "causal_h2_tau16_a1.5_g0.03125", GOLDEN.inputs("causal_h2_tau16_a1.5_g0.03125")
    state = {"weight": inputs["weight"], "mean_feature": inputs["embed_mean"]}
    result = TDE(alpha=1.5)(
        classifier=double(state, "causal_norm"),
        features=inputs["features"],
        labels=torch.zeros(16, dtype=torch.int64),
        generator=seeded(),
    )
    module = training.loaded_head(result).double().eval()
    module.load_state_dict(result.state)
    torch.testing.assert_close(
        module(inputs["features"]), GOLDEN.output(case, "tde_logits"), rtol=1e-9, atol=1e-9
    )


def test_tde_keeps_a_causal_head_but_for_alpha() -> None:
    classifier = trained("causal_norm")
    result = rebalanced(TDE(alpha=0.4), classifier)
    assert result.head == Head.parse({"causal_norm": {"alpha": 0.4}})
    assert all(torch.equal(result.state[k], v) for k, v in classifier.state.items())


def test_tde_on_another_head_stores_the_mean_feature_and_helps_rare_classes() -> None:
    plain = rebalanced(TDE(alpha=0.0), trained())
    causal = rebalanced(TDE(alpha=1.0), trained())
    assert torch.equal(causal.feature_mean, causal.state["mean_feature"])
    direction = samples()["features"].mean(0)
    cosine = torch.nn.functional.cosine_similarity(causal.feature_mean, direction, dim=0)
    assert cosine > 0.9
    assert all(torch.equal(causal.state[k], v) for k, v in plain.state.items())
    assert balanced_accuracy(causal) > balanced_accuracy(plain)
