"""Pseudo-labelers: golden vectors, a slow oracle, and one contract for all on the shelf."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.oracles import clusterers as oracle
from tests.helpers.vectors import golden, variants
from trainables.features.neighbors import neighbors
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.pseudo_labelers import PseudoLabeler
from trainables.methods.pseudo_labelers.cluster import Cluster
from trainables.methods.pseudo_labelers.knn_agreement import KNNAgreement
from trainables.methods.pseudo_labelers.oracle import Oracle

SEMI = golden("semi")
METHODS = list(variants(PseudoLabeler))
KNOWN, NEW = 3, 2


def pool(size: int = 40, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Everything the discover stage can offer a pseudo-labeler."""
    draw = torch.Generator().manual_seed(size)
    classes = torch.arange(size) % (KNOWN + NEW)
    noise = torch.randn(size, 6, generator=draw, dtype=torch.float64)
    wrong = torch.rand(size, generator=draw) < 0.2
    return {
        "assignments": torch.where(wrong, (classes + 1) % (KNOWN + NEW), classes),
        "features": (2 * torch.eye(6, dtype=torch.float64)[classes] + 0.4 * noise).to(dtype),
        "num_known": KNOWN,
        "num_clusters": KNOWN + NEW,
        "pool_labels": torch.where(torch.arange(size) % 7 == 6, -1, classes),
    }


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0, 1, 2, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_sample_gets_a_valid_label_and_a_weight(
    method: PseudoLabeler, size: int, dtype: torch.dtype
) -> None:
    labels, weights = method.call_with(pool(size, dtype=dtype))
    assert labels.shape == weights.shape == (size,)
    assert labels.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert ((labels >= 0) & (labels < KNOWN + NEW)).all()
    assert ((weights >= 0) & (weights <= 1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_order_of_samples_does_not_matter(method: PseudoLabeler) -> None:
    given = pool(dtype=torch.float64)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = {k: v[order] if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    labels, weights = method.call_with(given)
    moved_labels, moved_weights = method.call_with(shuffled)
    assert torch.equal(moved_labels, labels[order])
    torch.testing.assert_close(moved_weights, weights[order])


@pytest.mark.parametrize("method", METHODS)
def test_renaming_new_clusters_renames_labels(method: PseudoLabeler) -> None:
    given = pool(dtype=torch.float64)
    names = torch.tensor([0, 1, 2, 4, 3, -1])
    renamed = given | {k: names[given[k]] for k in ("assignments", "pool_labels")}
    labels, weights = method.call_with(given)
    other_labels, other_weights = method.call_with(renamed)
    assert torch.equal(other_labels, names[labels])
    torch.testing.assert_close(other_weights, weights)


@pytest.mark.parametrize("method", METHODS)
def test_only_an_oracle_asks_for_the_truth(method: PseudoLabeler) -> None:
    assert ("pool_labels" in method.required_inputs()) == method.oracle


@pytest.mark.parametrize("method", METHODS)
def test_inputs_are_left_as_they_are(method: PseudoLabeler) -> None:
    given = pool()
    kept = given["assignments"].clone()
    labels, _ = method.call_with(given)
    labels += 1
    assert torch.equal(given["assignments"], kept)


@pytest.mark.parametrize("method", METHODS)
def test_survives_a_round_trip_through_json(method: PseudoLabeler) -> None:
    assert PseudoLabeler.parse(method.dump()) == method


# --- golden vectors and oracles -----------------------------------------------------------------


def test_agreement_matches_spice() -> None:
    case = "spice_reliable_samples"
    given, hyper = SEMI.inputs(case), SEMI.cases[case]["hyperparameters"]
    found = given["scores"].argmax(dim=1)
    near = neighbors(given["features"], num_neighbors=hyper["num_neighbor"], with_self=True)
    same = (found[near] == found[:, None]).sum(dim=1)
    assert torch.equal(same, SEMI.output(case, "n_same_label_in_topk"))
    method = KNNAgreement(
        num_neighbors=hyper["num_neighbor"], threshold=hyper["ratio_confident"], variant="official"
    )
    labels, weights = method(assignments=found, features=given["features"], num_known=0)
    assert torch.equal(labels, found)
    assert torch.equal(weights.bool(), SEMI.output(case, "consistent"))


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize(("num_neighbors", "threshold"), [(4, 0.5), (5, 0.6), (7, 0.7), (60, 0.1)])
def test_agreement_follows_the_definition(
    variant: str, num_neighbors: int, threshold: float
) -> None:
    given = pool(dtype=torch.float64)
    with_self = variant == "official"
    counts = oracle.agreement(
        given["features"].tolist(),
        given["assignments"].tolist(),
        num_neighbors,
        with_self=with_self,
    )
    k = min(num_neighbors, 40 if with_self else 39)
    kept = [c >= k * threshold if with_self else c > k * threshold for c in counts]
    method = KNNAgreement(num_neighbors=num_neighbors, threshold=threshold, variant=variant)
    _, weights = method.call_with(given)
    assert weights.tolist() == [float(keep) for keep in kept]
    assert sum(kept) > 0


# --- properties ---------------------------------------------------------------------------------


def test_agreement_drops_labels_that_contradict_their_neighbors() -> None:
    given = pool(200)
    classes = torch.arange(200) % (KNOWN + NEW)
    wrong = given["assignments"] != classes
    _, weights = KNNAgreement(num_neighbors=10, threshold=0.5).call_with(given)
    assert weights[wrong].mean() < 0.05
    assert weights[~wrong].mean() > 0.9


def test_a_higher_threshold_keeps_no_more() -> None:
    given = pool(200)
    kept = [
        KNNAgreement(num_neighbors=10, threshold=t).call_with(given)[1].sum()
        for t in (0.3, 0.6, 0.9)
    ]
    assert kept[0] >= kept[1] >= kept[2]
    assert kept[0] > kept[2]


def test_threshold_itself_is_enough_officially_and_not_in_the_paper() -> None:
    # four equal samples and one that differs in its cluster: three of four neighbors agree
    given = {
        "assignments": torch.tensor([0, 0, 0, 0, 1]),
        "features": torch.ones(5, 2),
        "num_known": 1,
    }
    paper = KNNAgreement(num_neighbors=4, threshold=0.75)
    official = KNNAgreement(num_neighbors=5, threshold=0.8, variant="official")
    assert paper.call_with(given)[1].tolist() == [0] * 5
    assert official.call_with(given)[1].tolist() == [1] * 4 + [0]


def test_a_lone_sample_is_dropped_by_the_paper_and_kept_officially() -> None:
    given = pool(1)
    assert KNNAgreement().call_with(given)[1].tolist() == [0]
    assert KNNAgreement(variant="official").call_with(given)[1].tolist() == [1]


def test_distance_weight_is_one_at_the_center_and_zero_at_the_border() -> None:
    features = torch.tensor([[-1.0], [0.0], [1.0], [7.0], [8.0], [9.0], [4.0], [-4.0]])
    found = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    _, weights = Cluster(weighting="distance")(assignments=found, features=features, num_known=1)
    # centers 0, 8 and 0: the last cluster shares its center with the first
    assert weights.tolist() == pytest.approx([0, 0, 0, 6 / 7, 1, 8 / 9, 0, 0])


def test_distance_weight_of_a_single_cluster_is_one() -> None:
    given = pool() | {"assignments": torch.full((40,), 4)}
    assert (Cluster(weighting="distance").call_with(given)[1] == 1).all()


def test_oracle_tells_the_truth_and_leaves_out_the_unrelated() -> None:
    given = pool()
    labels, weights = Oracle().call_with(given)
    related = given["pool_labels"] >= 0
    assert torch.equal(labels[related], given["pool_labels"][related])
    assert torch.equal(weights.bool(), related)


def test_oracle_refuses_truth_of_another_pool() -> None:
    with pytest.raises(ValueError, match=r"pseudo_labelers/oracle: .*received \[3\] for \[2\]"):
        Oracle()(
            assignments=torch.zeros(2, dtype=torch.int64),
            pool_labels=torch.zeros(3, dtype=torch.int64),
        )
