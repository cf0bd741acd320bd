"""Remarks on a folder of photos: what may mislead a model, or whoever judges it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from trainables.data.shots.bursts import links_by_time
from trainables.data.shots.grouping import components
from trainables.data.shots.identity import Content
from trainables.data.shots.parts import LEAST_GROUPS, LEAST_IMAGES
from trainables.data.shots.photo_set import Photo

CATCH_ALL = (
    *("other", "others", "background", "none", "misc", "miscellaneous", "rest", "unknown"),
    *("negative", "negatives", "clutter", "various", "noise", "garbage", "unsorted"),
    *("background google", "no class", "none of these", "everything else", "not sure"),
)
_FOUND = re.compile(r"[0-9a-f]{16}\Z")  # the name of a group that was found by content
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


def remarks_about(photos: Sequence[Photo], contents: Mapping[str, Content]) -> list[str]:
    """Return one sentence each about what may mislead.

    Args:
        photos: The images that count.
        contents: What each file holds.
    """
    of_class: dict[str, list[Photo]] = {}
    for photo in sorted(photos, key=lambda photo: (photo.class_name, photo.file)):
        of_class.setdefault(photo.class_name, []).append(photo)
    held = {name: [contents[str(p.file)] for p in found] for name, found in of_class.items()}
    return [
        *_one_of_a_kind(held, lambda c: f"{c.size[0]}x{c.size[1]}", "are {}", "size"),
        *_one_of_a_kind(held, lambda c: c.camera, "are taken by {}", "camera"),
        *_one_of_a_kind(held, lambda c: c.kind, "are {} files", "file format"),
        *_spelled_alike(sorted(of_class)),
        *_catch_all(sorted(of_class)),
        *_large_shots(of_class),
        *_long_runs(of_class, held),
        *_two_labels(of_class),
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


def _spelled_alike(class_names: Sequence[str]) -> list[str]:
    """Name classes whose names differ in letter case, spaces, hyphens or underscores alone."""
    spelled: dict[str, list[str]] = {}
    for name in class_names:
        plain = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
        spelled.setdefault(plain or name, []).append(name)
    return [
        f"{' and '.join(map(repr, names))} are classes of their own, with one name but for its "
        "spelling: if they are one class, merge the folders"
        for names in spelled.values()
        if len(names) > 1
    ]


def _catch_all(class_names: Sequence[str]) -> list[str]:
    return [
        f"'{name}' is a catch-all folder: it is kept as a class, and never plays new"
        for name in sorted(catch_all_classes(class_names))
    ]


def _large_shots(of_class: Mapping[str, Sequence[Photo]]) -> list[str]:
    """Name classes whose images are one shot for the most part: it can't be judged by a test."""
    remarks = []
    for name, photos in of_class.items():
        size = max(Counter(photo.group for photo in photos).values())
        if len(photos) >= LEAST_IMAGES and 2 * size > len(photos):
            remarks.append(
                f"{size} of {len(photos)} '{name}' images are one shot, by capture times or "
                "because they are alike: if they are several, give --groups"
            )
    return remarks


def _long_runs(
    of_class: Mapping[str, Sequence[Photo]], held: Mapping[str, Sequence[Content]]
) -> list[str]:
    """Name classes whose images are for the most part one camera run, which parts divide."""
    remarks = []
    for name, photos in of_class.items():
        contents = held[name]
        taken, cameras = [c.taken for c in contents], [c.camera for c in contents]
        links = [
            pair for pairs in links_by_time(taken, cameras, [name] * len(taken)) for pair in pairs
        ]
        runs: dict[int, list[Photo]] = {}
        for photo, root in zip(photos, components(len(photos), links), strict=True):
            runs.setdefault(root, []).append(photo)
        longest = max(runs.values(), key=len)
        if 2 * len(longest) > len(photos) and len({photo.part for photo in longest}) > 1:
            remarks.append(
                f"{len(longest)} of {len(photos)} '{name}' images are one run of one camera, cut "
                "into shots of a minute: its test images look more like training images than new "
                "ones will; give --groups to keep it together"
            )
    return remarks


def _two_labels(of_class: Mapping[str, Sequence[Photo]]) -> list[str]:
    """Name a shot with images of two classes, and how many such shots there are."""
    shots: dict[str, dict[str, Photo]] = {}
    for name, photos in of_class.items():
        for photo in photos:
            if _FOUND.match(photo.group):  # not one that the user named
                shots.setdefault(photo.group, {}).setdefault(name, photo)
    mixed = [list(found.values())[:2] for _, found in sorted(shots.items()) if len(found) > 1]
    if not mixed:
        return []
    names = " and ".join(f"{photo.class_name}/{photo.file.name}" for photo in mixed[0])
    if len(mixed) == 1:
        return [f"a shot holds images of two classes, {names}: is a label wrong?"]
    return [f"{len(mixed)} shots hold images of two classes, such as {names}: is a label wrong?"]


def untested_classes(photos: Sequence[Photo], *, own_test: bool) -> dict[str, list[str]]:
    """Return the classes without test images, by the reason: what they have ("under 25 images").

    Args:
        photos: The images that count.
        own_test: The folder has a test part of its own.
    """
    of_class: dict[str, list[Photo]] = {}
    for photo in photos:
        of_class.setdefault(photo.class_name, []).append(photo)
    why: dict[str, list[str]] = {}
    for name, found in sorted(of_class.items()):
        if any(photo.part == "test" for photo in found):
            continue
        train = [photo for photo in found if photo.part == "train"]
        if own_test:
            reason = "no images in test/"
        elif len(train) < LEAST_IMAGES:
            reason = f"under {LEAST_IMAGES} images"
        elif len({photo.group for photo in train}) < LEAST_GROUPS:
            reason = f"under {LEAST_GROUPS} shots"
        else:
            reason = "no test images yet"
        why.setdefault(reason, []).append(name)
    return why
