"""Parts of images: decided once for each group, by a hash of its name, and then written down.

What a folder's own ``test/`` and ``val/`` or the ledger say comes first. A new image that is
linked to images of one part joins it; where it links two parts, it joins neither. A group that the
folder's own parts cut stays in the test, else in the validation: its other images leave, also those
that are linked to it over others alone. What is left are new groups: ``u = SHA-256("seed/name") /
2^256`` puts a group into the test where ``u < 0.2``. A class of fewer than 25 images or 5 groups,
the folder's own ``val/`` not counted, gives no group to the test; a larger one with fewer than 2
test groups gives its new groups of the lowest ``u``, and keeps those of the highest ``u`` where
fewer than 3 groups would train. A group of more than half of a class trains.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from trainables.data.shots.grouping import Link, components, links_of_names
from trainables.data.shots.ledger import Part

TEST_SHARE = 0.2
LEAST_IMAGES, LEAST_GROUPS, LEAST_TEST_GROUPS = 25, 5, 2
LEAST_TRAIN_GROUPS = LEAST_GROUPS - LEAST_TEST_GROUPS  # of a class that gives some to the test
RANK = {"test": 0, "val": 1, "train": 2}  # an image keeps none of a higher rank beside it


class Node(NamedTuple):
    """An image as the cut sees it.

    Attributes:
        name: What a new group of it is called: a digest of its content.
        class_name: Its class; empty for an image that is gone and only says where a part was.
        own: The part that the folder puts it into; empty where it has no such parts.
        written: The part that the ledger says; empty for an image that it does not know.
        written_group: The group that the ledger says.
        group: The group that the user says; empty without.
    """

    name: str
    class_name: str
    own: Part | Literal[""] = ""
    written: Part | Literal[""] = ""
    written_group: str = ""
    group: str = ""

    @property
    def named(self) -> str:
        """What the image's group is called already; empty: nothing yet."""
        return self.group or self.written_group


class Cut(NamedTuple):
    """Part and group of each image.

    Images without a part are in one of the others: ``linking`` has the parts that an image would
    link, ``beside`` the position of an image of another part that it is linked to.
    """

    parts: list[Part | Literal[""]]
    groups: list[str]
    linking: dict[int, tuple[str, ...]]
    beside: dict[int, int]


def cut(nodes: Sequence[Node], links: Sequence[Link], *, own_test: bool, seed: int) -> Cut:
    """Return part and group of each image.

    Args:
        nodes: The images.
        links: Pairs of images that must not be parted: copies and bursts. Those of two images that
            are written were judged when the later one was new, and are not judged again.
        own_test: The folder has a test part of its own.
        seed: Groups are hashed with it.
    """
    links = [pair for pair in links if not all(nodes[place].written for place in pair)]
    links += links_of_names([node.named for node in nodes])
    parts = [_given(node, own_test) for node in nodes]
    of_validation = [
        {"val": 0, "train": 1}.get(node.own) if part != "test" else None
        for node, part in zip(nodes, parts, strict=True)
    ]
    beside = _beside(nodes, links, of_validation)
    new = [n for n, part in enumerate(parts) if not part and n not in beside]
    linking: dict[int, tuple[str, ...]] = {}
    for members, near in _new_groups(new, links, parts):
        if len(near) > 1:
            linking.update(dict.fromkeys(members, tuple(sorted(near))))
        for member in members if len(near) == 1 else ():
            parts[member] = next(iter(near))
    out = {*beside, *linking}
    groups = _groups(nodes, [pair for pair in links if not out & set(pair)])
    _decide(nodes, parts, groups, [n for n in new if not parts[n] and n not in out], seed)
    here = [part if node.class_name else "" for node, part in zip(nodes, parts, strict=True)]
    beside |= _beside(nodes, links, [RANK.get(part) for part in here])
    for place in (*beside, *linking):
        parts[place] = ""
    return Cut(parts, groups, linking, beside)


def _given(node: Node, own_test: bool) -> Part | Literal[""]:
    """Return the part that is not to be decided: the folder's own, else the written one."""
    fixed = node.own in ("val", "test") or (node.own == "train" and own_test)
    return node.own if fixed else node.written


def _beside(
    nodes: Sequence[Node], links: Sequence[Link], ranks: Sequence[int | None]
) -> dict[int, int]:
    """Return images that are linked to one of a lower rank, or share its group, with that one."""
    found = _linked_to_lower(nodes, links, ranks)
    first: dict[str, tuple[int, int]] = {}
    ranked = [(rank, n) for n, rank in enumerate(ranks) if rank is not None and nodes[n].named]
    for rank, n in sorted(ranked):
        least, other = first.setdefault(nodes[n].named, (rank, n))
        if least < rank:
            found[n] = other
    return found


