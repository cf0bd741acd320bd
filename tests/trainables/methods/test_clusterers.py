"""Clusterers: golden vectors, a slow oracle, and one contract for all that stand on the shelf."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.oracles import clusterers as oracle
from tests.helpers.vectors import golden, variants
from trainables.features.clustering import count_large, known_quality, middle_of_best
from trainables.features.kmeans import constrained_kmeans
from trainables.features.matching import matched_accuracy
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.clusterers import Clusterer
from trainables.methods.clusterers.constrained_kmeans import ConstrainedKMeans
from trainables.methods.clusterers.kmeans import KMeans

GOLDEN = golden("open_world_update")
METHODS = list(variants(Clusterer))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(
    sizes: tuple[int, ...] = (12, 9, 7, 5), *, spread: float = 0.2, width: int = 6
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and true classes: one tight group around each axis."""
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    noise = torch.randn(len(classes), width, generator=seeded(1))
    return 3 * torch.eye(width)[classes] + spread * noise, classes


def partly(classes: torch.Tensor, num_known: int) -> torch.Tensor:
    """Hide every second label of the known classes, and all labels of the others."""
    seen = (classes < num_known) & (torch.arange(len(classes)) % 2 == 0)
    return torch.where(seen, classes, -1)


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_separate_groups_are_found_and_known_classes_keep_their_number(method: Clusterer) -> None:
    features, classes = blobs()
    labels = partly(classes, 2)
    found = method(features=features, labels=labels, num_clusters=4, generator=seeded())
    assert found.dtype == torch.int64
    # classes 2 and 3 are new, and class 2 is the larger one
    assert found.tolist() == classes.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_equal_generators_give_equal_results(method: Clusterer) -> None:
    features = torch.randn(60, 5, generator=seeded(3))
    labels = torch.arange(60) % 10 - 5
    labels = torch.where(labels < 3, labels.clamp(min=-1), -1)
    first, second = (
        method(features=features, labels=labels, num_clusters=7, generator=seeded(4))
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() < 7


@pytest.mark.parametrize("method", METHODS)
def test_results_do_not_depend_on_the_ambient_generator(method: Clusterer) -> None:
    features = torch.randn(40, 5, generator=seeded(3))
    labels = torch.full((40,), -1)
    results = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            results.append(
                method(features=features, labels=labels, num_clusters=4, generator=seeded())
            )
    assert torch.equal(*results)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_samples_does_not_change_separate_groups(method: Clusterer) -> None:
    features, classes = blobs()
    labels = partly(classes, 2)
    order = torch.randperm(len(labels), generator=seeded(5))
    found = method(
        features=features[order], labels=labels[order], num_clusters=4, generator=seeded()
    )
    assert torch.equal(found, classes[order])


@pytest.mark.parametrize("method", METHODS)
def test_renaming_known_classes_renames_clusters(method: Clusterer) -> None:
    features, classes = blobs()
    labels = partly(classes, 3)
    names = torch.tensor([2, 0, 1, 3, -1])
    found = method(features=features, labels=names[labels], num_clusters=4, generator=seeded())
    assert torch.equal(found, names[classes])


@pytest.mark.parametrize("method", METHODS)
def test_without_labels_clusters_are_numbered_by_size(method: Clusterer) -> None:
    features, classes = blobs((3, 9, 6))
    labels = torch.full_like(classes, -1)
    found = method(features=features, labels=labels, num_clusters=3, generator=seeded())
    assert torch.equal(found, torch.tensor([2, 0, 1])[classes])


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_gives_an_empty_result(method: Clusterer) -> None:
    found = method(
        features=torch.zeros(0, 3),
        labels=torch.zeros(0, dtype=torch.int64),
        num_clusters=2,
        generator=seeded(),
    )
    assert found.shape == (0,)
    assert found.dtype == torch.int64


@pytest.mark.parametrize("method", METHODS)
def test_a_single_sample_is_its_own_cluster(method: Clusterer) -> None:
    for label, number in ((-1, 0), (0, 0)):
        found = method(
            features=torch.ones(1, 3),
            labels=torch.tensor([label]),
            num_clusters=1,
            generator=seeded(),
        )
        assert found.tolist() == [number]


@pytest.mark.parametrize("method", METHODS)
def test_one_new_cluster_takes_all_that_is_far_from_the_known(method: Clusterer) -> None:
    features, classes = blobs((6, 6, 6))
    found = method(features=features, labels=partly(classes, 2), num_clusters=3, generator=seeded())
    assert torch.equal(found, classes)


@pytest.mark.parametrize("method", METHODS)
def test_a_known_class_without_samples_leaves_its_number_unused(method: Clusterer) -> None:
    features, classes = blobs((6, 6, 6))
    # classes 0, 2 of three known ones have samples; the third group is new
    labels = torch.tensor([0, 2, -1])[classes]
    found = method(features=features, labels=labels, num_clusters=4, generator=seeded())
    assert torch.equal(found, torch.tensor([0, 2, 3])[classes])


@pytest.mark.parametrize("method", METHODS)
def test_equal_samples_get_a_defined_result(method: Clusterer) -> None:
    found = method(
        features=torch.ones(6, 3),
        labels=torch.tensor([0, 0, -1, -1, -1, -1]),
        num_clusters=3,
        generator=seeded(),
    )
    assert found.shape == (6,)
    assert set(found.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("method", METHODS)
def test_bf16_features_are_computed_in_float64(method: Clusterer) -> None:
    features, classes = blobs()
    rounded = features.bfloat16()
    first, second = (
        method(features=x, labels=partly(classes, 2), num_clusters=4, generator=seeded())
        for x in (rounded, rounded.double())
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", METHODS)
def test_survives_a_round_trip_through_json(method: Clusterer) -> None:
    assert Clusterer.parse(method.dump()) == method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("features", "labels", "num_clusters", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), 2, r"\[4, 2\] and \[3\]"),
        (torch.tensor([[torch.nan], [0.0]]), torch.tensor([0, -1]), 2, "1 samples with inf or NaN"),
        (torch.zeros(4, 2), torch.tensor([0, 1, 2, -1]), 2, "must be at least 3; received 2"),
        (torch.zeros(2, 2), torch.tensor([-1, -1]), 3, "need at least .*samples; received 2"),
    ],
)
def test_impossible_requests_are_one_clear_line(
    method: Clusterer,
    features: torch.Tensor,
    labels: torch.Tensor,
    num_clusters: int,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=rf"^clusterers/{method.name}: .*{message}") as caught:
        method(features=features, labels=labels, num_clusters=num_clusters, generator=seeded())
    assert "\n" not in str(caught.value)


