"""Remarks on a folder of photos: what may mislead a model, or whoever judges it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from trainables.data.faults import some
from trainables.data.shots.identity import Content
from trainables.data.shots.photo_set import Photo

CATCH_ALL = (
    *("other", "others", "background", "none", "misc", "miscellaneous", "rest", "unknown"),
    *("negative", "negatives", "clutter", "various", "noise", "garbage", "unsorted"),
    *("background google", "no class", "none of these", "everything else", "not sure"),
)
LEAST_ALIKE = 5  # images of a class that make a common size or camera a sign


def catch_all_classes(class_names: Iterable[str]) -> frozenset[str]:
    """Return the classes that hold whatever is left; they are kept, and never play new.

    Example:
        >>> sorted(catch_all_classes(["Others", "257.clutter", "BACKGROUND_Google", "mother"]))
        ['257.clutter', 'BACKGROUND_Google', 'Others']
    """
    return frozenset(
        name
        for name in class_names
        if re.sub(r"[\W_\d]+", " ", name.casefold()).strip() in CATCH_ALL
    )


def remarks_about(
    photos: Sequence[Photo], small: frozenset[str], contents: Mapping[str, Content]
) -> list[str]:
    """Return one sentence each about what may mislead."""
    of_class: dict[str, list[Content]] = {}
    for photo in photos:
        of_class.setdefault(photo.class_name, []).append(contents[str(photo.file)])
    return [
        *_one_of_a_kind(of_class, lambda c: f"{c.size[0]}x{c.size[1]}", "are {}", "size"),
        *_one_of_a_kind(of_class, lambda c: c.camera, "are taken by {}", "camera"),
        *_one_of_a_kind(of_class, lambda c: c.kind, "are {} files", "file format"),
        *_catch_all(sorted(of_class)),
        *_small(small),
    ]


def _one_of_a_kind(
    of_class: Mapping[str, Sequence[Content]], value: Callable[[Content], str], are: str, what: str
) -> list[str]:
    """Name classes whose images all share a value that no image of another class has."""
    values = {name: {value(c) for c in found} for name, found in sorted(of_class.items())}
    classes_with = Counter(v for found in values.values() for v in found)
    return [
        f"all '{name}' images {are.format(*own)}, no others are: the model may learn the {what}"
        for name, own in values.items()
        if len(own) == 1 and classes_with[next(iter(own))] == 1 and own != {""}
        if len(of_class[name]) >= LEAST_ALIKE and len(values) > 1
    ]


def _catch_all(class_names: Sequence[str]) -> list[str]:
    return [
        f"'{name}' is a catch-all folder: it is kept as a class, and never plays new"
        for name in sorted(catch_all_classes(class_names))
    ]


def _small(small: frozenset[str]) -> list[str]:
    if not small:
        return []
    have, their = ("has", "its") if len(small) == 1 else ("have", "their")
    names = some(sorted(small), most=10)
    return [f"{names} {have} no test images: all train, and {their} figures are out-of-fold"]
