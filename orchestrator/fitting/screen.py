"""The lines of a fit: what the photos are, what was found, how good it is, and what comes next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.fitting.figures.closing_lines import (
    compared_lines,
    next_commands,
    suspects_lines,
    verdict,
)
from orchestrator.fitting.figures.intervals import bracket, ratio, signed
from orchestrator.fitting.fit_record import (
    FEW_TEST,
    OUT_OF_FOLD,
    Deeper,
    Figures,
    FitRecord,
    Photos,
    Search,
)
from orchestrator.fitting.progress_lines import duration
from orchestrator.records import Interval
from trainables.rehearsal.outcome import Rehearsal

Line = tuple[str, str]  # label and text; an empty label goes on with the one before
SHOWN = 3  # names in a line
FOUND = (30, 10)  # images of a new class, of which the first that could be tried is told
RARE = 0.1  # share of new photos in the sentence about alarms


def photos_lines(photos: Photos) -> list[Line]:
    """Return what the folder holds, what was left out of it, and what is odd about it."""
    counts = sorted(((c.images, c.name) for c in photos.classes), reverse=True)
    sizes = ""
    if photos.smallest and photos.largest:
        ends = [f"{width}x{height}" for width, height in (photos.smallest, photos.largest)]
        sizes = f", {ends[0]}" + (f" to {ends[1]}" if ends[1] != ends[0] else "")
    extremes = ""
    if counts:
        (most, first), (least, last) = counts[0], counts[-1]
        extremes = f"; {first} {most} ... {last} {least}: imbalance {most / max(least, 1):.3g} : 1"
    left_out = sum(len(files) for files in photos.left_out.values())
    lines = [
        (
            "photos",
            f"{photos.images + left_out:,} files, {photos.images:,} images in "
            f"{len(photos.classes)} classes{sizes}{extremes}",
        )
    ]
    if left_out:
        parts = [
            f"{len(files):,} {what} ({some(files)})" for what, files in photos.left_out.items()
        ]
        lines.append(("left out", "; ".join(parts)))
    lines.append(("", parts_in_words(photos)))
    if photos.loose:
        number = f"{len(photos.loose):,} image{'s' * (len(photos.loose) > 1)}"
        text = f"{number} ({some(photos.loose)}): none trains or tests"
        lines.append(("no class", text))
    lines += [("" if n else "look at", text) for n, text in enumerate(photos.remarks)]
    return lines


def parts_in_words(photos: Photos) -> str:
    """Return how many images train and test.

    Example:
        >>> parts_in_words(Photos(folder="pets", images=10, train=8, test=2, shots=10, classes=[]))
        '10 images: 8 train, 2 test; pets/ has no test part of its own'
    """
    shots = ""
    if photos.shots < photos.images:
        shots = f" in {photos.shots:,} shots, each whole in one part"
    own = ""
    if "test" not in photos.own_parts:
        own = f"; {photos.folder}/ has no test part of its own"
    val = f"{photos.val:,} validate, " if photos.val else ""
    return (
        f"{photos.images:,} images{shots}: {photos.train:,} train, {val}{photos.test:,} test{own}"
    )


def some(names: Sequence[str], most: int = SHOWN) -> str:
    """Return the first few names.

    Example:
        >>> some(["a", "b", "c", "d"])
        'a, b, c ...'
    """
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def features_line(images: int, new: int, seconds: float) -> str:
    """Return of how many images features were computed: those of the others are stored.

    Example:
        >>> features_line(334, 334, 11.2), features_line(434, 100, 3.0)
        ('334 images in 11 s', '434 images, 100 of them new, in 3 s')
        >>> features_line(434, 0, 0.1)
        '434 images, none new, in 1 s'
    """
    said = "" if new >= images else f", {f'{new:,} of them' if new else 'none'} new,"
    return f"{images:,} images{said} in {duration(seconds)}"


def search_line(search: Search) -> str:
    """Return what was tried, how good the choice honestly is, and which classes do not judge it."""
    blind = ""
    if search.classes_not_judged:
        why = "under 3 shots" if search.judged_by == OUT_OF_FOLD else "no images in val/"
        blind = f"; without {some(search.classes_not_judged, 5)} ({why})"
    return (
        f"{search.variants} variants of head and balance; {search.best} is the best: "
        f"{bracket(search.honest)} {_metric(search.metric)}, {search.judged_by}, the choice "
        f"repeated inside{blind}"
    )


def _metric(name: str) -> str:
    return {"balanced": "balanced accuracy", "worst-class": "accuracy of the worst class"}.get(
        name, "accuracy"
    )


def last_screen(record: FitRecord, example: Path | None) -> list[str]:
    """Return the lines that a fit ends with, which the report opens with.

    Args:
        record: The fit.
        example: An image to show.
    """
    commands = next_commands(record, example)
    after = [*suspects_lines(record), *compared_lines(record), verdict(record)]
    return ["", *headline(record), "", *after, *([""] if commands else []), *commands]


def headline(record: FitRecord) -> Iterator[str]:
    """Yield how good the model is that answers."""
    found, number = record.figures, len(record.figures.by_class)
    bands = ", ".join(f"{band} {ratio(rate.mean)}" for band, rate in found.bands.items())
    like = "like yours" if record.expect == "natural" else "as they are expected"
    more = f"{bands}; of 100 photos {like} {100 * found.natural.mean:.0f} are named rightly"
    where = f"balanced accuracy over {number} classes"
    inside = found.out_of_fold if record.search.serves_base else record.search.honest
    beside = judged_by(record.search) if record.search.kept_out else OUT_OF_FOLD
    if found.origin != "test":
        yield f"{bracket(found.balanced)} {where}, {beside}    {more}"
    elif found.images < FEW_TEST and inside is not None:
        yield f"{bracket(inside)} {_beside_few(record)}, as only {found.images} images test"
        yield f"{bracket(found.balanced)} balanced accuracy on these    {more}"
    else:
        yield f"{bracket(found.balanced)} {where}    {more}"
    if found.out_of_fold_classes and found.origin == "test":
        names = some(found.out_of_fold_classes, 5)
        beside = "of images kept out of the training" if record.search.kept_out else OUT_OF_FOLD
        yield f"{names}: no test images, their figures are {beside}"
    unmeasured = [c.name for c in record.photos.classes if c.name not in found.by_class]
    if unmeasured:
        names = some(unmeasured, 5)
        yield f"{names}: known, but without a figure, as no image is left to judge by"
    if record.deeper is None or not record.deeper.serves:
        yield from [gain_line(record.search)] * (record.search.variants > 1)
    if record.deeper is not None:
        yield deeper_line(record.deeper)
    yield from validation_lines(found)
    if found.false_alarm is not None:
        yield false_alarm_line(found)
    if record.rehearsal:
        yield from rehearsal_lines(
            Rehearsal.from_json(json.dumps(record.rehearsal)), len(record.photos.classes)
        )
    if record.deeper is not None and record.deeper.serves and record.rehearsal:
        yield from frozen_lines(record.deeper)


def _beside_few(record: FitRecord) -> str:
    """Return what stands beside the figure of few test images: which metric, over which classes.

    Where the base answers it is the balanced accuracy of all classes with a figure, else that of
    the choice, which is made by a metric and judges classes of three shots or more.
    """
    search, number, metric = record.search, len(record.figures.by_class), "balanced"
    if not search.serves_base:
        number, metric = len(record.photos.classes) - len(search.classes_not_judged), search.metric
    return f"{_metric(metric)} over {number} classes, {judged_by(search)}"


def judged_by(search: Search) -> str:
    """Return which answers judge beside those to the test images.

    Example:
        >>> none = Interval(mean=0, low=0, high=0, values=[0])
        >>> same = {"best": "a", "base": "a", "served": "a", "serves_base": True, "gain": none}
        >>> judged_by(Search(variants=1, metric="balanced", honest=none, kept_out=40, **same))
        'on 40 images kept out of the training'
    """
    if search.kept_out:
        return f"on {search.kept_out:,} images kept out of the training"
    return OUT_OF_FOLD if search.serves_base else search.judged_by


def validation_lines(found: Figures) -> Iterator[str]:
    """Yield that the own ``val/`` was made in other conditions, where its figure says so."""
    gap = found.validation_gap
    if found.validation is None or gap is None or gap.low <= 0 <= gap.high:
        return
    yield (
        f"val/ has other conditions than train/: {bracket(found.validation)} balanced accuracy "
        f"there, {signed(gap)} against train/ out-of-fold"
    )


def gain_line(search: Search) -> str:
    """Return what the search gained over the base recipe, and which of the two answers."""
    if search.serves_base and search.best == search.base:
        return f"the base recipe ({search.base}) answers: no variant is better {search.judged_by}"
    if search.serves_base:
        return (
            f"the base recipe ({search.base}) answers: {search.best} is not better beyond noise, "
            f"{signed(search.gain)}, paired, {search.judged_by}"
        )
    return f"{signed(search.gain)} over the base recipe ({search.base}), paired, {search.judged_by}"


def deeper_line(told: Deeper) -> str:
    """Return what the fine-tuning gained over the frozen backbone, and which of the two answers."""
    where = f"paired, on {told.kept_out:,} images kept out of its training"
    if not told.serves:
        epochs = "an epoch" if told.epochs == 1 else f"{told.epochs} epochs"
        return (
            f"the frozen backbone answers: fine-tuned for {epochs} it is not better beyond noise, "
            f"{signed(told.gain)}, {where}"
        )
    blind = f" ({some(told.not_judged, 5)}: none)" if told.not_judged else ""
    return f"{signed(told.gain)} over the frozen backbone ({told.frozen}), {where}{blind}"


def false_alarm_line(found: Figures) -> str:
    """Return how often the model calls an image of a known class unknown."""
    assert found.false_alarm is not None
    bands = ", ".join(
        f"{band} {percent(rate.mean)}" for band, rate in found.false_alarm_bands.items()
    )
    return f"{percents(found.false_alarm)} of photos of known classes are called unknown ({bands})"


def percent(value: float) -> str:
    """Return a ratio in percent.

    Example:
        >>> percent(0.0462), percent(0.5)
        ('4.6 %', '50 %')
    """
    text = f"{100 * value:.1f}" if 100 * value < 10 else f"{100 * value:.0f}"
    return f"{text.removesuffix('.0')} %"


def percents(found: Interval) -> str:
    """Return a ratio in percent with its interval.

    Example:
        >>> percents(Interval(mean=0.046, low=0.031, high=0.066, values=[0.046]))
        '4.6 % [3.1, 6.6]'
    """
    low, high = (percent(value).removesuffix(" %") for value in (found.low, found.high))
    return f"{percent(found.mean)} [{low}, {high}]"


def rehearsal_lines(found: Rehearsal, classes: int) -> Iterator[str]:
    """Yield what a rehearsal says of classes that the model was not told of.

    Args:
        found: The rehearsal.
        classes: Number of classes that the model knows.
    """
    if not found.turns:
        why = found.cannot_tell.removeprefix("cannot be told: ").removeprefix("cannot be told ")
        yield f"a class it was not told of: cannot be told, {why}"
        return
    rate = found.noticed()
    together = any(turn.together for turn in found.turns)
    who = f"{rate.classes} of {classes}" if rate.classes < classes else f"each of {classes}"
    played = f"{who} classes {'were' if together else 'played'}"
    yield (
        f"a class it was not told of: noticed in {whole(rate.mean)} % [{whole(rate.low)}, "
        f"{whole(rate.high)}] of its images (the next one: {whole(rate.next_low)} to "
        f"{whole(rate.next_high)} %), at a false alarm of {100 * found.served:g} %; from the "
        f"rehearsal, in which {played} new"
    )
    blind = sum(found.served in turn.too_few for turn in found.turns)
    if blind:
        yield (
            f"           without {blind} of these classes too few known images are left to set a "
            f"threshold for {100 * found.served:g} %: nothing is called unknown then"
        )
    weakest = found.weakest()
    assert weakest is not None
    nearest = f", taken for {weakest.taken_for[0][0]}" if weakest.taken_for else ""
    yield (
        f"           if 1 photo in {1 / RARE:g} is new, {whole(found.precision(RARE))} of 100 "
        f"alarms are right; weakest: {weakest.class_name}{nearest}"
    )
    yield from neighbor_lines(found)
    yield from found_lines(found)
    met, others = found.noticed(among="met"), found.noticed(among="others")
    if met.classes and others.classes:
        who = "1 class has" if met.classes == 1 else f"{met.classes} classes have"
        yield (
            f"           {who} a label in the backbone's pretraining: {whole(met.mean)} %; the "
            f"other {others.classes}: {whole(others.mean)} %"
        )


def neighbor_lines(found: Rehearsal) -> Iterator[str]:
    """Yield how often a class is noticed that is new together with the classes most like it."""
    if not found.beside:
        return
    rate, number = found.noticed(beside=True), len(found.beside[0].together)
    who = "the class" if number == 1 else f"the {number} classes"
    are = "is" if number == 1 else "are"
    yield (
        f"           where {who} most like it {are} not known either: {whole(rate.mean)} % "
        f"[{whole(rate.low)}, {whole(rate.high)}]"
    )


def frozen_lines(told: Deeper) -> Iterator[str]:
    """Yield how well the frozen backbone noticed the classes of the fine-tuned one's fold."""
    if told.frozen_noticed is not None:
        yield (
            f"           the frozen backbone noticed {whole(told.frozen_noticed)} % of the images "
            f"of these {len(told.new)} classes, each new alone"
        )


def found_lines(found: Rehearsal) -> Iterator[str]:
    """Yield for how many classes a new class's images are found as one cluster of the pool.

    Where no class has 30 images, or too few false alarms lie in the pool, it is asked of 10.
    """
    for images in FOUND:
        hits = found.found(images)
        if hits.tried:
            yield (
                f"           {images} images of a new class are found as one cluster for "
                f"{hits.hits} of the {hits.tried} classes that could be tried "
                f"[{short(hits.low)}, {short(hits.high)}]"
            )
            return


def short(value: float) -> str:
    """Return a ratio with two decimals, without the zero in front.

    Example:
        >>> short(0.546), short(1.0)
        ('.55', '1.00')
    """
    return f"{value:.2f}".removeprefix("0")


def whole(value: float) -> str:
    """Return a share in percent, without decimals.

    Example:
        >>> whole(0.874), whole(1.0)
        ('87', '100')
    """
    return f"{100 * value:.0f}"