# --- golden vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["ss_kmeans_ninit1", "ss_kmeans_hard_ninit10"])
def test_constrained_kmeans_matches_generalized_category_discovery(case: str) -> None:
    given, hyper = GOLDEN.inputs(case), GOLDEN.cases[case]["hyper"]
    known = given["labels"]
    added = hyper["k"] - (int(known.max()) + 1)
    # the reference draws one legacy NumPy uniform per added center, restart after restart
    draws = np.random.RandomState(hyper["seed"]).rand(hyper["n_init"], added)
    found = constrained_kmeans(
        torch.cat([given["labelled"], given["unlabelled"]]),
        torch.cat([known, torch.full((len(given["unlabelled"]),), -1)]),
        num_clusters=hyper["k"],
        uniforms=torch.from_numpy(draws),
        iterations=hyper["max_iter"],
        tolerance=hyper["tol"],
    )
    assert torch.equal(found.assignments, GOLDEN.output(case, "assign"))
    torch.testing.assert_close(found.centers, GOLDEN.output(case, "centers"), rtol=1e-8, atol=1e-8)
    assert found.inertia == pytest.approx(float(GOLDEN.output(case, "inertia")), rel=1e-8)


def test_constrained_kmeans_method_is_as_good_as_the_reference() -> None:
    given = GOLDEN.inputs("ss_kmeans_ninit1")
    labels = torch.cat([given["labels"], torch.full((len(given["unlabelled"]),), -1)])
    features = torch.cat([given["labelled"], given["unlabelled"]])
    found = ConstrainedKMeans(normalize=False)(
        features=features, labels=labels, num_clusters=6, generator=seeded()
    )
    reached, theirs = (
        matched_accuracy(a[len(given["labels"]) :], given["true_unlabelled"])
        for a in (found, GOLDEN.output("ss_kmeans_ninit1", "assign"))
    )
    assert reached >= theirs


