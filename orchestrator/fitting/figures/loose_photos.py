"""What images of no class look like to the model of a fit; none of them trains.

They lie beside the class folders or in ``unlabelled/``, and only people know what they show.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from orchestrator.fitting.figures.fit_pages import REPORT
from orchestrator.fitting.fit_record import FitRecord, Loose, LooseCluster
from orchestrator.fitting.photo_folder import shown
from orchestrator.fitting.screen import some
from orchestrator.options import EXPORTED
from orchestrator.report.fit_page import show_in_page
from orchestrator.report.photo_sections import loose_section
from trainables.settings import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.inference.answers import Answer
    from trainables.inference.model import Model

MOST = 1000  # images that are asked about
BLOCK = 64  # images in memory
SHOWN = 3  # classes or clusters in a line
TOLD = "clusters"  # what is told, part of the key: a record that tells less is asked anew

Progress = Callable[[int, int], None]


class Asked(NamedTuple):
    """The model's answer to each image that can be read, their features ``[N, D]``, the others."""

    answers: Mapping[Path, Answer]
    features: Tensor
    unreadable: list[Path]


def look_at_loose(
    record: FitRecord, files: Sequence[Path], photos: Path, folder: Path, progress: Progress
) -> FitRecord:
    """Return a record with what images of no class look like, asked anew where they changed.

    Of more than 1,000 images every n-th is asked about. What is told stands in the page of the fit
    too.

    Args:
        record: The fit.
        files: The images.
        photos: The folder that they are in.
        folder: Of the model, with the model and the page of the fit.
        progress: Told how many images are answered, and how many there are.
    """
    page = folder / REPORT
    if not files:
        if record.loose is not None:
            show_in_page(page, None)
        return record.model_copy(update={"loose": None})
    asked = sorted(files)[:: -(-len(files) // MOST)]
    key = _key(record, asked)
    if record.loose is not None and (record.loose.key, record.loose.images) == (key, len(files)):
        return record
    seen = _ask(asked, folder / EXPORTED, progress)
    groups = grouped(record, seen, folder)
    loose = _told(groups, photos, key=key, images=len(files), asked=len(asked))
    show_in_page(
        page,
        loose_section(
            {name: [str(file) for file in group] for name, group in groups.known.items()},
            [(near, [str(file) for file in group]) for near, group in groups.clusters],
            [str(file) for file in groups.alone],
            images=len(files),
            asked=len(asked),
            unreadable=loose.unreadable_files,
        ),
    )
    return record.model_copy(update={"loose": loose})


def _key(record: FitRecord, files: Sequence[Path]) -> str:
    """Return a digest of the model and of the files, by name, size and time."""
    stats = [(str(file), *_state(file)) for file in files]
    version = record.promotion.version if record.promotion else None
    return hashlib.sha256(canonical_json([TOLD, record.key, version, stats]).encode()).hexdigest()


def _state(file: Path) -> tuple[int, int]:
    """Return size and time of a file; a link that leads nowhere has neither."""
    try:
        found = os.stat(file)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _ask(files: Sequence[Path], exported: Path, progress: Progress) -> Asked:
    """Return what the model says of each image."""
    import torch

    from trainables.data.decode import decode_file
    from trainables.inference.model import load_model

    model = load_model(exported)
    answers: dict[Path, Answer] = {}
    features: list[Tensor] = []
    unreadable: list[Path] = []
    for start in range(0, len(files), BLOCK):
        block = files[start : start + BLOCK]
        images = {}
        for file in block:
            try:
                images[file] = decode_file(str(file), model.card.image_size, model.card.fitting)
            except ValueError:
                unreadable.append(file)
        if images:
            said, own = _answers(model, np.stack(list(images.values())))
            answers |= dict(zip(images, said, strict=True))
            features.append(own)
        progress(start + len(block), len(files))
    return Asked(answers, torch.cat(features) if features else torch.zeros(0, 1), unreadable)


def _answers(model: Model, images: np.ndarray) -> tuple[list[Answer], Tensor]:
    """Return a model's answers to images of its size, and the features that they come from."""
    from trainables.artifacts import ImageView
    from trainables.inference.answers import answers_of

    view = ImageView(images, np.arange(len(images)), "")
    features = model.features(view)
    return answers_of(model, model.outputs_of(view, features)), features


class Groups(NamedTuple):
    """Images by what they look like: by known class, in clusters with their nearest class, alone.

    Known classes and clusters with the most images come first, and in a class the surest image, in
    a cluster the most typical one.
    """

    known: dict[str, list[Path]]
    clusters: list[tuple[str, list[Path]]]
    alone: list[Path]
    unreadable: list[Path]


def grouped(record: FitRecord, seen: Asked, folder: Path) -> Groups:
    """Return images by what they look like.

    Args:
        record: The fit, whose recipe has the clusterer.
        seen: What the model says of each image.
        folder: Of the model, with the known images beside which clusters are sought.
    """
    known: dict[str, list[Path]] = {}
    for file, answer in sorted(seen.answers.items(), key=lambda item: -item[1].probability):
        if answer.known:
            known.setdefault(answer.class_name, []).append(file)
    known = dict(sorted(known.items(), key=lambda item: (-len(item[1]), item[0])))
    rows = [row for row, answer in enumerate(seen.answers.values()) if not answer.known]
    files = [file for file, answer in seen.answers.items() if not answer.known]
    clusters = []
    for places in _clusters(record, seen.features[rows], folder):
        near = Counter(seen.answers[files[place]].class_name for place in places)
        nearest = min(near, key=lambda name: (-near[name], name))
        clusters.append((nearest, [files[place] for place in places]))
    inside = {file for _, group in clusters for file in group}
    return Groups(known, clusters, [f for f in files if f not in inside], seen.unreadable)


def _clusters(record: FitRecord, pool: Tensor, folder: Path) -> list[list[int]]:
    """Return positions in the pool by cluster; none where no known images were kept."""
    from orchestrator.fitting.figures.loose_clusters import clusters_alike, kept_known
    from trainables.experiment import Discover
    from trainables.rehearsal.finding import Finding
    from trainables.settings import build

    known = kept_known(folder)
    if known is None or known.features.shape[1] != pool.shape[1]:  # a fit was cut short
        return []
    discover = build(Discover, record.recipe.get("discover", {}))
    finding = Finding(discover.clusterer, max_new=discover.max_new_clusters)
    return clusters_alike(finding, known, pool)


def _told(groups: Groups, photos: Path, *, key: str, images: int, asked: int) -> Loose:
    """Return what the record tells of images that were asked about."""

    def names(files: Sequence[Path]) -> list[str]:
        return [shown(file, photos) for file in files]

    return Loose(
        key=key,
        images=images,
        asked=asked,
        known={name: len(files) for name, files in groups.known.items()},
        known_files={name: names(files) for name, files in groups.known.items()},
        unknown=len(groups.alone) + sum(len(files) for _, files in groups.clusters),
        clusters=[LooseCluster(nearest=near, files=names(f)) for near, f in groups.clusters],
        alone=names(groups.alone),
        unreadable=len(groups.unreadable),
        unreadable_files=names(groups.unreadable),
    )


def loose_line(loose: Loose) -> str:
    """Return what images of no class look like.

    Example:
        >>> found = Loose(key="", images=9, asked=9, known={"tabby": 6}, unknown=3)
        >>> loose_line(found)
        'of 9 images 6 look like known classes (6 tabby), 3 are called unknown; none trains'
    """
    some_of = f"{loose.asked:,} of " if loose.asked < loose.images else ""
    of = f"of {some_of}{loose.images:,} image{'s' * (loose.images > 1)}"
    total = sum(loose.known.values())
    names = ", ".join(f"{count:,} {name}" for name, count in list(loose.known.items())[:SHOWN])
    more = " ..." if len(loose.known) > SHOWN else ""
    look = "1 looks like a known class" if total == 1 else f"{total:,} look like known classes"
    alike = look + (f" ({names}{more})" if names else "")
    unknown = f"{loose.unknown:,} {'is' if loose.unknown == 1 else 'are'} called unknown"
    parts = [alike, unknown + _clusters_in_words(loose.clusters)]
    if loose.unreadable:
        parts.append(f"{loose.unreadable:,} unreadable ({some(loose.unreadable_files)})")
    return f"{of} {', '.join(parts)}; none trains"


def _clusters_in_words(clusters: Sequence[LooseCluster]) -> str:
    """Return how many images form clusters.

    Example:
        >>> found = [LooseCluster(nearest="lynx", files=["a"] * size) for size in (14, 9)]
        >>> _clusters_in_words(found), _clusters_in_words(found[:1])
        (': 2 clusters of 14 and 9 look alike among themselves', ': 14 of them look alike')
    """
    if not clusters:
        return ""
    sizes = [f"{len(cluster.files):,}" for cluster in clusters]
    if len(sizes) == 1:
        return f": {sizes[0]} of them look alike"
    listed = f"{', '.join(sizes[:-1])} and {sizes[-1]}"
    return f": {len(sizes)} clusters of {listed} look alike among themselves"
