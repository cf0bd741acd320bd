"""Matching, quality, neighbors, and the estimated number of clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.oracles import clusterers as oracle
from trainables.features.clustering import (
    KEstimate,
    _hide_half,
    count_large,
    estimate_num_clusters,
    known_quality,
    middle_of_best,
)
from trainables.features.kmeans import kmeans_plus_plus, renumber, squared_distances
from trainables.features.matching import (
    adjusted_rand,
    balanced_accuracy,
    match_clusters,
    matched_accuracy,
    mutual_information,
    silhouette,
)
from trainables.features.neighbors import neighbors
from trainables.methods.clusterers.constrained_kmeans import ConstrainedKMeans
from trainables.methods.clusterers.kmeans import KMeans


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def groups(
    sizes: list[int], *, width: int = 16, spread: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and classes: groups around orthogonal directions."""
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    noise = torch.randn(len(classes), width, generator=seeded(1))
    return 3 * torch.eye(width)[classes] + spread * noise, classes


# --- matching and quality -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_clusters", [2, 4, 6])
def test_match_is_the_best_of_all(seed: int, num_clusters: int) -> None:
    draw = seeded(seed)
    found = torch.randint(num_clusters, (40,), generator=draw)
    labels = torch.randint(5, (40,), generator=draw) - 1
    expected = oracle.matched_accuracy(found.tolist(), labels.tolist(), num_clusters)
    assert matched_accuracy(found, labels) == pytest.approx(expected)


PARTITIONS = [(1, 1, 1), (9, 1, 1), (9, 1, 5), (9, 40, 40), (60, 3, 3), (300, 7, 4), (300, 2, 90)]


@pytest.mark.parametrize(("samples", "classes", "clusters"), PARTITIONS)
def test_agreement_of_partitions_equals_sklearn(samples: int, classes: int, clusters: int) -> None:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    for seed in range(3):
        labels = 3 * torch.randint(classes, (samples,), generator=seeded(seed)) - 2
        found = torch.randint(clusters, (samples,), generator=seeded(seed + 9))
        found = torch.where(torch.rand(samples, generator=seeded(seed)) < 0.5, labels, found)
        for other in (found, labels + 5):
            wanted = adjusted_rand_score(labels, other), normalized_mutual_info_score(labels, other)
            given = adjusted_rand(labels, other), mutual_information(labels, other)
            assert given == pytest.approx(wanted, abs=1e-12)


def test_matched_classes_are_distinct_and_all_matched_where_clusters_suffice() -> None:
    found = torch.zeros(10, dtype=torch.int64)
    match = match_clusters(found, torch.arange(10) % 3, num_clusters=5)
    assert sorted(match.tolist()) == [-1, -1, 0, 1, 2]


def test_without_labels_nothing_is_matched_and_quality_is_zero() -> None:
    found, labels = torch.tensor([0, 1]), torch.tensor([-1, -1])
    assert match_clusters(found, labels, num_clusters=3).tolist() == [-1, -1, -1]
    assert matched_accuracy(found, labels) == 0
    assert set(known_quality(found, labels).values()) == {0.0}
    nothing = torch.zeros(0, dtype=torch.int64)
    assert set(known_quality(nothing, nothing).values()) == {0.0}


def test_balanced_accuracy_counts_a_small_class_like_a_large_one() -> None:
    # class 0: eight of eight together; class 1: two of two in the same cluster
    labels = torch.tensor([0] * 8 + [1] * 2 + [-1] * 3)
    merged = torch.tensor([0] * 10 + [1] * 3)
    assert balanced_accuracy(merged, labels) == 0.5
    assert matched_accuracy(merged, labels) == 0.8
    assert balanced_accuracy(labels + 1, labels) == 1
    assert balanced_accuracy(merged, torch.full_like(labels, -1)) == 0


def test_the_best_match_is_not_the_first_and_not_the_worst() -> None:
    # cluster 0 holds 3 of class 0 and 2 of class 1; cluster 1 holds 2 of class 0
    found = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 0])
    assert match_clusters(found, labels, num_clusters=2).tolist() == [1, 0]  # 2 + 2, not 3 + 0
    assert matched_accuracy(found, labels) == pytest.approx(4 / 7)
    # by classes: 2 of 5 and 2 of 2, not 3 of 5 and 0 of 2
    assert balanced_accuracy(found, labels) == pytest.approx((2 / 5 + 1) / 2)