@pytest.mark.parametrize(
    ("area", "case", "accuracy"),
    [
        ("open_world_update", "cluster_acc_overclustered", "v2_all_old_new"),
        ("semi", "cluster_metrics", "acc"),
    ],
)
def test_quality_matches_official_code(area: str, case: str, accuracy: str) -> None:
    vectors = golden(area)
    given = vectors.inputs(case)
    quality = known_quality(given["y_pred"], given["y_true"])
    expected = float(vectors.output(case, accuracy).flatten()[0])
    assert quality["clustering_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert quality["ari"] == pytest.approx(float(vectors.output(case, "ari")), abs=1e-9)
    if area == "open_world_update":  # the other code means geometrically
        assert quality["nmi"] == pytest.approx(float(vectors.output(case, "nmi")), abs=1e-9)


def test_rule_of_deep_transfer_clustering() -> None:
    given = GOLDEN.inputs("dtc_best_k")
    sharp, right = (
        dict(enumerate(given[name].tolist())) for name in ("silhouette", "labelled_val_acc")
    )
    # of equal candidates the reference takes the last, we the one nearest to the silhouette's
    assert right[6] == right[7] == max(right.values())
    right[6] -= 1e-9
    row = middle_of_best(sharp, right, sharpness_noise=0.0, accuracy_noise=0.0)
    unlabelled = given["cluster_assignments"][row][int(given["n_labelled"]) :]
    sizes = torch.bincount(unlabelled).tolist()
    assert count_large(sizes) == int(GOLDEN.output("dtc_best_k", "best_k"))


# --- slow oracles -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_constrained_kmeans_follows_the_definition(seed: int) -> None:
    draw = seeded(seed)
    features = torch.randn(30, 3, generator=draw, dtype=torch.float64)
    labels = torch.where(torch.arange(30) < 10, torch.arange(30) % 2, -1)
    uniforms = torch.rand(1, 2, generator=draw, dtype=torch.float64)
    found = constrained_kmeans(
        features, labels, num_clusters=4, uniforms=uniforms, iterations=4, tolerance=0.0
    )
    rows = features.tolist()
    means = [oracle.average([rows[i] for i in range(10) if i % 2 == c]) for c in range(2)]
    centers = oracle.plus_plus(rows[10:], means, uniforms[0].tolist())
    expected, inertia = oracle.lloyd(rows, labels.tolist(), centers, 4)
    assert found.assignments.tolist() == expected
    assert found.inertia == pytest.approx(inertia, rel=1e-12)


def test_kmeans_is_as_good_as_scikit_learn() -> None:
    from sklearn.cluster import KMeans as Reference

    features = torch.randn(150, 4, generator=seeded(2), dtype=torch.float64)
    found = constrained_kmeans(
        features,
        torch.full((150,), -1),
        num_clusters=5,
        uniforms=torch.rand(20, 5, generator=seeded(3), dtype=torch.float64),
        iterations=300,
    )
    reference = Reference(5, n_init=20, random_state=0).fit(features.numpy())
    assert found.inertia <= reference.inertia_ * 1.001
    shares = torch.bincount(found.assignments)
    means = torch.stack([features[found.assignments == c].mean(0) for c in range(5)])
    torch.testing.assert_close(found.centers, means, atol=1e-2, rtol=0)
    assert (shares > 0).all()


# --- properties ---------------------------------------------------------------------------------


def test_labelled_samples_never_leave_their_class() -> None:
    features = torch.randn(50, 4, generator=seeded(6))
    labels = torch.where(torch.arange(50) < 30, torch.arange(50) % 3, -1)
    found = ConstrainedKMeans()(
        features=features, labels=labels, num_clusters=5, generator=seeded()
    )
    assert torch.equal(found[:30], labels[:30])


def test_kmeans_ignores_labels_while_fitting() -> None:
    features = torch.randn(50, 4, generator=seeded(6))
    labels = torch.where(torch.arange(50) < 30, torch.arange(50) % 3, -1)
    blind, named = (
        KMeans()(features=features, labels=given, num_clusters=5, generator=seeded())
        for given in (torch.full_like(labels, -1), labels)
    )
    # the same groups under other names: one name here for each name there
    pairs = {(a, b) for a, b in zip(blind.tolist(), named.tolist(), strict=True)}
    assert len(pairs) == 5


def test_constrained_kmeans_without_new_clusters_is_nearest_class_mean_at_first() -> None:
    features, classes = blobs((8, 8))
    labels = partly(classes, 2)
    found = ConstrainedKMeans(iterations=1, normalize=False)(
        features=features, labels=labels, num_clusters=2, generator=seeded()
    )
    means = torch.stack([features[labels == c].mean(0) for c in range(2)])
    nearest = torch.cdist(features, means).argmin(1)
    assert torch.equal(found, torch.where(labels >= 0, labels, nearest))


def test_all_samples_labelled_gives_the_labels() -> None:
    features, classes = blobs()
    found = ConstrainedKMeans()(
        features=features, labels=classes, num_clusters=4, generator=seeded()
    )
    assert torch.equal(found, classes)


def test_normalizing_ignores_the_length_of_features() -> None:
    features, classes = blobs()
    lengths = torch.linspace(0.01, 100, len(classes))[:, None]
    found = ConstrainedKMeans(normalize=True)(
        features=lengths * features, labels=partly(classes, 2), num_clusters=4, generator=seeded()
    )
    assert torch.equal(found, classes)


def test_a_common_offset_costs_no_digits() -> None:
    features = torch.randn(60, 4, generator=seeded(8), dtype=torch.float64)
    labels = torch.where(torch.arange(60) < 20, torch.arange(60) % 2, -1)
    method = ConstrainedKMeans(normalize=False)
    near, far = (
        method(features=x, labels=labels, num_clusters=5, generator=seeded())
        for x in (features, features + 1e8)
    )
    assert torch.equal(near, far)


def test_a_center_that_loses_all_samples_moves_to_the_farthest() -> None:
    # two of three starting centers lie on one far sample: after the first step one of them is empty
    features = torch.tensor([[0.0], [0.1], [0.2], [9.0], [10.0]], dtype=torch.float64)
    found = constrained_kmeans(
        features,
        torch.full((5,), -1),
        num_clusters=3,
        uniforms=torch.tensor([[0.99, 0.0, 0.0]], dtype=torch.float64),
        iterations=20,
    )
    assert len(found.assignments.unique()) == 3
    assert found.centers.isfinite().all()


def test_a_restart_that_has_settled_is_not_continued() -> None:
    features = torch.randn(60, 4, generator=seeded(8))
    labels = torch.full((60,), -1)
    uniforms = torch.rand(5, 6, generator=seeded(9), dtype=torch.float64)

    def run(iterations: int, tolerance: float) -> float:
        return constrained_kmeans(
            features,
            labels,
            num_clusters=6,
            uniforms=uniforms,
            iterations=iterations,
            tolerance=tolerance,
        ).inertia

    assert run(50, 1e9) == run(1, 0.0) > run(50, 0.0)


def test_groups_of_restarts_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(80, 4, generator=seeded(9))
    given = {
        "num_clusters": 6,
        "uniforms": torch.rand(7, 6, generator=seeded(10), dtype=torch.float64),
        "iterations": 50,
    }
    labels = torch.full((80,), -1)
    at_once = constrained_kmeans(features, labels, **given)
    monkeypatch.setattr("trainables.features.kmeans.BLOCK_ELEMENTS", 1)
    one_by_one = constrained_kmeans(features, labels, **given)
    assert torch.equal(at_once.assignments, one_by_one.assignments)
    assert at_once.inertia == pytest.approx(one_by_one.inertia, rel=1e-12)


def test_a_pool_of_thousands_keeps_the_known_labels_together() -> None:
    features = torch.randn(5000, 64, generator=seeded(11))
    labels = torch.where(torch.arange(5000) < 2500, torch.arange(5000) % 10, -1)
    found = ConstrainedKMeans(iterations=20)(
        features=features, labels=labels, num_clusters=15, generator=seeded()
    )
    for label in range(10):
        assert len(found[labels == label].unique()) == 1
    assert len(found.unique()) == 15
