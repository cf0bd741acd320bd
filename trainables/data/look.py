"""The look at the data before anything runs: what is there, who would be new, and every fault."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trainables.data.cuts.class_roles import arrived_classes, count_units, split_classes
from trainables.data.cuts.validation import TOO_FEW, too_small_classes
from trainables.data.data_settings import Data
from trainables.data.decode import DEFAULT_SIZE
from trainables.data.faults import DataError, Fault, fault_lines, refuse_fatal
from trainables.data.folders import outline_folder, read_folder
from trainables.data.loose_images import outline_loose_images, read_loose_images
from trainables.data.protocol import cut
from trainables.data.source_cache import Source
from trainables.data.source_names import default_profile, own_kind
from trainables.data.sources import load_source, own_path, require_another, require_source
from trainables.errors import ConfigError

KNOWN, NEW_IN_VALIDATION, NEW_IN_TEST = "known", "new in validation", "new in test"
NEW_LATER = "new in a later phase"
SMALL_PART = 0.5  # a profile that keeps less than this part of one's own images is named


class ClassRow(NamedTuple):
    """A class: its images in both parts, what it plays, and how many images are trained on.

    ``plays`` is empty and ``trained`` is ``None`` where a fault leaves that open.
    """

    name: str
    train: int
    test: int
    plays: str
    trained: int | None


class Look(NamedTuple):
    """What is there, and what is wrong with it.

    ``classes`` and ``sizes`` (width and height of the smallest and the largest file) are empty for
    sources that are not looked at.
    """

    source: str
    classes: tuple[ClassRow, ...]
    sizes: tuple[tuple[int, int], ...]
    faults: tuple[Fault, ...]

    @property
    def imbalance(self) -> float | None:
        """The largest known class over the smallest, by the images that are trained on."""
        counts = [row.trained for row in self.classes if row.trained is not None]
        return max(counts) / max(min(counts), 1) if counts else None

    def lines(self) -> list[str]:
        """Return all faults, at most 20 lines of a kind and then a count."""
        return fault_lines(self.faults)

    def summary(self) -> str:
        """Return in one line how many classes and images there are, and how unequal classes are."""
        if not self.classes:
            return self.source
        plays = [row.plays for row in self.classes]
        roles = [
            f"{plays.count(role)} {role}"
            for role in (KNOWN, NEW_IN_VALIDATION, NEW_IN_TEST, NEW_LATER)
            if role in plays
        ]
        train = sum(row.train for row in self.classes)
        test = sum(row.test for row in self.classes)
        parts = [
            f"{len(self.classes)} classes" + (f" ({', '.join(roles)})" if roles else ""),
            f"{train} images in train and {test} in test",
            *([f"imbalance factor {self.imbalance:.1f}"] if self.imbalance else []),
            *([f"files of {_range(self.sizes)} pixels"] if self.sizes else []),
        ]
        return f"{self.source}: {'; '.join(parts)}"

    def refuse(self) -> None:
        """Do nothing unless a fault is fatal.

        Raises:
            DataError: With all faults.
        """
        refuse_fatal(self.faults)


def look(data: Data, *, decode: bool = False, cache: Path | None = None) -> Look:
    """Look at a folder of images as the protocol would use it, and collect all faults.

    Built-in sources are not looked at; with ``decode`` their files must be there.

    Args:
        data: The data settings.
        decode: Decode all images, in parallel, into the cache that training reads; else the files'
            heads are read alone.
        cache: Folder of decoded arrays; by default ``<data.root>/.cache``.
    """
    cache = Path(data.root) / ".cache" if cache is None else cache
    source, faults = _look_at_source(data, decode, cache)
    size = source.images.shape[1] if source else DEFAULT_SIZE
    faults = [*faults, *_look_at_unrelated(data, decode, size, cache)]
    if source is None or not len(source.labels):
        return Look(data.source, (), (), tuple(faults))
    rows, more = _rehearse(data, source)
    return Look(data.source, rows, source.sizes, (*faults, *more))


def _look_at_source(data: Data, decode: bool, cache: Path) -> tuple[Source | None, list[Fault]]:
    """Return the source (without images unless it was decoded), and its faults."""
    if not own_kind(data.source):
        return None, (_missing(data.source, data) if decode else []) or _misnamed(data, cache)
    faults: tuple[Fault, ...] = ()
    skip, as_written = data.skip_unreadable, data.world == "service"
    try:
        folder, columns = own_path(data.source), data.columns
        if decode:
            try:
                loaded = read_folder(
                    folder,
                    data.image_size,
                    skip_unreadable=skip,
                    cache=cache,
                    fitting=data.fitting,
                    columns=columns,
                    as_written=as_written,
                )
                return loaded.source, loaded.faults
            except DataError as error:
                faults = error.faults
        outline = outline_folder(
            folder, skip_unreadable=skip, cache=cache, columns=columns, as_written=as_written
        )
    except ConfigError as error:  # there is no folder
        return None, [Fault("sources", str(error))]
    return outline.source, list(faults or outline.faults)


def _look_at_unrelated(data: Data, decode: bool, size: int, cache: Path) -> list[Fault]:
    """Return the faults of the stream's unrelated images."""
    name = data.stream.unrelated_source
    if data.stream.unrelated == 0:
        return []
    if not own_kind(name) and name != data.source:
        return _missing(name, data) if decode else []
    try:
        require_another(name, data.source)
        folder = own_path(name)
        if decode:
            return read_loose_images(
                folder,
                size,
                skip_unreadable=data.skip_unreadable,
                cache=cache,
                fitting=data.fitting,
            ).faults
        return outline_loose_images(folder, skip_unreadable=data.skip_unreadable)
    except DataError as error:
        return list(error.faults)
    except ConfigError as error:
        return [Fault("sources", str(error))]


