"""Classes without test images: what trains of them, and what their figures come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.data.faults import some
from trainables.data.shots.remarks import untested_classes

if TYPE_CHECKING:
    from orchestrator.fitting.fit_record import Photos
    from trainables.data.shots.photo_set import PhotoSet


KEPT_OUT = "{their} figures are of images kept out of the training"


def with_untested(photos: Photos, images: PhotoSet, *, trained_at: float | None) -> Photos:
    """Return what the screen tells of photos, with a remark on the classes without test images.

    Args:
        photos: What the screen tells so far.
        images: The photos.
        trained_at: A network is trained on them, and its threshold set for this level of false
            alarm: nothing answers out of fold, but some images may stay out of the training.
            ``None``: the features are those of a frozen backbone.
    """
    if trained_at is None:
        judged, how = _of_several_shots(images), "{they} all train, {their} figures are out-of-fold"
    else:
        judged, how = _kept_out(images, trained_at), KEPT_OUT
    found = untested_classes(images.photos, own_test="test" in images.own_parts)
    remarks = [
        line for reason, names in found.items() for line in _lines(names, reason, judged, how)
    ]
    return photos.model_copy(update={"remarks": [*photos.remarks, *remarks]})


def _of_several_shots(images: PhotoSet) -> frozenset[str]:
    """Return the classes of which a fit without an image's shot still has another one."""
    shots = {(photo.class_name, photo.group) for photo in images.photos if photo.part == "train"}
    count = Counter(name for name, _ in shots)
    return frozenset(name for name, number in count.items() if number > 1)


def _kept_out(images: PhotoSet, level: float) -> frozenset[str]:
    """Return the classes of which images stay out of a training."""
    from orchestrator.fitting.training.kept_out import spare

    photos = spare(images, level=level).photos
    return frozenset(photo.class_name for photo in photos if photo.part == "val")


def _lines(names: Sequence[str], reason: str, judged: frozenset[str], how: str) -> list[str]:
    ends = {
        how: judged.intersection(names),
        "{they} all train, and {have} no figure": set(names) - judged,
    }
    return [_line(sorted(some_of), reason, end) for end, some_of in ends.items() if some_of]


def _line(names: Sequence[str], reason: str, end: str) -> str:
    """Return a sentence about one class or several.

    Example:
        >>> _line(["lynx"], "under 25 images", "{they} all train, {their} figures are out-of-fold")
        'lynx has under 25 images: it all trains, its figures are out-of-fold'
    """
    words = {"have": "have", "they": "they", "their": "their"}
    if len(names) == 1:
        end = end.replace("{they} all train", "it all trains")
        words = {"have": "has", "they": "it", "their": "its"}
    return f"{some(names, most=10)} {words['have']} {reason}: {end.format(**words)}"
