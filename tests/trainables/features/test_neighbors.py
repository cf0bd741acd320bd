"""Neighbors are searched for once per feature set."""

from __future__ import annotations

import pytest
import torch

from trainables.features.neighbors import MOST_SETS, nearest_cosines, neighbors, searches
from trainables.methods.scores.knn import KNN


def features(seed: int, count: int = 60) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def units(seed: int, count: int = 60) -> torch.Tensor:
    return torch.nn.functional.normalize(features(seed, count).double(), dim=1)


def test_scores_with_other_k_on_the_same_features_search_once() -> None:
    bank, rows = features(1), features(2, 20)
    before = searches()
    answers = {}
    for k in (5, 50, 1):
        score = KNN(k=k)
        answers[k] = score(features=rows, state=score.fit(features=bank))
    assert searches() == before + 1
    cosine = torch.nn.functional.normalize(rows, dim=1).double() @ units(1).float().double().T
    for k, answer in answers.items():
        kth = cosine.sort(dim=1, descending=True).values[:, k - 1]
        torch.testing.assert_close(answer, -(2 - 2 * kth).sqrt().float(), atol=1e-6, rtol=1e-5)


def test_equal_numbers_in_another_tensor_are_the_same_feature_set() -> None:
    rows, bank = units(3), units(4)
    first = nearest_cosines(rows, bank, num_neighbors=3, block=16)
    before = searches()
    assert torch.equal(nearest_cosines(rows.clone(), bank, num_neighbors=3, block=7), first)
    assert searches() == before


@pytest.mark.parametrize("change", ["rows", "bank"])
def test_other_numbers_are_searched_for(change: str) -> None:
    rows, bank = units(5), units(6)
    nearest_cosines(rows, bank, num_neighbors=3, block=16)
    other = {"rows": rows, "bank": bank}
    other[change] = other[change].flip(1)
    before = searches()
    found = nearest_cosines(**other, num_neighbors=3, block=16)
    assert searches() == before + 1
    expected = (other["rows"] @ other["bank"].T).sort(dim=1, descending=True).values[:, :3]
    torch.testing.assert_close(found, expected)


def test_more_neighbors_than_were_kept_are_searched_for() -> None:
    rows, bank = units(7, 10), units(8, 300)
    nearest_cosines(rows, bank, num_neighbors=3, block=16)
    found = nearest_cosines(rows, bank, num_neighbors=250, block=16)
    expected = (rows @ bank.T).sort(dim=1, descending=True).values[:, :250]
    torch.testing.assert_close(found, expected)


def test_what_was_not_asked_for_longest_is_forgotten() -> None:
    bank = units(9)
    nearest_cosines(units(10), bank, num_neighbors=1, block=16)
    for seed in range(11, 11 + MOST_SETS):
        nearest_cosines(units(seed), bank, num_neighbors=1, block=16)
    before = searches()
    nearest_cosines(units(10), bank, num_neighbors=1, block=16)
    assert searches() == before + 1


@pytest.mark.parametrize("with_self", [True, False])
def test_positions_are_searched_for_once(with_self: bool) -> None:
    given = features(30)
    first = neighbors(given, num_neighbors=4, with_self=with_self)
    before = searches()
    assert torch.equal(neighbors(given.clone(), num_neighbors=4, with_self=with_self), first)
    assert searches() == before
    cosine = torch.nn.functional.normalize(given, dim=1) @ torch.nn.functional.normalize(given).T
    if not with_self:
        cosine.fill_diagonal_(-2)
    assert torch.equal(first, cosine.topk(4, dim=1).indices)
