"""Sampling that returns an epoch's indices instead of per-sample probabilities.

Classes without samples are never drawn. All draws come from the given generator, so that all
workers compute the same indices.
"""

from __future__ import annotations

import torch


def is_stream(drawn: torch.Tensor) -> bool:
    """Say whether a sampler returned indices (integers), not probabilities.

    Example:
        >>> is_stream(torch.tensor([4, 0])), is_stream(torch.tensor([0.5, 0.5]))
        (True, False)
    """
    return not drawn.is_floating_point()


def positions_by_class(labels: torch.Tensor) -> list[torch.Tensor]:
    """Return the indices of each class that occurs, in ascending label order.

    Raises:
        ValueError: There are no labels.

    Example:
        >>> [positions.tolist() for positions in positions_by_class(torch.tensor([7, 0, 7]))]
        [[1], [0, 2]]
    """
    if not labels.numel():
        raise ValueError("a sampler needs at least one label; received none")
    counts = torch.bincount(labels)
    return list(labels.argsort(stable=True).split(counts[counts > 0].tolist()))


def in_rounds(count: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``length`` integers: consecutive random permutations of ``0 .. count - 1``.

    Example:
        >>> stream = in_rounds(3, 7, torch.Generator().manual_seed(0))
        >>> sorted(stream[:3].tolist()), sorted(stream[3:6].tolist()), len(stream)
        ([0, 1, 2], [0, 1, 2], 7)
    """
    rounds = -(-length // count)
    return torch.rand(rounds, count, generator=generator).argsort(dim=1).flatten()[:length]


def equal_stream(labels: torch.Tensor, per_class: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``per_class`` indices of every class, in random order.

    Within a class, the numbers of times that two samples occur differ by at most one.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> stream = equal_stream(labels, 2, torch.Generator().manual_seed(0))
        >>> labels[stream].bincount().tolist()
        [2, 2]
    """
    parts = [
        positions[in_rounds(len(positions), per_class, generator)]
        for positions in positions_by_class(labels)
    ]
    stream = torch.cat(parts)
    return stream[torch.randperm(len(stream), generator=generator)]


def class_aware_stream(
    labels: torch.Tensor, per_visit: int, generator: torch.Generator
) -> torch.Tensor:
    """Return ``n_max * K`` indices of class-aware sampling.

    Classes are visited in random permutations; each visit takes the next samples of a random
    permutation of the class.

    Args:
        labels: ``[N]`` int64; K classes occur, the largest with n_max samples.
        per_visit: Consecutive samples of a class in one visit; cut to n_max, because larger values
            would leave classes without a visit.
        generator: CPU generator.
    """
    members = positions_by_class(labels)
    largest = max(map(len, members))
    length, per_visit = len(members) * largest, min(per_visit, largest)
    visits = in_rounds(len(members), -(-length // per_visit), generator)
    classes = visits.repeat_interleave(per_visit)[:length]
    turns = classes.bincount(minlength=len(members)).tolist()
    stream = torch.empty(length, dtype=torch.int64)
    places = classes.argsort(stable=True).split(turns)
    for positions, place in zip(members, places, strict=True):
        stream[place] = positions[in_rounds(len(positions), len(place), generator)]
    return stream


def reweighted_stream(
    stream: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Redraw the indices of each class by sample weight, where its weights differ.

    The class at each position of the stream stays the same.

    Args:
        stream: Indices ``[M]``.
        labels: ``[N]`` int64.
        weights: Weight of each sample ``[N]``, positive.
        generator: CPU generator.

    Example:
        >>> labels, weights = torch.tensor([0, 0, 1]), torch.tensor([1.0, 1e-9, 5.0])
        >>> stream = torch.tensor([1, 2, 1])
        >>> reweighted_stream(stream, labels, weights, torch.Generator().manual_seed(0)).tolist()
        [0, 2, 0]
    """
    redrawn, drawn_labels = stream.clone(), labels[stream]
    for positions in positions_by_class(labels):
        sample_weights = weights[positions].double()
        if bool((sample_weights == sample_weights[0]).all()):
            continue
        places = (drawn_labels == labels[positions[0]]).nonzero()[:, 0]
        cumulative = sample_weights.cumsum(0)
        draws = torch.rand(len(places), generator=generator, dtype=torch.float64) * cumulative[-1]
        chosen = torch.searchsorted(cumulative, draws, right=True).clamp_(
            max=len(sample_weights) - 1
        )
        redrawn[places] = positions[chosen]
    return redrawn
