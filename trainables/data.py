"""From settings to views: what each stage may see of a source."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainables.artifacts import ImageView, LabelledView, PoolLabels
from trainables.errors import ConfigError
from trainables.experiment import Data
from trainables.protocol import Cut, cut, generator
from trainables.settings import canonical_json
from trainables.source_cache import Images, Integers, Source
from trainables.sources import load_source, load_unrelated


class Views(NamedTuple):
    """The views of one world; the last three views and ``pool_labels`` are for ``evaluate`` only.

    ``summary`` holds sizes, class ids and names, digests and the protocol's hash (plain values);
    ``index_lists`` says where each image comes from: positions in the source, and for
    ``pool_unrelated`` in the unrelated source.
    """

    known_train: LabelledView
    validation_known: LabelledView
    validation_novel: LabelledView
    pool: ImageView
    unlabelled: ImageView
    pool_labels: PoolLabels
    held_out_known: LabelledView
    held_out_novel: LabelledView
    summary: dict[str, Any]
    index_lists: dict[str, list[int]]


class _Pool(NamedTuple):
    view: ImageView
    labels: PoolLabels
    unrelated: Integers


def build_views(data: Data, *, cache: Path | None = None) -> Views:
    """Load the source and lay out the views of ``data.world``.

    Args:
        data: The data settings.
        cache: Folder of decoded arrays; by default ``<data.root>/.cache``.

    Raises:
        ConfigError: The source can't be read, or is too small for the protocol.
    """
    source = load_source(
        data.source,
        Path(data.root),
        data.image_size,
        skip_unreadable=data.skip_unreadable,
        cache=cache,
    )
    if len(source.class_names) < 2:
        raise ConfigError(f"data.source: '{data.source}' has no classes, it can only be unrelated")
    parts = cut(data, source)
    pool = _build_pool(data, source, parts, cache)
    lists = _index_lists(parts, pool.unrelated)
    known, novel = len(parts.known_classes), len(parts.novel_classes)
    validation_novel = len(parts.validation_novel_classes)
    new_id = _renumber(parts.known_classes, parts.novel_classes)
    threshold_id = _renumber(parts.known_classes, parts.validation_novel_classes)
    return Views(
        known_train=_labelled(source, parts.known_train, new_id, known),
        validation_known=_labelled(source, parts.validation_known, new_id, known),
        validation_novel=_labelled(
            source, parts.validation_novel, threshold_id, known + validation_novel
        ),
        pool=pool.view,
        unlabelled=_build_unlabelled(data, source, parts.unlabelled),
        pool_labels=pool.labels,
        held_out_known=_labelled(source, parts.held_out_known, new_id, known),
        held_out_novel=_labelled(source, parts.held_out_novel, new_id, known + novel),
        summary=_summarize(data, source, parts, lists),
        index_lists=lists,
    )


def index_lists(data: Data, *, cache: Path | None = None) -> dict[str, list[int]]:
    """Return the protocol of ``data`` as lists of positions in the source."""
    return build_views(data, cache=cache).index_lists


def save_protocol(views: Views, folder: Path) -> str:
    """Write index lists and their hash to ``folder/protocol.json``; return the hash."""
    folder.mkdir(parents=True, exist_ok=True)
    digest: str = views.summary["protocol_hash"]
    document = {
        "format_version": 1,
        "protocol_hash": digest,
        "summary": views.summary,
        "index_lists": views.index_lists,
    }
    (folder / "protocol.json").write_text(json.dumps(document, sort_keys=True))
    return digest


def _renumber(known: list[int], novel: list[int]) -> dict[int, int]:
    """Return original class id -> new id: known first, then novel."""
    return {original: new for new, original in enumerate([*known, *novel])}


def _labelled(
    source: Source, indices: Integers, new_id: dict[int, int], num_classes: int
) -> LabelledView:
    """Return a view of some images with renumbered labels."""
    labels = np.array([new_id[int(c)] for c in source.labels[indices]], dtype=np.int64)
    digest = _digest(source.digest, indices, labels, num_classes)
    return LabelledView(source.images, indices, labels, num_classes, digest)


def _build_pool(data: Data, source: Source, parts: Cut, cache: Path | None) -> _Pool:
    """Mix known, new and unrelated images in a random order, so that positions tell nothing."""
    unrelated, unrelated_digest, drawn = _draw_unrelated(data, source, cache)
    new_id = _renumber(parts.known_classes, parts.novel_classes)
    own = np.concatenate([parts.pool_known, parts.pool_novel])
    labels = [new_id[int(c)] for c in source.labels[own]] + [-1] * len(drawn)
    images = np.concatenate([source.images[own], unrelated])
    order = generator(data, "pool order").permutation(len(images))
    positions = np.arange(len(images), dtype=np.int64)
    digest = _digest(source.digest, unrelated_digest, own, drawn, order)
    truth = np.array(labels, dtype=np.int64)[order]
    view = ImageView(images[order], positions, digest)
    known, novel = len(parts.known_classes), len(parts.novel_classes)
    return _Pool(view, PoolLabels(truth, known, novel, _digest(digest, truth)), drawn)


def _build_unlabelled(data: Data, source: Source, indices: Integers) -> ImageView:
    """Return a copy of some images in a random order, so that positions tell nothing."""
    order = generator(data, "unlabelled order").permutation(len(indices))
    positions = np.arange(len(indices), dtype=np.int64)
    digest = _digest(source.digest, indices, order)
    return ImageView(source.images[indices[order]], positions, digest)


def _draw_unrelated(data: Data, source: Source, cache: Path | None) -> tuple[Images, str, Integers]:
    """Return unrelated images of the source's size, their source's digest, and which ones."""
    if data.stream.unrelated == 0:
        return source.images[:0], "", np.empty(0, dtype=np.int64)
    name = data.stream.unrelated_source
    if name == data.source:
        raise ConfigError(
            f"data.stream.unrelated_source: must differ from data.source; received '{name}' twice"
        )
    other = load_unrelated(
        name,
        Path(data.root),
        source.images.shape[1],
        skip_unreadable=data.skip_unreadable,
        cache=cache,
    )
    order = generator(data, "unrelated").permutation(len(other.images))
    drawn = np.sort(order[: data.stream.unrelated]).astype(np.int64)
    return other.images[drawn], other.digest, drawn


def _index_lists(parts: Cut, unrelated: Integers) -> dict[str, list[int]]:
    """Return all index lists as plain integers; that of unlabelled images if there are any."""
    lists = {
        name: [int(index) for index in value]
        for name, value in parts._asdict().items()
        if isinstance(value, np.ndarray) and (len(value) or name != "unlabelled")
    }
    return {**lists, "pool_unrelated": [int(index) for index in unrelated]}


def _summarize(
    data: Data, source: Source, parts: Cut, lists: dict[str, list[int]]
) -> dict[str, Any]:
    """Return sizes, classes and hashes as plain values."""
    names = source.class_names
    content: dict[str, Any] = {
        "source": data.source,
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
        "protocol_hash": hashlib.sha256(canonical_json([content, lists]).encode()).hexdigest(),
        "known_class_names": [names[c] for c in parts.known_classes],
        "novel_class_names": [names[c] for c in parts.novel_classes],
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
