"""Build the views of a source that the stages receive, from the data settings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.artifacts import Images, ImageView, LabelledView, PoolLabels
from trainables.data.cuts.class_roles import generator
from trainables.data.data_settings import Data
from trainables.data.image_files import join, take
from trainables.data.protocol import Cut, cut
from trainables.data.source_cache import Integers, Source
from trainables.data.source_names import own_kind, with_last_names
from trainables.data.sources import load_source, load_unrelated, require_another
from trainables.errors import ConfigError
from trainables.settings import canonical_json


class Views(NamedTuple):
    """Views of one world; ``pool_labels`` and the held-out views are for ``evaluate`` only.

    ``withheld`` are all images whose labels the recipe withholds: those that are held out, and
    those of new classes, of either world.
    ``validation_novel`` are the images that the threshold is fitted on, of classes that this world
    is not judged by; it is empty if the validation has a single new class. ``held_out_unknown`` are
    test images of classes that no model learns, with labels after the known and the new ones.
    ``summary`` holds sizes, class ids and names, digests and the protocol's hash as plain values.
    ``index_lists`` holds each view's image positions in the source (``pool_unrelated``: in the
    unrelated source).
    """

    known_train: LabelledView
    validation_known: LabelledView
    validation_novel: LabelledView
    pool: ImageView
    unlabelled: ImageView
    pool_labels: PoolLabels
    held_out_known: LabelledView
    held_out_novel: LabelledView
    withheld: ImageView
    held_out_unknown: LabelledView
    summary: dict[str, Any]
    index_lists: dict[str, list[int]]


class _Pool(NamedTuple):
    view: ImageView
    labels: PoolLabels
    unrelated: Integers


def build_views(data: Data, *, cache: Path | None = None) -> Views:
    """Load the source and build the views of ``data.world``.

    Args:
        data: The data settings.
        cache: Folder of decoded arrays; by default ``<data.root>/.cache``.

    Raises:
        ConfigError: The source can't be read or is too small for the protocol.
    """
    source = load_source(
        data.source,
        Path(data.root),
        data.image_size,
        skip_unreadable=data.skip_unreadable,
        cache=cache,
        fitting=data.fitting,
        columns=data.columns,
        as_written=data.world == "service",
    )
    if len(source.class_names) < 2:
        raise ConfigError(
            f"data.source: '{data.source}' has no classes; set it as data.stream.unrelated_source"
        )
    parts = cut(data, source)
    pool = _build_pool(data, source, parts, cache)
    lists = _index_lists(parts, pool.unrelated)
    known, novel = len(parts.known_classes), len(parts.novel_classes)
    fitted_on = np.isin(source.labels[parts.validation_novel], parts.threshold_classes)
    new_id = _renumber(parts.known_classes, parts.novel_classes)
    validation_id = _renumber(parts.known_classes, parts.validation_novel_classes)
    unknown = [c for c in parts.validation_novel_classes if c not in parts.threshold_classes]
    unknown += parts.later_classes
    unknown_id = _renumber(parts.known_classes, [*parts.novel_classes, *unknown])
    return Views(
        known_train=_labelled_view(source, parts.known_train, new_id, known)._replace(
            class_names=[source.class_names[c] for c in parts.known_classes]
        ),
        validation_known=_labelled_view(source, parts.validation_known, new_id, known),
        validation_novel=_labelled_view(
            source,
            parts.validation_novel[fitted_on],
            validation_id,
            known + len(parts.validation_novel_classes),
        ),
        pool=pool.view,
        unlabelled=_build_unlabelled(data, source, parts.unlabelled),
        pool_labels=pool.labels,
        held_out_known=_labelled_view(source, parts.held_out_known, new_id, known),
        held_out_novel=_labelled_view(source, parts.held_out_novel, new_id, known + novel),
        withheld=_withheld(source, parts),
        held_out_unknown=_labelled_view(
            source, parts.held_out_unknown, unknown_id, known + novel + len(unknown)
        ),
        summary=_summarize(data, source, parts, lists),
        index_lists=lists,
    )


def _renumber(known: list[int], novel: list[int]) -> dict[int, int]:
    """Map original class ids to new ids, the known classes first."""
    return {original: new for new, original in enumerate([*known, *novel])}


def _labelled_view(
    source: Source, indices: Integers, new_id: dict[int, int], num_classes: int
) -> LabelledView:
    """Return a view of the images at ``indices`` with renumbered labels."""
    labels = np.array([new_id[int(c)] for c in source.labels[indices]], dtype=np.int64)
    groups = None if source.groups is None else source.groups[indices]
    parts = (source.digest, indices, labels, num_classes, *([] if groups is None else [groups]))
    return LabelledView(source.images, indices, labels, num_classes, _digest(*parts), groups)


def _withheld(source: Source, parts: Cut) -> ImageView:
    """Return the view of all images that are held out or of a new class."""
    hidden = ~np.isin(source.labels, parts.known_classes)
    hidden[parts.held_out_known] = True
    indices = np.flatnonzero(hidden).astype(np.int64)
    return ImageView(source.images, indices, _digest(source.digest, indices))


def _build_pool(data: Data, source: Source, parts: Cut, cache: Path | None) -> _Pool:
    """Shuffle known, new and unrelated images, so that positions carry no information."""
    unrelated, unrelated_digest, drawn = _draw_unrelated(data, source, cache)
    new_id = _renumber(parts.known_classes, parts.novel_classes)
    source_indices = np.concatenate([parts.pool_known, parts.pool_novel])
    labels = [new_id[int(c)] for c in source.labels[source_indices]] + [-1] * len(drawn)
    images = join(take(source.images, source_indices), unrelated)
    order = generator(data, "pool order").permutation(len(images))
    positions = np.arange(len(images), dtype=np.int64)
    digest = _digest(source.digest, unrelated_digest, source_indices, drawn, order)
    truth = np.array(labels, dtype=np.int64)[order]
    view = ImageView(take(images, order), positions, digest)
    known, novel = len(parts.known_classes), len(parts.novel_classes)
    return _Pool(view, PoolLabels(truth, known, novel, _digest(digest, truth)), drawn)


def _build_unlabelled(data: Data, source: Source, indices: Integers) -> ImageView:
    """Copy images in a random order, so that positions carry no information."""
    order = generator(data, "unlabelled order").permutation(len(indices))
    positions = np.arange(len(indices), dtype=np.int64)
    digest = _digest(source.digest, indices, order)
    return ImageView(take(source.images, indices[order]), positions, digest)


def _draw_unrelated(data: Data, source: Source, cache: Path | None) -> tuple[Images, str, Integers]:
    """Return unrelated images of the source's size, their source's digest, and their positions."""
    if data.stream.unrelated == 0:
        none = np.empty(0, dtype=np.int64)
        return take(source.images, none), "", none
    name = data.stream.unrelated_source
    require_another(name, data.source)
    other = load_unrelated(
        name,
        Path(data.root),
        source.images.shape[1],
        skip_unreadable=data.skip_unreadable,
        cache=cache,
        fitting=data.fitting,
    )
    order = generator(data, "unrelated").permutation(len(other.images))
    drawn = np.sort(order[: data.stream.unrelated]).astype(np.int64)
    return take(other.images, drawn), other.digest, drawn


def _index_lists(parts: Cut, unrelated: Integers) -> dict[str, list[int]]:
    """Return the index lists as plain integers; optional ones only if they are not empty."""
    optional = ("unlabelled", "held_out_unknown")
    lists = {
        name: [int(index) for index in value]
        for name, value in parts._asdict().items()
        if isinstance(value, np.ndarray) and (len(value) or name not in optional)
    }
    return {**lists, "pool_unrelated": [int(index) for index in unrelated]}


def _summarize(
    data: Data, source: Source, parts: Cut, lists: dict[str, list[int]]
) -> dict[str, Any]:
    """Return sizes, classes and hashes as plain values."""
    names, later = source.class_names, parts.later_classes
    # images of classes that no model learns follow from the other lists, and came later
    hashed = {name: indices for name, indices in lists.items() if name != "held_out_unknown"}
    content: dict[str, Any] = {
        "source": own_kind(data.source) or data.source,  # the digest below stands for a path
        "source_digest": source.digest,
        "world": data.world,
        "image_size": int(source.images.shape[1]),
        "known_classes": parts.known_classes,
        "novel_classes": parts.novel_classes,
        "validation_novel_classes": parts.validation_novel_classes,
        "class_counts": parts.class_counts,
    }
    return {
        **content,
        "source": with_last_names(data.source),
        "protocol_hash": hashlib.sha256(canonical_json([content, hashed]).encode()).hexdigest(),
        "known_class_names": [names[c] for c in parts.known_classes],
        "novel_class_names": [names[c] for c in parts.novel_classes],
        "threshold_class_names": [names[c] for c in parts.threshold_classes],
        **({"later_class_names": [names[c] for c in later]} if later else {}),
        "sizes": {name: len(indices) for name, indices in lists.items()},
        "skipped": list(source.skipped),
    }


def _digest(*parts: object) -> str:
    """Return the SHA-256 (hex) of texts, integers and integer arrays."""
    digest = hashlib.sha256()
    for part in parts:
        content = (
            part.astype("<i8").tobytes() if isinstance(part, np.ndarray) else str(part).encode()
        )
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()