def _linked_to_lower(
    nodes: Sequence[Node], links: Sequence[Link], ranks: Sequence[int | None]
) -> dict[int, int]:
    """Return images that are linked to one of a lower rank, with that one: directly or over others.

    A written image leaves for a direct link alone: an image that comes later and is linked to two
    written ones takes none of them out.
    """
    near: dict[int, list[int]] = {}
    for one, other in links:
        near.setdefault(one, []).append(other)
        near.setdefault(other, []).append(one)
    found: dict[int, int] = {}
    ranked = sorted((rank, n) for n in near if (rank := ranks[n]) is not None)
    for lower, origin in ranked:
        reached = [origin]
        while reached:
            here = reached.pop()
            for one in near[here]:
                rank = ranks[one]
                stays = here != origin and nodes[one].written
                if rank is not None and rank > lower and one not in found and not stays:
                    found[one] = origin
                    reached.append(one)
    return found


def _new_groups(
    new: Sequence[int], links: Sequence[Link], parts: Sequence[Part | Literal[""]]
) -> list[tuple[list[int], set[Part]]]:
    """Return groups of images without a part, each with the parts that it is linked to."""
    free = set(new)
    roots = components(len(parts), [pair for pair in links if free.issuperset(pair)])
    near: dict[int, set[Part]] = {}
    members: dict[int, list[int]] = {}
    for place in new:
        members.setdefault(roots[place], []).append(place)
    for one, other in (*links, *((b, a) for a, b in links)):
        part = parts[other]
        if one in free and part:
            near.setdefault(roots[one], set()).add(part)
    return [(places, near.get(root, set())) for root, places in members.items()]


def _groups(nodes: Sequence[Node], links: Sequence[Link]) -> list[str]:
    """Return the name of each image's group: the user's, else the written one, else a new one."""
    roots = components(len(nodes), links)
    members: dict[int, list[Node]] = {}
    for root, node in zip(roots, nodes, strict=True):
        members.setdefault(root, []).append(node)
    names = {root: _name(found) for root, found in members.items()}
    return [names[root] for root in roots]


def _name(nodes: Sequence[Node]) -> str:
    own = {node.group for node in nodes if node.group}
    written = {node.written_group for node in nodes if node.written_group}
    return min(own or written or {node.name for node in nodes})


def place_of(group: str, seed: int) -> float:
    """Return where a hash puts a group between 0 and 1.

    Example:
        >>> round(place_of("a", seed=0), 4), round(place_of("a", seed=1), 4)
        (0.8247, 0.7465)
    """
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _decide(
    nodes: Sequence[Node],
    parts: list[Part | Literal[""]],
    groups: Sequence[str],
    new: Sequence[int],
    seed: int,
) -> None:
    """Give the images ``new``, which no written one is linked to, their part: whole groups."""
    undecided = set(new)
    alive = [n for n, node in enumerate(nodes) if node.class_name]
    counted = [n for n in alive if parts[n] in ("train", "test") or n in undecided]
    sizes = Counter((nodes[n].class_name, groups[n]) for n in counted)
    images = Counter(nodes[n].class_name for n in counted)
    groups_of: dict[str, list[str]] = {}
    for class_name, group in sizes:
        groups_of.setdefault(class_name, []).append(group)
    large = sorted(
        name
        for name, found in groups_of.items()
        if images[name] >= LEAST_IMAGES and len(found) >= LEAST_GROUPS
    )
    barred = {
        group
        for (name, group), size in sizes.items()
        if name not in large or 2 * size > images[name]
    }
    free = {groups[n]: place_of(groups[n], seed) for n in new if groups[n] not in barred}
    chosen = {group for group, place in free.items() if place < TEST_SHARE}
    written = {groups[n] for n in counted if parts[n] == "test"}
    for name in large:
        lacking = LEAST_TEST_GROUPS - sum(g in chosen or g in written for g in groups_of[name])
        rest = sorted((free[g], g) for g in groups_of[name] if g in free and g not in chosen)
        chosen |= {group for _, group in rest[: max(lacking, 0)]}
    for name in large:
        tested = [g for g in groups_of[name] if g in chosen or g in written]
        excess = len(tested) - (len(groups_of[name]) - LEAST_TRAIN_GROUPS)
        rest = sorted(((free[g], g) for g in tested if g in free and g in chosen), reverse=True)
        chosen -= {group for _, group in rest[: max(excess, 0)]}
    for n in new:
        parts[n] = "test" if groups[n] in chosen else "train"
