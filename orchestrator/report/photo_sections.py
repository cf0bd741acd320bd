"""Sections of a page about one's photos, with the pictures in them: no network, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.report.photo_findings import (
    Answers,
    Array,
    Mistake,
    Suspect,
    confusions,
    nearest_images,
    shown,
    surest_mistakes,
    suspect_labels,
    weakest_classes,
)
from trainables.errors import readable

TEMPLATES = Path(__file__).parent / "templates"
SIDE = 160  # pixels of a picture's longer side: sharp at the 80 of the page on any screen
QUALITY = 72
MOST_PAIRS, PER_PAIR, MOST_CLASSES, MOST_MISTAKES, MOST_SUSPECTS, NEAREST = 12, 5, 20, 12, 24, 3
PER_CLUSTER = 12


class Section(NamedTuple):
    """A section of a page: its title, and HTML that stands below it."""

    title: str
    html: str


class Neighbors(NamedTuple):
    """Where training images that look alike are sought.

    ``features [N, D]`` are of the answered images, ``train_features [M, D]`` of training images,
    with their files and the names of their classes. Images of one group, ``groups [N]`` and
    ``train_groups [M]``, are not sought beside each other.
    """

    features: Array
    train_features: Array
    train_files: Sequence[str]
    train_classes: Sequence[str]
    groups: Array | None = None
    train_groups: Array | None = None


def answer_sections(
    answers: Answers, neighbors: Neighbors | None = None, what: str = "test images"
) -> list[Section]:
    """Return confusions, weakest classes and surest mistakes of images.

    Args:
        answers: Answers to images that the model was not fitted to.
        neighbors: If given, each mistake stands beside the training images that are nearest.
        what: What the images are, in words.
    """
    mistakes = surest_mistakes(answers)[:MOST_MISTAKES]
    pairs = confusions(answers)
    classes = weakest_classes(answers)
    near = [] if neighbors is None else _nearest(answers, mistakes, neighbors)
    parts: list[tuple[str, str, dict[str, Any]]] = [
        (
            "Confusions",
            "confusions",
            {"pairs": pairs[:MOST_PAIRS], "all": len(pairs), "what": what},
        ),
        (
            "Weakest classes",
            "classes",
            {"rows": classes[:MOST_CLASSES], "all": len(classes), "what": what},
        ),
        ("Surest mistakes", "mistakes", {"mistakes": mistakes, "near": near, "what": what}),
    ]
    return [Section(title, _render(name, **values)) for title, name, values in parts]


def suspect_section(suspects: Mapping[str, Sequence[Suspect]], csv_file: str) -> Section:
    """Return the section of labels that may be wrong, by part.

    Args:
        suspects: Part (``train``, ``test``) to its suspects; see `suspect_labels`.
        csv_file: Where the table of all of them lies, as the page names it.
    """
    return Section(
        "Suspect labels",
        _render("suspects", suspects=suspects, most=MOST_SUSPECTS, csv_file=csv_file),
    )


def loose_section(
    known: Mapping[str, Sequence[str]],
    clusters: Sequence[tuple[str, Sequence[str]]],
    alone: Sequence[str],
    *,
    images: int,
    asked: int,
    unreadable: Sequence[str] = (),
) -> Section:
    """Return the section of images of no class: what they look like to the model.

    Args:
        known: Class to the images that are taken for it, in the order of the page.
        clusters: Images that are called unknown and look alike, with their nearest class.
        alone: Other images that are called unknown.
        images: How many images of no class there are.
        asked: How many of them the model was asked about.
        unreadable: Names of those that can't be read.
    """
    return Section(
        "Images of no class",
        _render(
            "loose",
            known=known,
            clusters=clusters,
            alone=alone,
            images=images,
            asked=asked,
            unreadable=[readable(name) for name in unreadable],
            most_classes=MOST_CLASSES,
            most=PER_CLUSTER,
        ),
    )


def suspects_of(train: Answers | None, test: Answers | None) -> dict[str, Sequence[Suspect]]:
    """Return the suspects of training and test images apart: other models answered them."""
    parts = {"train": train, "test": test}
    return {name: suspect_labels(answers) for name, answers in parts.items() if answers}


@lru_cache(maxsize=1024)
def thumbnail(file: str) -> str:
    """Return a small JPEG of an image file as a ``data:`` address, or an empty text.

    A page must not fail because a photo was moved since it was learnt.
    """
    from PIL import Image

    from trainables.data.decode import to_rgb

    try:
        with Image.open(file) as picture:
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG: decoded at a smaller scale
            small = to_rgb(picture)
            small.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            small.save(buffer, format="JPEG", quality=QUALITY)
    except Exception:  # parsers of foreign bytes raise whatever they run into
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _nearest(
    answers: Answers, mistakes: Sequence[Mistake], neighbors: Neighbors
) -> list[list[tuple[str, str]]]:
    """Return file and class of the nearest training images of each mistake."""
    places = {file: place for place, file in enumerate(answers.files)}
    rows = [places[mistake.file] for mistake in mistakes]
    groups = None if neighbors.groups is None else neighbors.groups[rows]
    found = nearest_images(
        neighbors.features[rows], neighbors.train_features, NEAREST, groups, neighbors.train_groups
    )
    return [
        [
            (neighbors.train_files[place], neighbors.train_classes[place])
            for place in near
            if place >= 0
        ]
        for near in found.tolist()
    ]


def _render(part: str, **values: Any) -> str:
    """Return one macro of the template, filled in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        thumbnail=thumbnail, shown=shown, percent=_percent, per_pair=PER_PAIR
    )
    module = environment.get_template("photo_sections.html.j2").module
    return str(getattr(module, part)(**values))


def _percent(share: float) -> str:
    """Return a share as a percentage; only all and nothing are 100 and 0.

    Example:
        >>> _percent(0.996), _percent(0.5), _percent(1.0)
        ('>99 %', '50 %', '100 %')
    """
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"
