"""Index streams: the positions of an epoch, written out, where chances per sample are not enough.

Classes without samples take no part. Everything is drawn from the generator that is handed in, so
that all workers write the same stream.
"""

from __future__ import annotations

import torch


def is_stream(drawn: torch.Tensor) -> bool:
    """Say whether a sampler gave positions (whole numbers) and not chances.

    Example:
        >>> is_stream(torch.tensor([4, 0])), is_stream(torch.tensor([0.5, 0.5]))
        (True, False)
    """
    return not drawn.is_floating_point()


def positions_by_class(labels: torch.Tensor) -> list[torch.Tensor]:
    """Return the positions of each class that occurs, by rising label.

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
    """Return ``length`` of the numbers ``0 .. count - 1``: all of them, in a new order each round.

    Example:
        >>> stream = in_rounds(3, 7, torch.Generator().manual_seed(0))
        >>> sorted(stream[:3].tolist()), sorted(stream[3:6].tolist()), len(stream)
        ([0, 1, 2], [0, 1, 2], 7)
    """
    rounds = -(-length // count)
    return torch.rand(rounds, count, generator=generator).argsort(dim=1).flatten()[:length]


def equal_stream(labels: torch.Tensor, per_class: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``per_class`` positions of every class, in random order.

    A class gives each of its samples as often as the others, up to one.

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
    """Return ``n_max * K`` positions: visits to classes in rounds, samples in rounds within each.

    Args:
        labels: ``[N]`` int64, K classes occur, the largest with n_max samples.
        per_visit: Samples that a class gives when it is visited; at most n_max, or some classes
            would not be visited at all.
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
    """Return the stream with samples of unequal weight redrawn within their class, by weight.

    What the stream decides, how often and where each class comes, stays.

    Args:
        stream: Positions ``[M]``.
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
        own = weights[positions].double()
        if bool((own == own[0]).all()):
            continue
        places = (drawn_labels == labels[positions[0]]).nonzero()[:, 0]
        cumulative = own.cumsum(0)
        chance = torch.rand(len(places), generator=generator, dtype=torch.float64) * cumulative[-1]
        found = torch.searchsorted(cumulative, chance, right=True).clamp_(max=len(own) - 1)
        redrawn[places] = positions[found]
    return redrawn
