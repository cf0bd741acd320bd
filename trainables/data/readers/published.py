"""Tables that published data sets bring: classes of images, and names of synsets.

ImageNet and its subsets call a class by its synset in WordNet, such as ``n01443537``. The files in
`NAMES` say what it is ("goldfish, Carassius auratus").
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainables.data.faults import Fault, some
from trainables.data.readers.rows import Line, Row, check_lines, read_text
from trainables.data.readers.tables import read_csv
from trainables.errors import ConfigError

SYNSET = re.compile(r"n\d{8}\Z")
COLUMNS = ("filename", "label")
NAMES = (
    *("LOC_synset_mapping.txt", "synset_words.txt", "words.txt"),
    *("imagenet_class_index.json", "Labels.json"),
)
IMAGENET = Path("ILSVRC/Data/CLS-LOC")  # where ImageNet's archive of Kaggle has train/ and val/
SOLUTION = "LOC_val_solution.csv"
DEVKIT = Path("ILSVRC2012_devkit_t12/data")
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def read_table(table: Path, images: Path, *, skip: bool) -> tuple[list[Row], list[Fault]]:
    """Read a table of mini-ImageNet, ``filename,label``; its rows have no part."""
    try:
        names, rows = read_csv(table)
    except ConfigError as error:
        return [], [Fault("columns", str(error))]
    unified = [name.casefold() for name in names]
    if not set(COLUMNS) <= set(unified):
        text = f"{table} must have the columns {','.join(COLUMNS)}; it has {some(names) or 'none'}"
        return [], [Fault("columns", text)]
    places = [unified.index(column) for column in COLUMNS]
    cells = (
        (number, [row[place].strip() if place < len(row) else "" for place in places])
        for number, row in rows
    )
    lines = (Line(number, name, label) for number, (name, label) in cells)
    return check_lines(table, images, lines, skip=skip)


def read_annotations(table: Path, *, skip: bool) -> tuple[list[Row], list[Fault]]:
    """Read Tiny-ImageNet's validation images, its test: file name and class, parted by tabs."""
    cells = (
        (number, [*line.split("\t"), ""])
        for number, line in enumerate(read_text(table).splitlines(), 1)
        if line.strip()
    )
    lines = (Line(number, row[0].strip(), row[1].strip(), True) for number, row in cells)
    return check_lines(table, table.parent / "images", lines, skip=skip)


def read_imagenet_validation(
    roots: Iterable[Path], images: Path, *, skip: bool
) -> tuple[list[Row], list[Fault]] | None:
    """Read the classes of ImageNet's validation images, its test, which lie in one folder.

    Args:
        roots: Where Kaggle's ``LOC_val_solution.csv`` may lie, or the unpacked development kit.
        images: Folder of the images.
        skip: Leave out missing files, with a count.

    Returns:
        Rows and faults, or ``None`` where no such table is found.
    """
    for root in roots:
        for table, read in ((root / SOLUTION, _solution), (root / DEVKIT / TRUTH, _ground_truth)):
            if table.is_file():
                return check_lines(table, images, read(table), skip=skip)
    return None


def _solution(table: Path) -> Iterator[Line]:
    """Yield the lines of ``ImageId,PredictionString``: an image, and its class before each box."""
    for number, row in read_csv(table).rows:
        image, boxes = [*row, ""][:2]
        yield Line(number, f"{image.strip()}.JPEG", "".join(boxes.split()[:1]), True)


def _ground_truth(table: Path) -> Iterator[Line]:
    """Yield the lines of the development kit: the number of the n-th image's class."""
    from scipy.io import loadmat

    try:
        found = loadmat(table.parent / META, squeeze_me=True)["synsets"]
        synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in found}
    except Exception as error:  # parsers of foreign bytes raise whatever they run into
        raise ConfigError(
            f"{table.parent / META} can't be read ({error}); unpack the development kit anew"
        ) from None
    for number, line in enumerate(read_text(table).split(), 1):
        label = synsets.get(int(line), "") if line.isdecimal() else ""
        yield Line(number, f"ILSVRC2012_val_{number:08}.JPEG", label, True)


def synset_names(roots: Iterable[Path], labels: Iterable[str]) -> dict[str, str]:
    """Return the first name of each synset, from the first file of `NAMES` that is there.

    Two classes of one name ("crane", a bird and a machine) keep their synset behind it. Empty where
    a class is no synset.
    """
    found = set(labels)
    if not all(SYNSET.match(label) for label in found):
        return {}
    table = next((r / name for r in roots for name in NAMES if (r / name).is_file()), None)
    if table is None:
        return {}
    first = {
        synset: words.split(",")[0].strip() for synset, words in _words(table) if synset in found
    }
    times = Counter(first.values())
    return {
        synset: name if times[name] == 1 else f"{name} ({synset})"
        for synset, name in first.items()
        if name
    }


def _words(table: Path) -> Iterator[tuple[str, str]]:
    """Yield synset and words of a table of names; lines of another form are passed over."""
    if table.suffix != ".json":
        for line in filter(str.strip, read_text(table).splitlines()):
            synset, *words = line.split(maxsplit=1)
            yield synset, "".join(words)
        return
    try:
        tree = json.loads(read_text(table))
    except ValueError as error:
        raise ConfigError(f"{table} is no valid JSON: {error}") from None
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, list) and len(value) == 2:
            yield str(value[0]), str(value[1]).replace("_", " ")
