"""Images on which two versions can be compared, and what became of their classes.

These are the images that were test images of both and that neither was fitted on. What an image
shows is what the newer version's data say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from orchestrator.options import local_folder
from orchestrator.registry.version_lookup import CHAMPION, find_version, folder_of
from orchestrator.tracking.mlflow_client import tracking_uri
from trainables.errors import ConfigError
from trainables.inference.outcomes import (
    FITTED,
    OUTCOMES_FILE,
    Outcomes,
    Part,
    image_table,
    load_outcomes,
)

if TYPE_CHECKING:
    from trainables.inference.outcome_tables import Pictured

HALF = 0.5  # classes that share this part of their images are one class, renamed
SHOWN = 5  # names of classes in a sentence


class Shared(NamedTuple):
    """Answers of two versions to the images that they share.

    ``images`` has a row per image: ``digest``, ``label`` and ``group`` of today; ``mine`` and
    ``theirs``, the predicted classes by their names of today; ``my_``/``their_`` ``known``,
    ``confidence`` and ``probability``. ``classes`` are known to both versions, ``only_mine`` and
    ``only_theirs`` to one of them. ``renamed`` gives the name of today of a class. ``relabelled``
    images have another label than before; ``mine_alone`` images were no test image of the other
    version, ``fitted`` images one of the two was fitted on (or on another of the same group).
    """

    images: pd.DataFrame
    classes: tuple[str, ...]
    only_mine: tuple[str, ...]
    only_theirs: tuple[str, ...]
    renamed: dict[str, str]
    relabelled: int
    mine_alone: int
    fitted: int
    origin: str


def share(mine: Outcomes, theirs: Outcomes, part: Part = "test") -> Shared:
    """Return the images on which two versions can be compared.

    Args:
        mine: The version whose labels and groups hold.
        theirs: The other one.
        part: ``test``; or ``train``, for out-of-fold answers of two models that were made from the
            same training images.
    """
    renamed = find_renamed(mine, theirs)
    now = {name: renamed.get(name, name) for name in theirs.classes}
    known = set(now.values()) & set(mine.classes)
    asked = mine.answered(part)
    fitted = _fitted_on(asked, mine, theirs) if part == "test" else np.zeros(len(asked), dtype=bool)
    rows = asked[~fitted].merge(theirs.answered(part), on="digest", suffixes=("", "_theirs"))
    answers = ("known", "confidence", "probability")
    images = pd.DataFrame(
        {
            **{name: rows[name] for name in ("digest", "label", "group")},
            "mine": rows["predicted"],
            "theirs": [now.get(name, name) for name in rows["predicted_theirs"]],
            **{f"my_{name}": rows[name] for name in answers},
            **{f"their_{name}": rows[f"{name}_theirs"] for name in answers},
        }
    )
    before = np.array([now.get(name, name) for name in rows["label_theirs"]], dtype=object)
    return Shared(
        images=images,
        classes=tuple(sorted(known)),
        only_mine=tuple(sorted(set(mine.classes) - known)),
        only_theirs=tuple(sorted(set(now.values()) - known)),
        renamed=renamed,
        relabelled=int((before != rows["label"].to_numpy()).sum()),
        mine_alone=int((~fitted).sum()) - len(rows),
        fitted=int(fitted.sum()),
        origin="test/" if part == "test" else "out_of_fold/",
    )


def check_shared_class(storage: str, model: str, photos: Sequence[Pictured]) -> None:
    """Return if a model of these images could be compared with the champion, or none can tell.

    Args:
        storage: Storage of the model.
        model: Registered name.
        photos: The images, with the classes that the model will know.

    Raises:
        ConfigError: The champion knows none of the classes, under no name.
    """
    uri = tracking_uri(None, local_folder(storage))
    version = find_version(uri, model, CHAMPION) if photos else None
    folder = None if version is None else folder_of(version, Path())
    if version is None or folder is None or not (folder / OUTCOMES_FILE).is_file():
        return
    columns = zip(*((p.bytes_digest, p.part, p.class_name, p.group) for p in photos), strict=True)
    classes = tuple(sorted({photo.class_name for photo in photos}))
    theirs = load_outcomes(folder / OUTCOMES_FILE)
    if share_a_class(Outcomes(image_table(*columns), classes), theirs):
        return
    raise ConfigError(
        f"--model: '{model}' is the name of a model of other classes: its champion, version "
        f"{version.number}, knows {_listed(theirs.classes)}, these images show {_listed(classes)}; "
        "the two could not be compared, so give a name of its own with --model NAME"
    )


def share_a_class(mine: Outcomes, theirs: Outcomes) -> bool:
    """Say whether two versions know a class in common, by its name or as a class that was renamed.

    Answers are not asked for: the newer one may be what a model is to be made from.
    """
    renamed = find_renamed(mine, theirs)
    return not set(mine.classes).isdisjoint(renamed.get(name, name) for name in theirs.classes)


def _fitted_on(asked: pd.DataFrame, mine: Outcomes, theirs: Outcomes) -> np.ndarray[Any, Any]:
    """Say of each image whether a version was fitted on it, or on another one of its group."""
    digests: set[str] = set()
    for table in (mine.images, theirs.images):
        digests |= set(table["digest"][table["part"].isin(FITTED)])
    seen = mine.images[mine.images["digest"].isin(digests)]
    found = asked["digest"].isin(digests) | asked["group"].isin(set(seen["group"]))
    return np.asarray(found.to_numpy(dtype=bool))


def find_renamed(mine: Outcomes, theirs: Outcomes) -> dict[str, str]:
    """Return the name of today of each class that the other version knew by another name.

    Of the images that both versions have, a former class is a class of today if that one has half
    of its images or more, and they are half of that one's. It is renamed if none of its images is
    called as before, or if its name went to another former class in this way, as where two labels
    were swapped: then a few images that were left behind do not keep the name. Where two classes
    claim the same one, neither is renamed. A former class that is gone, or of which less than half
    kept its name, and whose name another one has taken, is called "... of before".
    """
    columns = ["digest", "label"]
    old, new = (t.images[t.images["label"] != ""][columns] for t in (theirs, mine))
    both = old.merge(new, on="digest", suffixes=("_old", "_new"))
    shared = pd.crosstab(both["label_old"], both["label_new"])
    claims: dict[str, str] = {}
    empty, kept = set[str](), set[str]()  # no image, and half of them or more, is called as before
    for name in sorted(set(theirs.classes) & set(shared.index)):
        row = shared.loc[name]
        same = row.get(name, 0)
        empty |= {name} if not same else set()
        kept |= {name} if same >= HALF * row.sum() else set()
        halves = [
            other
            for other in row.index
            if other != name
            and row[other] >= HALF * row.sum()
            and row[other] >= HALF * shared[other].sum()
        ]
        if len(halves) == 1:
            claims[name] = halves[0]
    movers: dict[str, list[str]] = {}
    for name, other in claims.items():
        if name in empty or name in claims.values():
            movers.setdefault(other, []).append(name)
    renamed = {names[0]: other for other, names in movers.items() if len(names) == 1}
    taken = set(renamed.values()) & (set(theirs.classes) - set(renamed) - kept)
    return renamed | {name: f"{name} of before" for name in taken}


def describe(shared: Shared, other: str) -> str:
    """Return in one line which images and classes are compared, and what is left out.

    Args:
        shared: The shared images.
        other: The version that is compared with, e.g. "version 1".
    """
    compared = shared.images["label"].isin(shared.classes)
    parts = [
        f"{int(compared.sum())} {shared.origin}images of {len(shared.classes)} classes are "
        f"compared with {other}"
    ]
    counted = {
        "have another label than then": shared.relabelled,
        f"were no test images of {other}": shared.mine_alone,
        "are left out, because one of the two was fitted on them or on copies": shared.fitted,
    }
    parts += [f"{number} {what}" for what, number in counted.items() if number]
    for old, new in sorted(shared.renamed.items()):
        if new in shared.classes:
            parts.append(f"'{old}' is called '{new}' now")
    for who, names in (("this version", shared.only_mine), (other, shared.only_theirs)):
        if names:
            parts.append(f"{who} alone knows {_listed(names)}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more