def test_quality_does_not_depend_on_cluster_numbers_and_falls_when_clusters_merge() -> None:
    labels = torch.arange(30) % 3
    renamed = known_quality(torch.tensor([7, 2, 5])[labels], labels)
    merged = known_quality(labels.clamp(max=1), labels)
    assert renamed["clustering_accuracy"] == renamed["nmi"] == renamed["ari"] == 1
    assert merged["clustering_accuracy"] == pytest.approx(2 / 3)
    assert merged["nmi"] < 1
    assert merged["ari"] < 1


def test_renumbering_keeps_matched_classes_and_sorts_the_rest_by_size() -> None:
    found = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    numbered = renumber(found, torch.tensor([-1, -1, 1, -1]), 4)
    assert numbered.tolist() == [6, 5, 5, 1, 4, 4, 4]


# --- distances and starting centers -------------------------------------------------------------


def test_squared_distances_are_never_negative() -> None:
    features = 100 + torch.randn(60, 20, generator=seeded(1), dtype=torch.float64)
    distances = squared_distances(features, features)
    torch.testing.assert_close(
        distances, torch.cdist(features, features).square(), atol=1e-8, rtol=0
    )
    assert (distances >= 0).all()


def test_added_centers_are_far_with_the_stated_probability() -> None:
    # squared distances to the first center: 0, 1, 9
    features = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    uniforms = (torch.arange(1000, dtype=torch.float64)[:, None] + 0.5) / 1000
    centers = kmeans_plus_plus(features, features[:1], uniforms)
    drawn = centers[:, 1, 0]
    assert [int((drawn == value).sum()) for value in (0, 1, 3)] == [0, 100, 900]


def test_first_center_is_uniform_without_classes() -> None:
    features = torch.arange(4, dtype=torch.float64)[:, None]
    uniforms = (torch.arange(8, dtype=torch.float64)[:, None] + 0.5) / 8
    centers = kmeans_plus_plus(features, features[:0], uniforms)
    assert centers.flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


# --- neighbors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_self", [True, False])
def test_neighbors_are_the_nearest_by_cosine(with_self: bool) -> None:
    features = torch.randn(25, 4, generator=seeded(2), dtype=torch.float64)
    found = torch.arange(25) % 3
    near = neighbors(features, num_neighbors=6, with_self=with_self)
    counts = (found[near] == found[:, None]).sum(dim=1)
    expected = oracle.agreement(features.tolist(), found.tolist(), 6, with_self=with_self)
    assert counts.tolist() == expected
    own = torch.arange(25)
    assert torch.equal(near[:, 0], own) if with_self else not (near == own[:, None]).any()


def test_neighbors_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(30, 4, generator=seeded(2))
    whole = neighbors(features, num_neighbors=5, with_self=False)
    monkeypatch.setattr("trainables.features.neighbors.BLOCK_ELEMENTS", 100)
    assert torch.equal(neighbors(features, num_neighbors=5, with_self=False), whole)


@pytest.mark.parametrize(
    ("count", "with_self", "width"), [(0, True, 0), (1, False, 0), (1, True, 1), (3, False, 2)]
)
def test_neighbors_are_cut_to_those_there_are(count: int, with_self: bool, width: int) -> None:
    near = neighbors(torch.ones(count, 2), num_neighbors=5, with_self=with_self)
    assert near.shape == (count, width)


# --- number of clusters -------------------------------------------------------------------------


@pytest.mark.parametrize("true_new", [1, 2, 4, 6])
def test_separate_groups_are_counted_exactly(true_new: int) -> None:
    features, classes = groups([40, 30, 20, 15, 10] + [25] * true_new)
    labels = torch.where((classes < 5) & (torch.arange(len(classes)) % 2 == 0), classes, -1)
    estimate = estimate_num_clusters(
        ConstrainedKMeans(), features=features, labels=labels, max_new=8, generator=seeded()
    )
    assert estimate.num_new == true_new
    assert sorted(estimate.scores) == list(range(1, 9))


@pytest.mark.parametrize("true_new", [1, 3, 5])
def test_plain_kmeans_counts_nearly_as_well(true_new: int) -> None:
    features, classes = groups([40, 30, 20, 15, 10] + [25] * true_new)
    labels = torch.where((classes < 5) & (torch.arange(len(classes)) % 2 == 0), classes, -1)
    estimate = estimate_num_clusters(
        KMeans(), features=features, labels=labels, max_new=8, generator=seeded()
    )
    assert abs(estimate.num_new - true_new) <= 1


