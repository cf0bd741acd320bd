"""Discovery by values: what the clusterer is told, the quality of clusters, and their numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.artifacts import (
    Features,
    LabelledView,
    OutOfFold,
    PoolLabels,
    PoolSelection,
    PseudoLabels,
    StreamFeatures,
)
from trainables.context import Context
from trainables.experiment import Discover
from trainables.stages import discover

# two known classes to the left and right, one new class above
LEFT, RIGHT, ABOVE = [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]
NOTHING = OutOfFold(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0).long())


def view(labels: list[int], name: str) -> LabelledView:
    images = np.zeros((len(labels), 2, 2, 3), dtype=np.uint8)
    return LabelledView(images, np.arange(len(labels)), np.array(labels), 2, name)


def found(
    validation: list[list[float]], labels: list[int], *, num_new_clusters: int | None = 1
) -> PseudoLabels:
    """Discover the new class in a pool of which the third sample was not selected."""
    pool = torch.tensor([ABOVE, ABOVE, LEFT, RIGHT, ABOVE])
    features = Features(
        known_train=torch.tensor([LEFT, LEFT, LEFT, RIGHT, RIGHT]),
        validation_known=torch.tensor(validation),
    )
    chosen = {"num_new_clusters": num_new_clusters, "pseudo_labeler": "cluster"}
    return discover.run(
        Discover.model_validate(chosen),
        features=features,
        stream_features=StreamFeatures(pool[:0], pool),
        known_train=view([0, 0, 0, 1, 1], "train"),
        validation_known=view(labels, "validation"),
        pool_selection=PoolSelection(torch.tensor([0, 1, 3, 4])),
        out_of_fold=NOTHING,
        context=Context(),
    ).pseudo_labels


def test_labels_of_validation_samples_are_hidden_from_the_clusterer() -> None:
    """One of four lies among the other class: with its label it would be assigned rightly."""
    quality = found([LEFT, LEFT, RIGHT, RIGHT], [0, 1, 1, 1]).quality
    assert quality["clustering_accuracy"] == 0.75
    assert quality["num_labelled"] == 4
    assert found([LEFT, LEFT, RIGHT, RIGHT], [0, 0, 1, 1]).quality["clustering_accuracy"] == 1.0


@pytest.mark.parametrize("num_new_clusters", [1, None])
def test_selected_samples_get_the_class_of_their_cluster(num_new_clusters: int | None) -> None:
    pseudo = found([LEFT, RIGHT], [0, 1], num_new_clusters=num_new_clusters)
    assert pseudo.positions.tolist() == [0, 1, 3, 4]
    assert pseudo.labels.tolist() == [2, 2, 1, 2]
    assert pseudo.num_new_clusters == 1
    assert (pseudo.weights > 0).all()


def test_clusters_without_a_sample_that_counts_are_dropped_and_the_others_renumbered() -> None:
    labels = torch.tensor([2, 3, 4, 4, 0, -1, 5])
    weights = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.0])
    renumbered, kept, number = discover._drop_empty(labels, weights, 2, 4)
    assert number == 2
    assert renumbered.tolist() == [2, -1, 3, 3, 0, -1, -1]
    assert kept.tolist() == [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(("asked", "most"), [(1, 1), (4, 4), (9, 4)])
def test_there_are_at_most_as_many_new_clusters_as_samples(asked: int, most: int) -> None:
    chosen = Discover.model_validate({"num_new_clusters": asked})
    none = torch.zeros(0)
    assert discover._num_new(chosen, none, none, 4, Context()) == most


@pytest.mark.parametrize(("allowed", "number"), [(1, 1), (2, 2), (8, 4)])
def test_the_estimate_is_bounded_by_setting_and_samples(allowed: int, number: int) -> None:
    """Two known classes and four samples of four new ones, all orthogonal."""
    rows = torch.eye(6)[[0, 0, 0, 1, 1, 1, 2, 3, 4, 5]]
    labels = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1, -1, -1])
    chosen = Discover.model_validate({"max_new_clusters": allowed})
    tried: list[int] = []

    def told(*, labels: torch.Tensor, num_clusters: int, **more: object) -> torch.Tensor:
        tried.append(num_clusters)
        return chosen.clusterer(labels=labels, num_clusters=num_clusters, **more)

    watching = chosen.model_copy(update={"clusterer": told})
    assert 1 <= discover._num_new(watching, rows, labels, 4, Context()) <= number
    assert max(tried) == 2 + number


def test_an_upper_bound_takes_the_labels_of_the_selected_samples_and_is_marked() -> None:
    pool = torch.tensor([ABOVE, ABOVE, LEFT, RIGHT, ABOVE])
    truth = PoolLabels(np.array([3, 2, 0, 1, 2]), 2, 2, "truth")
    pseudo = discover.run(
        Discover.model_validate({"pseudo_labeler": "oracle", "num_new_clusters": 1}),
        features=Features(torch.tensor([LEFT, RIGHT]), torch.tensor([LEFT])),
        stream_features=StreamFeatures(pool[:0], pool),
        known_train=view([0, 1], "train"),
        validation_known=view([0], "validation"),
        pool_selection=PoolSelection(torch.tensor([0, 3, 4])),
        pool_labels=truth,
        out_of_fold=NOTHING,
        context=Context(),
    ).pseudo_labels
    assert pseudo.labels.tolist() == [3, 1, 2]
    assert pseudo.num_new_clusters == 2
    assert pseudo.oracle
    assert not found([LEFT], [0]).oracle


def test_without_validation_a_fifth_of_the_training_images_hides_its_labels_in_whole_groups() -> (
    None
):
    labels = [0] * 20 + [1] * 10 + [2] * 2
    train = torch.tensor([LEFT] * 20 + [RIGHT] * 10 + [[0.0, -1.0]] * 2)
    groups = torch.arange(32) // 2  # the last class is one group
    pool = torch.tensor([ABOVE, ABOVE])
    shown = view(labels, "train")._replace(num_classes=3)

    def quality(labels: list[int]) -> dict[str, float]:
        return discover.run(
            Discover.model_validate({"num_new_clusters": 1, "pseudo_labeler": "cluster"}),
            features=Features(train, train[:0]),
            stream_features=StreamFeatures(pool[:0], pool),
            known_train=shown._replace(labels=np.array(labels)),
            validation_known=view([], "validation"),
            pool_selection=PoolSelection(torch.tensor([0, 1])),
            out_of_fold=OutOfFold(torch.zeros(32, 3), torch.zeros(32), groups),
            context=Context(),
        ).pseudo_labels.quality

    found = quality(labels)
    assert found["num_labelled"] == 6  # three of fifteen groups; the last class keeps its labels
    assert found["clustering_accuracy"] == 1.0
