"""Clusters of unknown images where it is known which images belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from orchestrator.fitting.figures.loose_clusters import (
    FILE,
    alikeness,
    clusters_alike,
    keep_known,
    kept_known,
)
from trainables.closed_form.statistics import Samples, samples
from trainables.methods.clusterers import Clusterer
from trainables.rehearsal.finding import Finding

WIDTH = 24
FINDING = Finding(Clusterer.parse("constrained_kmeans"), max_new=6)


def around(direction: int, number: int, *, spread: float = 0.3, seed: int = 0) -> Tensor:
    """Return images around 5 times a unit vector."""
    generator = torch.Generator().manual_seed(100 * direction + seed)
    return 5 * torch.eye(WIDTH)[direction] + spread * torch.randn(
        number, WIDTH, generator=generator
    )


def known(*spreads: float) -> Samples:
    """Return a class of 20 images for each spread."""
    each = [around(number, 20, spread=spread) for number, spread in enumerate(spreads)]
    return samples(torch.cat(each), torch.arange(len(each)).repeat_interleave(20))


def test_two_kinds_of_images_are_two_clusters() -> None:
    order = torch.randperm(23, generator=torch.Generator().manual_seed(7))
    pool = torch.cat([around(9, 14), around(10, 9)])[order]
    truth = order < 14
    found = clusters_alike(FINDING, known(0.3, 0.3, 0.3, 0.3), pool)
    assert [set(rows) for rows in found] == [
        set(torch.nonzero(truth).flatten().tolist()),
        set(torch.nonzero(~truth).flatten().tolist()),
    ]
    assert clusters_alike(FINDING, known(0.3, 0.3, 0.3, 0.3), pool) == found


def test_images_that_have_nothing_in_common_are_none() -> None:
    scattered = 5 * torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(3))
    assert clusters_alike(FINDING, known(0.3, 0.3, 0.3, 0.3), scattered) == []


def test_a_cluster_has_five_images_or_more() -> None:
    for number, sizes in ((0, []), (1, []), (4, []), (5, [5])):
        found = clusters_alike(FINDING, known(0.3, 0.3, 0.3, 0.3), around(9, number, spread=0.1))
        assert [len(rows) for rows in found] == sizes


def test_what_looks_like_a_known_class_is_no_cluster() -> None:
    pool = torch.cat([around(9, 14), around(1, 10, seed=1)])
    (found,) = clusters_alike(FINDING, known(0.3, 0.3, 0.3, 0.3), pool)
    assert sorted(found) == list(range(14))


def test_known_classes_say_what_is_alike() -> None:
    """Of classes at right angles half of what images of one have in common is enough."""
    pool = around(9, 20, spread=1.3)
    assert 0.3 < alikeness(pool) < 0.45
    assert clusters_alike(FINDING, known(0.3, 0.3, 0.3, 0.3), pool) == []
    (found,) = clusters_alike(FINDING, known(1.0, 1.0, 1.0, 0.3), pool)  # half of about .5
    assert len(found) > 15


def test_images_of_different_classes_are_no_measure_of_what_is_alike() -> None:
    """A direction that all images share does not make them alike."""
    shared = 20 * torch.eye(WIDTH)[23]
    classes = known(0.3, 0.3, 0.3, 0.3)
    classes = classes._replace(features=classes.features + shared)
    scattered = 5 * torch.nn.functional.normalize(
        torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(4)), dim=1
    )
    assert alikeness(scattered + shared) > 0.9
    assert clusters_alike(FINDING, classes, scattered + shared) == []
    (found,) = clusters_alike(FINDING, classes, around(9, 14) + shared)
    assert len(found) == 14


def test_a_catch_all_is_no_measure() -> None:
    scattered = 5 * torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(4))
    classes = known(0.3, 0.3, 0.3, 0.3)
    labels = torch.cat([classes.labels, torch.full((20,), 4)])
    both = samples(torch.cat([classes.features, scattered]), labels)
    assert clusters_alike(FINDING, both, around(9, 20, spread=1.3)) == []


def test_without_a_class_of_two_images_nothing_is_told() -> None:
    single = samples(torch.eye(WIDTH)[:4], torch.arange(4))
    assert clusters_alike(FINDING, single, around(9, 14)) == []


def test_the_most_typical_image_comes_first() -> None:
    pool = around(9, 12, spread=0.2)
    pool[3] = 5 * torch.eye(WIDTH)[9]
    pool[7] += 1.5 * torch.eye(WIDTH)[20]
    (found,) = clusters_alike(FINDING, known(0.3, 0.3, 0.3, 0.3), pool)
    assert (found[0], found[-1]) == (3, 7)


def test_alikeness_is_the_mean_cosine_of_pairs() -> None:
    features = around(2, 6, spread=2.0).double()
    unit = features / features.norm(dim=1, keepdim=True)
    pairs = [float(unit[i] @ unit[j]) for i in range(6) for j in range(i)]
    assert alikeness(features.float()) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert alikeness(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == 0.0  # an image without features


def test_some_known_images_of_each_class_are_kept(tmp_path: Path) -> None:
    labels = torch.tensor([0] * 120 + [1] * 7 + [3])  # none of class 2
    features = torch.arange(128.0)[:, None].repeat(1, 3)
    keep_known(features, labels, tmp_path)
    found = kept_known(tmp_path)
    assert found is not None
    assert found.labels.bincount().tolist() == [50, 7, 0, 1]
    rows = found.features[:, 0].long()
    assert torch.equal(labels[rows], found.labels)
    assert len(set(rows.tolist())) == 58
    keep_known(features, labels, tmp_path, most=9)
    few = kept_known(tmp_path)
    assert few is not None
    assert few.labels.bincount().tolist() == [3, 3, 0, 1]
    keep_known(features, labels, tmp_path, most=1)
    one = kept_known(tmp_path)
    assert one is not None
    assert one.labels.tolist() == [0, 1, 3]


def test_what_was_not_kept_or_is_damaged_is_none(tmp_path: Path) -> None:
    assert kept_known(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"no tensors")
    assert kept_known(tmp_path) is None
