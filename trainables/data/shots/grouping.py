"""Groups of images: what is linked, directly or over others, stays together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Link = tuple[int, int]  # positions of two images that must not be parted


class Copies(NamedTuple):
    """What images of equal pixels come to, by position.

    ``kept`` are the images that count, ``copy_of`` those that do not, with the one that does;
    ``at_odds`` are images that lie under two labels, with both.
    """

    kept: list[int]
    copy_of: dict[int, int]
    at_odds: dict[int, tuple[str, str]]


def sort_copies(
    pixel_digests: Sequence[str], class_names: Sequence[str], ranks: Sequence[int]
) -> Copies:
    """Keep one of all images with the same pixels; keep none where their labels differ.

    Args:
        pixel_digests: One for each image.
        class_names: One for each image.
        ranks: Of equal images the one of the lowest rank is kept, of these the first.

    Example:
        >>> sort_copies(["a", "b", "a", "b", "c"], ["cat", "cat", "cat", "dog", "dog"], [0] * 5)
        Copies(kept=[0, 4], copy_of={2: 0}, at_odds={1: ('cat', 'dog'), 3: ('cat', 'dog')})
    """
    equal: dict[str, list[int]] = {}
    for place, digest in enumerate(pixel_digests):
        equal.setdefault(digest, []).append(place)
    kept, copy_of, at_odds = [], {}, {}
    for places in equal.values():
        labels = sorted({class_names[place] for place in places})
        if len(labels) > 1:
            at_odds.update(dict.fromkeys(places, (labels[0], labels[1])))
            continue
        first = min(places, key=lambda place: (ranks[place], place))
        kept.append(first)
        copy_of.update({place: first for place in places if place != first})
    return Copies(sorted(kept), copy_of, at_odds)


def components(count: int, links: Iterable[Link]) -> list[int]:
    """Return for each of ``count`` nodes the lowest node that it is linked to, over any others.

    Example:
        >>> components(6, [(1, 4), (4, 5), (0, 2)])
        [0, 1, 0, 3, 1, 1]
    """
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in links:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(node) for node in range(count)]


def links_of_names(names: Sequence[str]) -> list[Link]:
    """Link each image to the first one of the same name; an empty name links nothing.

    Example:
        >>> links_of_names(["a", "", "a", "", "a"])
        [(0, 2), (0, 4)]
    """
    first: dict[str, int] = {}
    pairs = ((first.setdefault(name, place), place) for place, name in enumerate(names) if name)
    return [(one, other) for one, other in pairs if one != other]