def _missing(name: str, data: Data) -> list[Fault]:
    """Return a fault if a built-in source is not there."""
    try:
        require_source(name, Path(data.root))
    except ConfigError as error:
        return [Fault("sources", str(error))]
    return []


def _misnamed(data: Data, cache: Path) -> list[Fault]:
    """Return a fault if a recipe names a new class that a built-in source lacks."""
    if isinstance(data.novel_classes, int) or _missing(data.source, data):
        return []
    source = load_source(data.source, Path(data.root), data.image_size, cache=cache)
    try:
        split_classes(data, source)
    except ConfigError as error:
        return [Fault("protocol", str(error))]
    return []


def _rehearse(data: Data, source: Source) -> tuple[tuple[ClassRow, ...], list[Fault]]:
    """Return what each class plays, and what the protocol can't do with the source."""
    plays: dict[int, str] = {}
    trained: dict[int, int] = {}
    faults: list[Fault] = []
    try:
        known, validation, test = split_classes(data, source)
        plays = dict.fromkeys(known, KNOWN)
        plays |= dict.fromkeys(validation, NEW_IN_VALIDATION) | dict.fromkeys(test, NEW_IN_TEST)
        plays |= dict.fromkeys(arrived_classes(data, source, test)[1], NEW_LATER)
        faults = [] if data.world == "service" else _small_classes(data, source, known)
        for world in {data.world, data.final_world} if not any(f.fatal for f in faults) else ():
            parts = cut(data.model_copy(update={"world": world}), source)
            trained = dict(zip(known, parts.class_counts, strict=True))
    except ConfigError as error:
        faults.append(Fault("protocol", str(error)))
    rows = []
    for label, name in enumerate(source.class_names):
        mine = source.labels == label
        sizes = (int((mine & ~source.is_test).sum()), int((mine & source.is_test).sum()))
        rows.append(ClassRow(name, *sizes, plays.get(label, ""), trained.get(label)))
    return tuple(rows), [*faults, *_lost_images(data, rows)]


def _small_classes(data: Data, source: Source, known: list[int]) -> list[Fault]:
    """Return the classes that are too small for the validation, and those that give it nothing."""
    faults = [
        Fault("classes that are too small", text) for text in too_small_classes(data, source, known)
    ]
    for label in known if data.validation_per_class else ():
        if 0 < count_units(source, label) <= TOO_FEW:
            units = "" if source.groups is None else "groups "
            text = (
                f"class '{source.class_names[label]}' gives no image to the validation, it has "
                f"at most {TOO_FEW} {units}to train on; add images to judge it there"
            )
            faults.append(Fault("classes without validation images", text, fatal=False))
    return faults


def _lost_images(data: Data, rows: list[ClassRow]) -> list[Fault]:
    """Name a profile that leaves out most of one's own images."""
    known = [row for row in rows if row.trained is not None]
    had, kept = sum(row.train for row in known), sum(row.trained or 0 for row in known)
    if data.profile.name == default_profile(data.source) or kept >= SMALL_PART * had:
        return []
    text = (
        f"data.profile={data.profile.name} trains on {kept} of {had} images; "
        f"data.profile={default_profile(data.source)} keeps the sizes that your classes have"
    )
    return [Fault("lost images", text, fatal=False)]


def _range(sizes: tuple[tuple[int, int], ...]) -> str:
    small, large = (f"{width}x{height}" for width, height in sizes)
    return small if small == large else f"{small} to {large}"