def test_noise_in_many_dimensions_does_not_hide_the_groups() -> None:
    # the noise is more than twice as long as the distance between the groups
    features, classes = groups([60] * 5 + [50] * 4, width=128, spread=0.6)
    labels = torch.where((classes < 5) & (torch.arange(len(classes)) % 2 == 0), classes, -1)
    estimate = estimate_num_clusters(
        ConstrainedKMeans(), features=features, labels=labels, max_new=10, generator=seeded()
    )
    assert abs(estimate.num_new - 4) <= 1


def test_a_wide_range_is_searched_without_trying_all() -> None:
    features, classes = groups([20] * 4 + [15] * 17, width=24)
    labels = torch.where(classes < 4, classes, -1)
    estimate = estimate_num_clusters(
        ConstrainedKMeans(), features=features, labels=labels, max_new=60, generator=seeded()
    )
    assert abs(estimate.num_new - 17) <= 2
    assert len(estimate.scores) < 35


def digits_world(seed: int, num_known: int, num_new: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits: long-tailed labelled classes; a pool of their rest and of new classes, PCA to 32."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    images, digits = load_digits(return_X_y=True)
    draw = np.random.default_rng(seed)
    order = draw.permutation(10)[: num_known + num_new]
    rows, labels = [], []
    for position, digit in enumerate(order):
        mine = draw.permutation(np.flatnonzero(digits == digit))
        seen = int(100 * 20 ** (-position / (num_known - 1))) if position < num_known else 0
        free = 14 if position < num_known else 60
        rows.append(mine[: seen + free])
        labels.append(np.where(np.arange(len(rows[-1])) < seen, position, -1))
    features = PCA(32, random_state=0).fit_transform(images[np.concatenate(rows)] / 16)
    return torch.from_numpy(features).float(), torch.from_numpy(np.concatenate(labels))


def test_number_of_new_digits_is_nearly_right_on_raw_pixels() -> None:
    def typical(num_known: int, num_new: int) -> float:
        found = []
        for seed in range(5):
            features, labels = digits_world(seed, num_known, num_new)
            estimate = estimate_num_clusters(
                ConstrainedKMeans(),
                features=features,
                labels=labels,
                max_new=10,
                generator=seeded(seed),
            )
            found.append(estimate.num_new)
        return float(np.median(found))

    assert abs(typical(7, 1) - 1) <= 1
    assert abs(typical(7, 3) - 3) <= 1
    assert abs(typical(6, 4) - 4) <= 1


def obedient(*, labels: torch.Tensor, num_clusters: int, **_: object) -> torch.Tensor:
    """Put a sample into the cluster of its label, and all without a label into the last one."""
    return torch.where(labels < 0, num_clusters - 1, labels)


@pytest.mark.parametrize(("num_known", "accuracy"), [(2, 1.0), (4, 1 / 2), (6, 1 / 3), (7, 1 / 3)])
def test_labels_of_probe_classes_are_hidden(num_known: int, accuracy: float) -> None:
    """Half of the known classes lie in one cluster, so one of them is right: labels say nothing."""
    features, classes = groups([10] * num_known + [10, 10])
    estimate = estimate_num_clusters(
        obedient,  # type: ignore[arg-type]
        features=features,
        labels=torch.where(classes < num_known, classes, -1),
        max_new=2,
        generator=seeded(),
    )
    assert estimate.accuracy == pytest.approx({1: accuracy, 2: accuracy})


@pytest.mark.parametrize("num_known", [2, 3, 6, 7])
def test_half_of_the_classes_are_hidden_and_the_others_numbered(num_known: int) -> None:
    labels = torch.cat([torch.arange(num_known).repeat(3), torch.tensor([-1, -1])])
    hidden = _hide_half(labels, num_known, seeded())
    assert (hidden[-2:] == -1).all()
    kept = labels[:-2][hidden[:-2] >= 0].unique()
    assert len(kept) == num_known - num_known // 2
    for name in kept:
        assert len(hidden[labels == name].unique()) == 1
    assert sorted({int(hidden[labels == name][0]) for name in kept}) == list(range(len(kept)))


def test_a_cluster_of_a_hundredth_of_the_largest_is_not_counted() -> None:
    assert count_large([1000, 11, 10, 0]) == 2
    assert count_large([1000, 5, 11, 10, 50], start=1) == 2


def test_equal_generators_give_equal_estimates() -> None:
    features, classes = groups([20, 10, 15, 15], spread=1.0)
    labels = torch.where(classes < 2, classes, -1)
    first, second = (
        estimate_num_clusters(
            KMeans(), features=features, labels=labels, max_new=6, generator=seeded(3)
        )
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("num_known", [0, 1])
def test_without_two_known_classes_the_silhouette_decides(num_known: int) -> None:
    features, classes = groups([20, 20, 20, 20])
    labels = torch.where(classes < num_known, classes, -1)
    estimate = estimate_num_clusters(
        ConstrainedKMeans(), features=features, labels=labels, max_new=6, generator=seeded()
    )
    assert estimate.num_new == 4 - num_known
    assert set(estimate.accuracy.values()) == {0.0}


def test_a_known_class_without_samples_is_no_new_cluster() -> None:
    features, classes = groups([20, 20, 20, 15, 15])
    labels = torch.tensor([0, 2, 5, -1, -1])[classes]
    estimate = estimate_num_clusters(
        ConstrainedKMeans(), features=features, labels=labels, max_new=6, generator=seeded()
    )
    assert estimate.num_new == 2


def test_estimate_lies_between_one_and_what_there_is() -> None:
    features, classes = groups([10, 10])

    def estimate(labels: torch.Tensor, max_new: int) -> KEstimate:
        return estimate_num_clusters(
            ConstrainedKMeans(),
            features=features,
            labels=labels,
            max_new=max_new,
            generator=seeded(),
        )

    two_free = torch.where(torch.arange(20) < 18, classes, -1)
    assert estimate(two_free, 10).num_new in (1, 2)
    assert estimate(two_free, 1).num_new == 1
    assert estimate(classes, 10) == KEstimate(0, {}, {}, {})
    with pytest.raises(ValueError, match="max_new must be at least 1; received 0"):
        estimate(classes, 0)


def test_equal_samples_have_a_defined_estimate() -> None:
    labels = torch.tensor([0] * 5 + [1] * 5 + [-1] * 10)
    estimate = estimate_num_clusters(
        ConstrainedKMeans(),
        features=torch.ones(20, 3),
        labels=labels,
        max_new=4,
        generator=seeded(),
    )
    assert estimate.num_new == 1, "no number is sharper than another: the fewest"
    assert set(estimate.scores) == {1, 2, 3, 4}
    assert all(np.isfinite(value) for value in estimate.scores.values())


@pytest.mark.parametrize(("samples", "clusters"), [(60, 2), (60, 7), (30, 29)])
def test_silhouette_equals_sklearn(samples: int, clusters: int) -> None:
    from sklearn.metrics import silhouette_score

    features = torch.randn(samples, 5, generator=seeded(), dtype=torch.float64)
    found = torch.arange(samples) % clusters
    distances = (features[:, None] - features).norm(dim=2)
    wanted = silhouette_score(distances.numpy(), found.numpy(), metric="precomputed")
    assert silhouette(distances, found) == pytest.approx(wanted, abs=1e-12)


def test_silhouette_follows_the_definition() -> None:
    features = torch.randn(15, 3, generator=seeded(4), dtype=torch.float64)
    found = torch.tensor([0] * 6 + [1] * 5 + [4] * 3 + [7])
    expected = [oracle.silhouette(features.tolist(), found.tolist(), i) for i in range(15)]
    value = silhouette(torch.cdist(features, features), found)
    assert value == pytest.approx(float(np.mean(expected)))


def test_differences_within_the_noise_do_not_count() -> None:
    sharp = {1: 0.1, 2: 0.2, 3: 0.5, 4: 0.504}
    assert middle_of_best(sharp, dict.fromkeys(sharp, 0.9)) == 3
    assert middle_of_best(sharp, dict.fromkeys(sharp, 0.9), sharpness_noise=0.0) == 4
    assert middle_of_best(sharp, {1: 0.95, 2: 0.6, 3: 0.86, 4: 0.5}) == 3
    assert middle_of_best(sharp, {1: 0.95, 2: 0.6, 3: 0.84, 4: 0.5}) == 2
