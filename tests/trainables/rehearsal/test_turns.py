"""Who plays new: each class once, alone or in folds, and once more with its look-alikes."""

from __future__ import annotations

import torch

from trainables.rehearsal.turns import turns, turns_with_neighbors


def test_up_to_the_limit_each_class_plays_alone() -> None:
    casts = turns(list(range(100)), generator=torch.Generator())
    assert [cast.new for cast in casts] == [(label,) for label in range(100)]


def test_above_it_folds_hold_each_class_once() -> None:
    playing = list(range(0, 460, 2))
    casts = turns(playing, generator=torch.Generator().manual_seed(3))
    assert len(casts) == 100
    assert sorted(label for cast in casts for label in cast.new) == playing
    assert {len(cast.new) for cast in casts} == {2, 3}
    assert all(cast.asked == cast.new for cast in casts)
    again = turns(playing, generator=torch.Generator().manual_seed(3))
    assert casts == again != turns(playing, generator=torch.Generator().manual_seed(4))


def test_neighbors_are_those_of_nearest_class_means() -> None:
    angles = torch.tensor([0.0, 0.2, 1.5, 1.7, 3.1, 3.3])  # three pairs on a circle
    centers = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.arange(6).repeat_interleave(3)
    features = centers[labels] + 0.01 * torch.randn(18, 2, generator=torch.Generator())
    casts = turns_with_neighbors([0, 1, 2, 3, 4, 5], features, labels, number=1)
    assert [cast.new for cast in casts] == [(0, 1), (0, 1), (2, 3), (2, 3), (4, 5), (4, 5)]
    assert [cast.asked for cast in casts] == [(label,) for label in range(6)]


def test_two_classes_stay_known() -> None:
    labels = torch.arange(4)
    casts = turns_with_neighbors([0, 1], torch.eye(4), labels, number=9)
    assert [len(cast.new) for cast in casts] == [2, 2]
