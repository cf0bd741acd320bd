"""What evaluate reports, worked out by hand on a few samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainables.artifacts import (
    Classifier,
    Evaluation,
    Features,
    HeldOutFeatures,
    ImageView,
    LabelledView,
    OutOfFold,
    PoolLabels,
    PoolSelection,
    PseudoLabels,
    Scorer,
)
from trainables.context import Context
from trainables.experiment import Evaluate
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.metrics.prior_shift import PriorShift
from trainables.methods.scores import Score
from trainables.models.backbone import build_trunk, to_artifact
from trainables.stages import evaluate

KNOWN, NOVEL = 2, 3
# the pool: classes 0 and 1 are known, 2 to 4 new, -1 unrelated
TRUTH = torch.tensor([0, 2, 2, -1, 3, 1, -1, 4, 3, -1])


def selected(*positions: int) -> dict[str, float]:
    chosen = PoolSelection(torch.tensor(positions, dtype=torch.int64))
    return evaluate._pool_metrics(chosen, TRUTH, KNOWN)


def test_unrelated_samples_are_no_hits_of_the_pool() -> None:
    found = selected(0, 1, 3, 6, 7, 8)  # known, new, unrelated, unrelated, new, new
    assert found["pool/size"] == 6
    assert found["pool/precision"] == pytest.approx(3 / 6)
    assert found["pool/recall"] == pytest.approx(3 / 5)
    assert found["pool/unrelated"] == pytest.approx(2 / 6)


def test_a_selection_of_unrelated_samples_alone_has_no_hit() -> None:
    found = selected(3, 6)
    assert (found["pool/precision"], found["pool/recall"]) == (0.0, 0.0)
    assert found["pool/unrelated"] == 1.0


def test_shares_of_nothing_are_left_undefined() -> None:
    found = selected()
    assert found["pool/size"] == 0
    assert math.isnan(found["pool/precision"])
    assert math.isnan(found["pool/unrelated"])
    assert found["pool/recall"] == 0.0
    nothing_new = evaluate._pool_metrics(PoolSelection(torch.tensor([0])), TRUTH[:1], KNOWN)
    assert nothing_new["pool/precision"] == 0.0
    assert math.isnan(nothing_new["pool/recall"])


# --- clusters and classes -----------------------------------------------------------------------


def pseudo(
    labels: list[int], weights: list[float] | None = None, clusters: int = 3
) -> PseudoLabels:
    """Pseudo-labels of all samples of the pool."""
    count = torch.tensor(weights if weights is not None else [1.0] * len(labels))
    positions = torch.arange(len(labels))
    return PseudoLabels(positions, torch.tensor(labels), count, clusters, {})


def test_clusters_get_the_classes_of_the_best_match() -> None:
    # cluster 2 holds 3, 3; cluster 3 holds 2, 4; cluster 4 holds 2: best are 3, 4, 2 (4 of 5)
    found = pseudo([0, 3, 4, 0, 2, 1, 0, 3, 2, 0])
    mapping = evaluate.majority_classes(found, TRUTH, KNOWN, NOVEL)
    assert mapping.tolist() == [0, 1, 3, 4, 2]


def test_known_and_unrelated_samples_have_no_say_in_the_match() -> None:
    # cluster 2 holds class 4; cluster 3 holds class 2, and of class 1 and of no class more
    truth = torch.tensor([4, 2, 1, 1, 1, -1, -1, 3])
    found = pseudo([2, 3, 3, 3, 3, 3, 2, 4])
    mapping = evaluate.majority_classes(found, truth, KNOWN, NOVEL)
    assert mapping.tolist() == [0, 1, 4, 2, 3]


def test_samples_without_weight_have_no_say_in_the_match() -> None:
    labels, weights = [0, 2, 2, 0, 3, 0, 0, 0, 3, 0], [1.0] * 10
    mapping = evaluate.majority_classes(pseudo(labels, weights, 2), TRUTH, KNOWN, NOVEL)
    assert mapping.tolist() == [0, 1, 2, 3]
    # the other way round, because one sample of each cluster counts and one does not
    crossed, weights = [0, 2, 3, 0, 3, 0, 0, 0, 2, 0], [1.0, 0.0, 1.0, 1, 0.0, 1, 1, 1, 1.0, 1]
    mapping = evaluate.majority_classes(pseudo(crossed, weights, 2), TRUTH, KNOWN, NOVEL)
    assert mapping.tolist() == [0, 1, 3, 2]


def test_more_clusters_than_classes_leave_some_without_a_class() -> None:
    found = pseudo([0, 2, 3, 0, 4, 0, 0, 5, 4, 0], clusters=5)
    mapping = evaluate.majority_classes(found, TRUTH, KNOWN, NOVEL)
    assert sorted(mapping[2:].tolist()) == [-1, -1, 2, 3, 4]
    assert mapping[4] == 3
    assert mapping[5] == 4
    assert mapping[6] == -1


def test_quality_of_pseudo_labels_is_of_those_that_count_and_are_related() -> None:
    # by sample: known right, new, new, unrelated, new, known wrong; the last four have no weight
    labels, weights = [0, 2, 2, 2, 3, 0, 3, 3, 3, 3], [1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0, 0, 0, 0]
    found = evaluate._discovery_metrics(
        pseudo(labels, weights, 2)._replace(quality={"nmi": 0.25}), TRUTH, KNOWN
    )
    assert found["discover/kept"] == 6
    assert found["discover/unrelated_kept"] == pytest.approx(1 / 6)
    assert found["discover/num_new_clusters"] == 2
    assert found["discover/nmi"] == 0.25
    # of five related ones the sample of class 1 is in the cluster of class 0
    assert found["clustering/accuracy"] == pytest.approx(4 / 5)
    assert found["clustering/accuracy_known"] == pytest.approx(1 / 2)
    assert found["clustering/accuracy_novel"] == 1.0
    assert found["clustering/accuracy_balanced"] == pytest.approx((1 + 0 + 1 + 1) / 4)


# --- accuracy after the update ------------------------------------------------------------------


def held_out(labels: list[int], before: list[int]) -> evaluate._HeldOutOutputs:
    """Samples with labels and the classes that the model said before the update."""
    truth = torch.tensor(labels)
    logits = torch.nn.functional.one_hot(torch.tensor(before), KNOWN).float()
    nothing = torch.zeros(len(labels), 1)
    return evaluate._HeldOutOutputs(nothing, truth, truth < KNOWN, logits, nothing[:, 0], 0.5)


def test_each_class_counts_once_in_the_accuracy_after_the_update() -> None:
    # six of class 0, two of class 1, three of class 2, one of class 4; none of class 3
    held = held_out([0] * 6 + [1] * 2 + [2] * 3 + [4], [0] * 6 + [1, 0] + [0] * 4)
    predicted = torch.tensor([0, 0, 0, 0, 2, -1, 1, 1, 2, 2, 0, 4])
    found = evaluate._update_metrics(held, predicted, KNOWN)
    per_class = [4 / 6, 1.0, 2 / 3, 1.0]
    assert found["update/accuracy"] == pytest.approx(sum(per_class) / 4)
    assert found["update/accuracy/known"] == pytest.approx((4 / 6 + 1) / 2)
    assert found["update/accuracy/novel"] == pytest.approx((2 / 3 + 1) / 2)
    # before: all of class 0, one of two of class 1; new classes cannot be right
    assert found["update/forgetting"] == pytest.approx((1 + 1 / 2) / 2 - (4 / 6 + 1) / 2)
    assert found["update/accuracy_before"] == pytest.approx((1 + 1 / 2) / 4)


# --- the stage as a whole -----------------------------------------------------------------------

ROWS = torch.eye(4)
VALIDATION = torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0], [1.5, 0.0, 0.0, 0.0]])


def view(labels: list[int], name: str) -> LabelledView:
    images = np.zeros((len(labels), 8, 8, 3), dtype=np.uint8)
    return LabelledView(images, np.arange(len(labels)), np.array(labels, dtype=np.int64), 4, name)


def linear(outputs: int, counts: list[int]) -> Classifier:
    """A head whose logits are the first features."""
    return Classifier(
        head=Head.parse("linear"),
        num_features=4,
        state={"weight": torch.eye(outputs, 4), "bias": torch.zeros(outputs)},
        logit_offset=torch.zeros(outputs),
        class_counts=torch.tensor(counts),
        feature_mean=torch.zeros(4),
    )


def scorer(threshold: float) -> Scorer:
    calibrator, score = Calibrator.parse("none"), Score.parse("max_logit")
    return Scorer(calibrator, {}, score, {}, threshold)


def evaluated(*, oracle: bool = False) -> Evaluation:
    """Two known and two new classes; the update's outputs 2 and 3 are classes 3 and 2.

    Held out are three known images, of which one lies at the other class, one image of each new
    class, both in the cluster of class 2, and one short feature of no class.
    """
    trunk = to_artifact(build_trunk("fastnet", 8), "fastnet", 8)
    held_out = torch.cat([ROWS[[0, 1, 1, 3, 3]], 0.1 * ROWS[:1]])
    pseudo_labels = PseudoLabels(
        torch.tensor([0, 1, 2, 3]), torch.tensor([2, 2, 3, 3]), torch.ones(4), 2, {}, oracle
    )
    return evaluate.run(
        Evaluate.model_validate({"many_above": 10, "few_below": 5}),
        backbone=trunk,
        classifier=linear(2, [20, 3]),
        features=Features(ROWS[:2], VALIDATION),
        validation_known=view([0, 1, 1], "validation"),
        scorer=scorer(0.5),
        pool_selection=PoolSelection(torch.tensor([0, 1, 2, 3, 5])),
        pseudo_labels=pseudo_labels,
        updated_classifier=linear(4, [20, 3, 2, 2]),
        updated_scorer=scorer(0.05),
        held_out_known=view([0, 0, 1], "known"),
        held_out_novel=view([2, 3], "novel"),
        held_out_unknown=view([0], "unknown"),
        held_out_features=HeldOutFeatures(held_out, held_out[:0]),
        pool_labels=PoolLabels(np.array([3, 3, 2, 2, 0, -1]), 2, 2, "pool"),
        known_train=view([0, 1], "train"),
        withheld=ImageView(np.zeros((1, 8, 8, 3), dtype=np.uint8), np.arange(1), "withheld"),
        out_of_fold=OutOfFold(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0).long()),
        context=Context(),
    ).evaluation


def test_both_models_are_judged_by_their_own_answers() -> None:
    found = evaluated()
    wanted = {
        "accuracy": 2 / 3,
        "accuracy/balanced": 3 / 4,
        "accuracy/many": 1 / 2,
        "accuracy/few": 1.0,
        "novelty/auroc": 1.0,  # known features are longer than new ones under the first head
        "novelty/precision": 1.0,
        "novelty/recall": 1.0,
        "pool/precision": 4 / 5,
        "pool/recall": 1.0,
        "pool/unrelated": 1 / 5,
        "discover/kept": 4,
        "clustering/accuracy": 1.0,
        # classes 0 to 3: one of two, one, one, and none because class 2 is said
        "update/accuracy": (1 / 2 + 1 + 1 + 0) / 4,
        "update/accuracy/known": 3 / 4,
        "update/accuracy/novel": 1 / 2,
        "update/forgetting": 0.0,
        "update/accuracy_before": (1 / 2 + 1) / 4,
        # the first model calls new images unknown, and the one of no class
        "first/accuracy/balanced": 3 / 4,
        "first/accuracy/open": (1 / 2 + 1 + 1 + 1) / 4,
        "first/novelty/recall": 1.0,
        "first/novelty/false_alarm": 0.0,
        "first/forgetting": 0.0,
        # the updated one, of a lower threshold, names each, and the one of no class as well
        "updated/accuracy/balanced": 3 / 4,
        "updated/accuracy/new": 1 / 2,
        "updated/accuracy/open": (1 / 2 + 1 + 1 + 0) / 4,
        "updated/novelty/recall": 0.0,
        "updated/novelty/false_alarm": 0.0,
        "updated/forgetting": 0.0,
        "oracle": 0.0,
    }
    metrics = {name: found.metrics.get(f"evaluate/{name}") for name in wanted}
    assert metrics == pytest.approx(wanted)


def test_arrays_hold_the_answer_to_each_image_of_a_known_or_new_class() -> None:
    arrays = evaluated().arrays
    assert arrays["labels"].tolist() == [0, 0, 1, 2, 3]
    assert arrays["updated"].tolist() == [0, 1, 1, 2, 2]
    assert arrays["first_right"].tolist() == [True, False, True, True, True]
    assert arrays["updated_right"].tolist() == [True, False, True, True, False]
    assert arrays["confidence"].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert arrays["cluster_classes"].tolist() == [3, 2]
    assert arrays["confusion"].tolist() == [[1, 1], [0, 1]]
    assert arrays["updated_confusion"].tolist() == [
        [1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0],
    ]  # fmt: skip
    assert arrays["band"].tolist() == [0, 2]


def test_corrections_for_other_priors_are_fitted_on_validation_samples() -> None:
    held = {"logits": ROWS[[0, 1, 1], :2], "labels": torch.tensor([0, 0, 1])}
    shared = {**held, "class_counts": torch.tensor([20, 3])}
    wanted, other = (
        PriorShift()(**shared, validation_logits=logits, validation_labels=labels)
        for logits, labels in (
            (VALIDATION[:, :2], torch.tensor([0, 1, 1])),
            (held["logits"], held["labels"]),
        )
    )
    found = evaluated().metrics
    assert {name: found[f"evaluate/{name}"] for name in wanted} == pytest.approx(wanted)
    assert wanted != pytest.approx(other)


def test_an_upper_bound_is_marked() -> None:
    assert evaluated(oracle=True).metrics["evaluate/oracle"] == 1.0
