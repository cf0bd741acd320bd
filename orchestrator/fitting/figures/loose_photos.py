"""What images of no class look like to the model of a fit; none of them trains.

They lie beside the class folders or in ``unlabelled/``, and only people know what they show.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.fitting.fit_record import FitRecord, Loose
from trainables.settings import canonical_json

if TYPE_CHECKING:
    from trainables.inference.answers import Answer

MOST = 1000  # images that are asked about
BLOCK = 64  # images in memory
SHOWN = 3  # classes in a line

Progress = Callable[[int, int], None]


def look_at_loose(
    record: FitRecord, files: Sequence[Path], exported: Path, progress: Progress
) -> FitRecord:
    """Return a record with what images of no class look like, asked anew where they changed.

    Of more than 1,000 images every n-th is asked about.

    Args:
        record: The fit.
        files: The images.
        exported: The model of the fit.
        progress: Told how many images are answered, and how many there are.
    """
    if not files:
        return record.model_copy(update={"loose": None})
    asked = sorted(files)[:: -(-len(files) // MOST)]
    key = _key(record, asked)
    if record.loose is not None and (record.loose.key, record.loose.images) == (key, len(files)):
        return record
    answers = _ask(asked, exported, progress)
    told = [answer for answer in answers if answer is not None]
    known = Counter(answer.class_name for answer in told if answer.known)
    loose = Loose(
        key=key,
        images=len(files),
        asked=len(asked),
        known=dict(sorted(known.items(), key=lambda item: (-item[1], item[0]))),
        unknown=sum(not answer.known for answer in told),
        unreadable=len(answers) - len(told),
    )
    return record.model_copy(update={"loose": loose})


def _key(record: FitRecord, files: Sequence[Path]) -> str:
    """Return a digest of the model and of the files, by name, size and time."""
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    version = record.promotion.version if record.promotion else None
    return hashlib.sha256(canonical_json([record.key, version, stats]).encode()).hexdigest()


def _ask(files: Sequence[Path], exported: Path, progress: Progress) -> list[Answer | None]:
    """Return the model's answer to each image; ``None`` for a file that can't be read."""
    from trainables.data.decode import decode_file
    from trainables.inference.answers import answer_images
    from trainables.inference.model import load_model

    model = load_model(exported)
    found: list[Answer | None] = []
    for start in range(0, len(files), BLOCK):
        images, places = [], []
        for place, file in enumerate(files[start : start + BLOCK], start):
            try:
                images.append(decode_file(str(file), model.card.image_size, model.card.fitting))
            except ValueError:
                continue
            places.append(place)
        answers = answer_images(model, np.stack(images)) if images else []
        told = dict(zip(places, answers, strict=True))
        found += [told.get(place) for place in range(start, min(start + BLOCK, len(files)))]
        progress(len(found), len(files))
    return found


def loose_line(loose: Loose) -> str:
    """Return what images of no class look like.

    Example:
        >>> found = Loose(key="", images=9, asked=9, known={"tabby": 6}, unknown=3)
        >>> loose_line(found)
        'of 9 images 6 look like known classes (6 tabby), 3 are called unknown; none trains'
    """
    some_of = f"{loose.asked:,} of " if loose.asked < loose.images else ""
    total = sum(loose.known.values())
    names = ", ".join(f"{count:,} {name}" for name, count in list(loose.known.items())[:SHOWN])
    more = " ..." if len(loose.known) > SHOWN else ""
    alike = f"{total:,} look like known classes" + (f" ({names}{more})" if names else "")
    broken = f", {loose.unreadable:,} unreadable" if loose.unreadable else ""
    unknown = f"{loose.unknown:,} are called unknown{broken}"
    return f"of {some_of}{loose.images:,} images {alike}, {unknown}; none trains"
