"""Index streams: what weights change in them, and what they leave."""

from __future__ import annotations

import torch

from trainables.functional.index_sampling import reweighted_stream


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_equal_weights_within_classes_leave_a_stream_as_it_is() -> None:
    labels = torch.tensor([0, 0, 1, 1, 3])
    stream = torch.tensor([4, 1, 2, 3, 0, 0])
    weights = torch.tensor([0.2, 0.2, 0.9, 0.9, 0.1])
    assert torch.equal(reweighted_stream(stream, labels, weights, seeded()), stream)


def test_weights_move_draws_within_their_class_only() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    weights = torch.tensor([1.0, 2.0, 5.0, 1.0, 1.0])
    stream = torch.tensor([0, 3, 1, 4]).repeat(20_000)
    found = reweighted_stream(stream, labels, weights, seeded())
    assert torch.equal(labels[found], labels[stream])
    assert torch.equal(found[labels[stream] == 1], stream[labels[stream] == 1])
    shares = found[labels[found] == 0].bincount(minlength=3) / 40_000
    wanted = weights[:3] / 8
    # four standard errors of a frequency
    assert ((shares[:3] - wanted).abs() <= 4 * (wanted * (1 - wanted) / 40_000).sqrt()).all()
