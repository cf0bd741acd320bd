"""Images on which two versions can be compared, and what became of their classes.

These are the images that were test images of both and that neither was fitted on. What an image
shows is what the newer version's data say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trainables.inference.outcomes import FITTED, Outcomes, Part

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

    A class keeps its name as long as one of its images is still called so. Otherwise it is renamed
    if, of the images that both versions have, a class of today shares half of its images with it,
    and it shares half of its own; where two classes claim the same one, neither is renamed. A class
    that is gone, and whose name another one has taken, is called "... of before".
    """
    columns = ["digest", "label"]
    old, new = (t.images[t.images["label"] != ""][columns] for t in (theirs, mine))
    both = old.merge(new, on="digest", suffixes=("_old", "_new"))
    shared = pd.crosstab(both["label_old"], both["label_new"])
    claims: dict[str, list[str]] = {}
    for name in sorted(set(theirs.classes) & set(shared.index)):
        row = shared.loc[name]
        if row.get(name, 0) > 0:
            continue
        halves = [
            other
            for other in row.index
            if row[other] >= HALF * row.sum() and row[other] >= HALF * shared[other].sum()
        ]
        if len(halves) == 1:
            claims.setdefault(halves[0], []).append(name)
    renamed = {names[0]: other for other, names in claims.items() if len(names) == 1}
    taken = set(renamed.values()) & (set(theirs.classes) - set(renamed) - set(shared.index))
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
