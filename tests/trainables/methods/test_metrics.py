"""Metrics: golden vectors, slow oracles, peers, and a contract for the whole shelf."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.helpers.oracles import metrics as oracle
from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.metrics import Metric
from trainables.methods.metrics.accuracy import Accuracy, size_bands
from trainables.methods.metrics.calibration import Calibration
from trainables.methods.metrics.clustering import Clustering
from trainables.methods.metrics.features import FeatureQuality
from trainables.methods.metrics.open_set import OpenSet
from trainables.methods.profiles.exponential import Exponential

GOLDEN = golden("openworld_scores")
METHODS = list(variants(Metric))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def evaluation(count: int = 60, classes: int = 5) -> dict[str, object]:
    """Return everything that any metric asks for; labels below 4 are known."""
    labels = torch.arange(count) % classes
    features = torch.randn(count, 6, generator=seeded(1)) + 2 * torch.eye(classes, 6)[labels]
    logits = 2 * features[:, :classes] + torch.randn(count, classes, generator=seeded(2))
    return {
        "logits": logits,
        "features": features,
        "labels": labels,
        "assignments": logits.argmax(1),
        "predictions": logits.argmax(1),
        "confidence": logits.amax(1),
        "known": labels < classes - 1,
        "threshold": 1.0,
        "class_counts": torch.tensor([200, 120, 60, 15, 5])[:classes],
        "num_known": classes - 1,
        "validation_logits": logits.flip(0),
        "validation_labels": labels.flip(0),
    }


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_values_are_finite_floats_with_the_names_of_one_group(method: Metric) -> None:
    values = method.call_with(evaluation())
    groups = {name.partition("/")[0] for name in values}
    assert values
    assert len(groups) == 1
    assert all(type(value) is float and math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_samples_does_not_matter(method: Metric) -> None:
    samples = evaluation()
    order = torch.randperm(60, generator=seeded(3))
    mixed = {
        k: v[order] if isinstance(v, torch.Tensor) and len(v) == 60 else v
        for k, v in samples.items()
    }
    assert method.call_with(mixed) == pytest.approx(method.call_with(samples), abs=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_hardly_any_samples_leave_out_what_is_undefined(method: Metric, count: int) -> None:
    few = {
        k: v[:count] if isinstance(v, torch.Tensor) and len(v) == 60 else v
        for k, v in evaluation().items()
    }
    assert all(math.isfinite(value) for value in method.call_with(few).values())


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_read(method: Metric) -> None:
    low = {
        k: v.bfloat16() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in evaluation().items()
    }
    close, exact = method.call_with(low), method.call_with(evaluation())
    assert close.keys() == exact.keys()
    # bfloat16 has three digits: a few samples may change places
    assert all(abs(close[name] - exact[name]) < 0.3 for name in exact)


@pytest.mark.parametrize("method", METHODS)
def test_settings_survive_a_round_trip(method: Metric) -> None:
    assert Metric.parse(method.dump()) == method


# --- accuracy -------------------------------------------------------------------------------------


def test_bands_agree_with_the_official_code() -> None:
    case, inputs = "shot_acc_cifar100_100", GOLDEN.inputs("shot_acc_cifar100_100")
    values = Accuracy()(
        predictions=inputs["preds"], labels=inputs["labels"], class_counts=inputs["class_counts"]
    )
    for band in ("many", "medium", "few"):
        assert values[f"accuracy/{band}"] == pytest.approx(float(GOLDEN.output(case, band)))
    official = float(GOLDEN.output(case, "class_acc").mean())
    assert values["accuracy/balanced"] == pytest.approx(official)


@pytest.mark.parametrize("case", [name for name in GOLDEN.cases if name.startswith("shot_split_")])
def test_sizes_of_bands_agree_with_the_official_code(case: str) -> None:
    given = GOLDEN.cases[case]["hyperparameters"]
    classes, largest = {"cifar10": (10, 5000), "cifar100": (100, 500)}[given["dataset"]]
    profile = Exponential(imbalance_factor=1 / given["imb_factor"])
    counts = profile(num_classes=classes, max_count=largest)
    bands = size_bands(torch.from_numpy(counts), given["many_gt"], given["few_lt"])
    found = {band: int(members.sum()) for band, members in bands.items()}
    assert found == {band: int(GOLDEN.output(case, f"n_{band}")) for band in found}
    assert list(found) == ["many", "medium", "few"]


def test_bands_are_open_at_their_thresholds_and_left_out_when_empty() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    values = Accuracy()(
        predictions=torch.tensor([0, 0, 2, 0]),
        labels=labels,
        class_counts=torch.tensor([101, 100, 20, 21]),
    )
    assert values["accuracy/many"] == 1.0
    assert values["accuracy/medium"] == pytest.approx(1 / 3)
    assert "accuracy/few" not in values


def test_balanced_accuracy_agrees_with_sklearn() -> None:
    from sklearn.metrics import recall_score

    labels = torch.randint(6, (80,), generator=seeded()) ** 2 % 7  # a class or two never occur
    logits = torch.randn(80, 7, generator=seeded(1)) + torch.eye(7)[labels]
    expected = recall_score(
        labels, logits.argmax(1), labels=labels.unique(), average="macro", zero_division=0
    )
    values = Accuracy()(logits=logits, labels=labels)
    assert values["accuracy/balanced"] == pytest.approx(expected)
    assert values["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_labels_beyond_the_counted_classes_are_in_no_band() -> None:
    values = Accuracy()(
        predictions=torch.tensor([0, 1, 2]),
        labels=torch.tensor([0, 2, 2]),
        class_counts=torch.tensor([500]),
    )
    assert values["accuracy/many"] == 1.0
    assert values["accuracy"] == pytest.approx(2 / 3)


def test_accuracy_without_predictions_or_logits_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="needs predictions or logits"):
        Accuracy()(labels=torch.tensor([0]))


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_agrees_with_the_golden_vectors() -> None:
    case, inputs = "calibration_selective", GOLDEN.inputs("calibration_selective")
    logits = inputs["prob"].log()
    values = Calibration()(logits=logits, labels=inputs["label"])
    names = {"ece": "ece15", "mce": "mce15", "classwise_ece": "classwise_ece15"}
    for name in ("ece", "mce", "classwise_ece", "brier", "nll"):
        expected = float(GOLDEN.output(case, names.get(name, name)))
        assert values[f"calibration/{name}"] == pytest.approx(
            expected, abs=1e-6
        )  # the case's tolerance
    coarse = Calibration(bins=10)(logits=logits, labels=inputs["label"])
    assert coarse["calibration/ece"] == pytest.approx(float(GOLDEN.output(case, "ece10")))
    official = Calibration()(**GOLDEN.inputs("ece_tempscale_15"))["calibration/ece"]
    assert official == pytest.approx(float(GOLDEN.output("ece_tempscale_15", "ece")), abs=1e-7)


def test_calibration_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    samples = evaluation()
    values = Calibration()(logits=samples["logits"], labels=samples["labels"])
    for norm, name in (("l1", "ece"), ("max", "mce")):
        expected = multiclass_calibration_error(
            samples["logits"].softmax(1), samples["labels"], num_classes=5, n_bins=15, norm=norm
        )
        assert values[f"calibration/{name}"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_expected_calibration_error_equals_its_oracle(bins: int) -> None:
    samples = evaluation()
    probability = samples["logits"].double().softmax(1)
    top, prediction = probability.max(1)
    right = (prediction == samples["labels"]).double()
    values = Calibration(bins=bins)(logits=samples["logits"], labels=samples["labels"])
    expected = oracle.ece(top.tolist(), right.tolist(), bins)
    assert values["calibration/ece"] == pytest.approx(expected)
    truth = torch.eye(5)[samples["labels"]]
    classes = [oracle.ece(probability[:, c].tolist(), truth[:, c].tolist(), bins) for c in range(5)]
    assert values["calibration/classwise_ece"] == pytest.approx(np.mean(classes))


def test_bins_are_closed_above() -> None:
    # with two bins, one half belongs to (0, 1/2]: right there, wrong at 3/4
    share, gap = Calibration(bins=2).gaps(
        torch.tensor([0.5, 0.75], dtype=torch.float64), torch.tensor([1.0, 0.0]).double()
    )
    assert share.tolist() == [0.5, 0.5]
    assert gap.tolist() == [0.5, 0.75]


@pytest.mark.parametrize(
    ("probability", "slot"), [(0.0, 0), (0.25, 0), (0.5, 1), (0.75, 2), (1.0, 3), (0.6, 2)]
)
def test_an_edge_belongs_to_the_bin_below(probability: float, slot: int) -> None:
    share, gap = Calibration(bins=4).gaps(
        torch.tensor([probability], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    )
    assert share.tolist() == [float(b == slot) for b in range(4)]
    assert float(gap[slot]) == pytest.approx(1 - probability)


def test_certainty_of_one_belongs_to_the_last_bin() -> None:
    # two samples of probability 1, one wrong; with a bin of their own the others would not matter
    logits = torch.tensor([[900.0, 0.0], [900.0, 0.0], [4.0, 0.0]])
    values = Calibration(bins=2)(logits=logits, labels=torch.tensor([0, 1, 0]))
    mean = (2 + torch.sigmoid(torch.tensor(4.0)).item()) / 3
    assert values["calibration/ece"] == pytest.approx(mean - 2 / 3, abs=1e-6)


# --- novelty --------------------------------------------------------------------------------------


def test_ranking_metrics_agree_with_the_golden_vectors_under_ties() -> None:
    case, inputs = "metrics_ties", GOLDEN.inputs("metrics_ties")
    values = OpenSet()(
        confidence=inputs["confidence"],
        known=inputs["label"] >= 0,
        predictions=inputs["pred"],
        labels=inputs["label"],
    )
    for name, role in {
        "auroc": "openood_auroc",
        "aupr_unknown": "ap_out_sklearn",
        "aupr_known": "ap_in_sklearn",
        "fpr_known@95tpr_unknown": "openood_fpr95",
        "fpr_unknown@95tpr_known": "fpr95_id_positive",
        "oscr": "ptood_oscr",
    }.items():
        expected = float(GOLDEN.output(case, role))
        assert values[f"novelty/{name}"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_ranking_metrics_equal_their_oracles(digits: int) -> None:
    confidence = torch.randn(53, generator=seeded(), dtype=torch.float64).round(decimals=digits)
    known = torch.arange(53) % 3 > 0
    confidence += known.double().round() * 0.5
    labels = torch.randint(3, (53,), generator=seeded(1))
    predictions = torch.where(torch.rand(53, generator=seeded(2)) < 0.8, labels, 3)
    values = OpenSet()(confidence=confidence, known=known, predictions=predictions, labels=labels)
    yes, no = confidence[known].tolist(), confidence[~known].tolist()
    right = (predictions == labels)[known].tolist()
    below, above = [-v for v in no], [-v for v in yes]
    expected = {
        "novelty/auroc": oracle.auroc(yes, no),
        "novelty/aupr_known": oracle.average_precision(yes, no),
        "novelty/aupr_unknown": oracle.average_precision(below, above),
        "novelty/fpr_unknown@95tpr_known": oracle.false_positive_rate(yes, no),
        "novelty/fpr_known@95tpr_unknown": oracle.false_positive_rate(below, above),
        "novelty/oscr": oracle.oscr(yes, right, no),
    }
    assert values == pytest.approx(expected)


@pytest.mark.parametrize("digits", [1, 2, 12])
def test_ranking_equals_sklearn_with_and_without_ties(digits: int) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    draw = torch.Generator().manual_seed(digits)
    known = torch.rand(400, generator=draw) < 0.3
    confidence = (torch.randn(400, generator=draw).double() + known).round(decimals=digits)
    given = OpenSet()(confidence=confidence, known=known)
    wanted = {
        "novelty/auroc": roc_auc_score(known, confidence),
        "novelty/aupr_known": average_precision_score(known, confidence),
        "novelty/aupr_unknown": average_precision_score(~known, -confidence),
    }
    assert {name: given[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_oscr_is_at_most_accuracy_and_reaches_it_when_unknown_are_below() -> None:
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.2])
    known = torch.tensor([True, True, True, False, False])
    labels, predictions = torch.tensor([0, 1, 2, 9, 9]), torch.tensor([0, 1, 1, 0, 0])
    values = OpenSet()(confidence=confidence, known=known, predictions=predictions, labels=labels)
    assert values["novelty/oscr"] == pytest.approx(2 / 3)


def test_metrics_that_only_rank_ignore_a_monotone_change() -> None:
    samples = evaluation()
    known = {"known": samples["known"]}
    plain = OpenSet()(confidence=samples["confidence"], **known)
    bent = OpenSet()(confidence=samples["confidence"].double().exp(), **known)
    assert bent == pytest.approx(plain)


def test_bands_of_known_classes_are_ranked_on_their_own() -> None:
    samples = evaluation()
    values = OpenSet().call_with(samples)
    confidence, known, labels = samples["confidence"], samples["known"], samples["labels"]
    for name, members in (("many", [0, 1]), ("medium", [2]), ("few", [3])):
        chosen = known & torch.isin(labels, torch.tensor(members))
        expected = oracle.auroc(confidence[chosen].tolist(), confidence[~known].tolist())
        assert values[f"novelty/auroc/{name}"] == pytest.approx(expected)


def test_decisions_at_the_threshold_agree_with_sklearn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    samples = evaluation()
    values = OpenSet().call_with(samples)
    called = samples["confidence"] < 1.0
    expected = precision_recall_fscore_support(~samples["known"], called, average="binary")
    names = ("novelty/precision", "novelty/recall", "novelty/f1")
    assert [values[name] for name in names] == pytest.approx(expected[:3])


def test_one_side_alone_is_not_ranked() -> None:
    confidence = torch.tensor([0.3, 0.4])
    for side in (True, False):
        known = torch.tensor([side, side])
        values = OpenSet()(confidence=confidence, known=known, threshold=float("-inf"))
        assert "novelty/auroc" not in values
        assert "novelty/precision" not in values
    assert values == {"novelty/recall": 0.0, "novelty/f1": 0.0}


def test_confidence_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="received NaN"):
        OpenSet()(confidence=torch.tensor([float("nan"), 1.0]), known=torch.tensor([True, False]))


# --- clustering -----------------------------------------------------------------------------------


def test_clustering_agrees_with_the_official_code() -> None:
    case, inputs = "cluster_acc_overclustered", GOLDEN.inputs("cluster_acc_overclustered")
    values = Clustering()(assignments=inputs["y_pred"], labels=inputs["y_true"], num_known=6)
    assert torch.equal(inputs["old_mask"].bool(), inputs["y_true"] < 6)
    everything, known, novel = GOLDEN.output(case, "v2_all_old_new").tolist()
    assert values["clustering/accuracy"] == pytest.approx(everything)
    assert values["clustering/accuracy_known"] == pytest.approx(known)
    assert values["clustering/accuracy_novel"] == pytest.approx(novel)
    balanced = float(GOLDEN.output(case, "v2_balanced_all_old_new")[0])
    assert values["clustering/accuracy_balanced"] == pytest.approx(balanced)
    assert values["clustering/nmi"] == pytest.approx(float(GOLDEN.output(case, "nmi")))
    assert values["clustering/ari"] == pytest.approx(float(GOLDEN.output(case, "ari")))


@pytest.mark.parametrize("clusters", [1, 2, 4, 5])
def test_clustering_accuracy_equals_its_oracle(clusters: int) -> None:
    given = torch.randint(clusters, (30,), generator=seeded(clusters))
    true = torch.randint(4, (30,), generator=seeded(9))
    values = Clustering()(assignments=given, labels=true)
    assert values["clustering/accuracy"] == pytest.approx(
        oracle.cluster_accuracy(given.tolist(), true.tolist())
    )


def test_the_names_of_clusters_do_not_matter() -> None:
    given = torch.randint(5, (40,), generator=seeded())
    true = torch.randint(4, (40,), generator=seeded(1))
    renamed = torch.tensor([70, 3, 12, 0, 9])[given]
    assert Clustering()(assignments=renamed, labels=true) == pytest.approx(
        Clustering()(assignments=given, labels=true)
    )


# --- features -------------------------------------------------------------------------------------


def test_feature_quality_equals_its_oracles() -> None:
    samples = evaluation(count=25)
    labels = samples["labels"]
    units = torch.nn.functional.normalize(samples["features"].double(), dim=1).tolist()
    values = FeatureQuality(k=4)(features=samples["features"], labels=labels)
    names = labels.tolist()
    assert values["features/silhouette"] == pytest.approx(oracle.silhouette(units, names))
    assert values["features/knn_accuracy"] == pytest.approx(
        oracle.neighbor_accuracy(units, names, 4)
    )
    assert values["features/uniformity"] == pytest.approx(oracle.uniformity(units))
    assert values["features/alignment"] == pytest.approx(oracle.alignment(units, names))


def test_feature_quality_ignores_length_and_rotation() -> None:
    samples = evaluation()
    turn = torch.linalg.qr(torch.randn(6, 6, generator=seeded(7), dtype=torch.float64)).Q
    turned = 3 * samples["features"].double() @ turn
    assert FeatureQuality()(features=turned, labels=samples["labels"]) == pytest.approx(
        FeatureQuality()(features=samples["features"].double(), labels=samples["labels"])
    )


def test_many_samples_are_thinned_out_evenly() -> None:
    features = torch.randn(100, 3, generator=seeded())
    labels = torch.arange(100) // 50
    thinned = FeatureQuality(max_samples=2)(features=features, labels=labels)
    ends = FeatureQuality()(features=features[[0, 99]], labels=labels[[0, 99]])
    assert thinned == ends
