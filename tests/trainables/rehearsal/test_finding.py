"""A new class in the pool: found as one cluster, or not, where the answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables.closed_form.statistics import Samples, samples
from trainables.methods.clusterers import Clusterer
from trainables.rehearsal import finding
from trainables.rehearsal.finding import Finding, Stream, found_by_size

WIDTH = 16
FINDING = Finding(Clusterer.parse("constrained_kmeans"), sizes=(10, 30), max_new=4)


def known() -> Samples:
    """Return three tight known classes, of which a tenth lies anywhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(60)
    features = 5 * torch.eye(WIDTH)[labels] + 0.2 * torch.randn(180, WIDTH, generator=generator)
    features[::10] = 3 * torch.randn(18, WIDTH, generator=generator)
    return samples(features, labels)


def stream(new: torch.Tensor, noticed: torch.Tensor) -> Stream:
    train = known()
    alarms = torch.arange(180) % 10 == 0
    return Stream(train, torch.full((180,), 1 / 180, dtype=torch.float64), alarms, new, noticed)


def tight(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 5 * torch.eye(WIDTH)[7] + 0.2 * torch.randn(number, WIDTH, generator=generator)


def find(given: Stream, finding: Finding = FINDING) -> dict[int, bool | None]:
    generator = torch.Generator().manual_seed(2)
    return found_by_size(finding, given, level=0.05, generator=generator)


def test_a_tight_class_that_is_noticed_is_found() -> None:
    assert find(stream(tight(30), torch.ones(30).bool())) == {10: True, 30: True}


def test_a_class_that_is_scattered_is_not() -> None:
    scattered = 5 * torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(3))
    assert find(stream(scattered, torch.ones(30).bool()))[30] is False


def test_what_is_not_noticed_is_not_in_the_pool() -> None:
    few = torch.arange(30) < 13  # of 30, .43
    assert find(stream(tight(30), few))[30] is False
    assert find(stream(tight(30), torch.zeros(30).bool())) == {10: False, 30: False}


def test_what_no_cluster_can_hold_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[int] = []
    clusters = finding.clusters_of_pool

    def counted(how, given, pool, generator):
        pools.append(len(pool))
        return clusters(how, given, pool, generator)

    monkeypatch.setattr(finding, "clusters_of_pool", counted)
    assert find(stream(tight(30), torch.arange(30) < 14), FINDING._replace(sizes=(30,))) == {
        30: False
    }
    assert pools == []  # 14 are below half of 30
    find(stream(tight(30), torch.arange(30) < 15), FINDING._replace(sizes=(30,)))
    assert pools == [15 + 14]


def test_two_tight_halves_are_no_one_cluster_of_most() -> None:
    both = tight(30)
    both[::2] -= 10 * torch.eye(WIDTH)[7]
    both[:14] = tight(30)[:14]  # 22 here, 8 there
    noticed = torch.ones(30).bool()
    assert find(stream(both, noticed))[30] is True
    both[:14:2] -= 10 * torch.eye(WIDTH)[7]  # 15 and 15
    noticed[1] = False
    noticed[0] = False  # 14 and 14, of 30 that came
    assert find(stream(both, noticed))[30] is False


@pytest.mark.parametrize(
    ("prevalence", "tried"),
    [(0.1, {10: True, 30: True}), (0.05, {10: True, 30: None}), (0.02, {10: None, 30: None})],
)
def test_a_pool_needs_the_false_alarms_of_its_stream(
    prevalence: float, tried: dict[int, bool | None]
) -> None:
    # 18 are there; 5 % of 90 and 270 are 4 and 14, of 190 and 570 10 and 28, of 490 24
    rarer = FINDING._replace(prevalence=prevalence)
    assert find(stream(tight(30), torch.ones(30).bool()), rarer) == tried


def test_a_class_with_fewer_images_cannot_be_tried() -> None:
    assert find(stream(tight(29), torch.ones(29).bool())) == {10: True, 30: None}


def test_false_alarms_that_flood_the_cluster_hide_the_class() -> None:
    given = stream(tight(30), torch.ones(30).bool())
    features = given.known.features.clone()
    features[::10] = tight(18)  # all false alarms look like the class
    flooded = given._replace(known=given.known._replace(features=features))
    assert find(flooded, FINDING)[30] is False  # 30 of 44 is below .8


def test_images_that_join_a_known_class_are_no_cluster_of_their_own() -> None:
    generator = torch.Generator().manual_seed(4)
    like_the_first = 5 * torch.eye(WIDTH)[0] + 0.2 * torch.randn(30, WIDTH, generator=generator)
    one = FINDING._replace(max_new=1)
    assert find(stream(like_the_first, torch.ones(30).bool()), one)[30] is False


@pytest.mark.parametrize(("most", "kept"), [(5_000, [50, 50, 50]), (60, [20] * 3), (2, [1] * 3)])
def test_known_images_beside_a_pool_are_limited(
    most: int, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    estimate = finding.estimate_num_clusters

    def noted(*args: Any, labels: torch.Tensor, **settings: Any) -> Any:
        seen.append(labels)
        return estimate(*args, labels=labels, **settings)

    monkeypatch.setattr(finding, "estimate_num_clusters", noted)
    monkeypatch.setattr(finding, "MOST_KNOWN", most)
    generator = torch.Generator().manual_seed(0)
    clusters = finding.clusters_of_pool(FINDING, known(), tight(30), generator)
    ((labels,),) = [seen]
    assert torch.bincount(labels[labels >= 0]).tolist() == kept
    assert len(clusters) == int((labels < 0).sum()) == 30
