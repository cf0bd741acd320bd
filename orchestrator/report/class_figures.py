"""Figures by class: confusion matrix, and accuracy by number of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.report.drawing import BANDS, COLORS, INK, canvas, label, legend_above

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMES = 25  # classes that an axis names
LONGEST_NAME = 16  # characters of a class name on an axis
MOST_LETTERS = 40  # letters that fit side by side below a figure


class FigureSettings(NamedTuple):
    """How a recipe's figures are drawn.

    Args:
        many_above: Classes with more training images are "many".
        few_below: Classes with fewer training images are "few".
        bins: Number of bins of the reliability diagram.
        class_names: Names of the known classes, then of the new ones; without a name, a class has
            its number.
    """

    many_above: int = 100
    few_below: int = 20
    bins: int = 15
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, evaluate: Mapping[str, Any], data: Mapping[str, Any]) -> FigureSettings:
        """Return the settings of a recipe.

        Args:
            evaluate: The recipe's block ``evaluate`` as plain values.
            data: Summary of its views; see `trainables.data.views.Views`.

        Example:
            >>> FigureSettings.of({"many_above": 50}, {"known_class_names": ["cat", "dog"]})
            FigureSettings(many_above=50, few_below=20, bins=15, class_names=('cat', 'dog'))
        """
        names = [*data.get("known_class_names", ()), *data.get("novel_class_names", ())]
        limits = {k: evaluate[k] for k in ("many_above", "few_below", "bins") if k in evaluate}
        return cls(**limits, class_names=tuple(names))

    def names(self, count: int) -> list[str]:
        """Return a name for each of ``count`` classes.

        Example:
            >>> FigureSettings(class_names=("cat",)).names(2)
            ['cat', '1']
        """
        named = [*self.class_names[:count]]
        return named + [str(number) for number in range(len(named), count)]


def confusion_matrix(
    confusion: np.ndarray[Any, Any], names: Sequence[str], *, num_known: int | None = None
) -> Figure:
    """Draw a confusion matrix, normalized by true class; correct cells are blue, others orange.

    Args:
        confusion: Counts ``[C, C]``, or ``[C, C + 1]`` with a last column "no class".
        names: Name of each class ``[C]``.
        num_known: Number of known classes, after which dashed lines are drawn; ``None``: no lines.
    """
    import numpy as np
    from matplotlib.colors import to_rgb

    rows, columns = confusion.shape
    shares = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    image = np.zeros((rows, columns, 4))
    image[..., :3] = to_rgb(COLORS["novel"])
    right = np.arange(min(rows, columns))
    image[right, right, :3] = to_rgb(COLORS["known"])
    # the square root makes rare errors visible beside a strong diagonal
    image[..., 3] = 0.92 * np.sqrt(shares)
    size = float(np.clip(0.34 * rows + 1.2, 3.4, 6.0))
    figure, [axis] = canvas(size * columns / rows, size)
    axis.grid(visible=False)
    axis.imshow(image, interpolation="none", aspect="equal")
    label(axis, "predicted class", "true class")
    if rows <= 12:
        _write_cells(axis, shares)
    if rows <= MOST_NAMES:
        axis.set_yticks(range(rows), _short(names))
        _name_columns(axis, [*_short(names), *["none"] * (columns - rows)])
    if num_known is not None and num_known < rows:
        for line in (axis.axhline, axis.axvline):
            line(num_known - 0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    return figure


def _short(names: Sequence[str]) -> list[str]:
    """Return names that fit on an axis; matplotlib would read text between dollars as a formula."""
    cut = [n if len(n) <= LONGEST_NAME else f"{n[: LONGEST_NAME - 1]}…" for n in names]
    return [name.replace("$", r"\$") for name in cut]


def _name_columns(axis: Axes, names: Sequence[str]) -> None:
    """Name the columns; names that would overlap are written upwards."""
    axis.set_xticks(range(len(names)), names)
    if max(map(len, names), default=0) * len(names) > MOST_LETTERS:
        axis.tick_params(axis="x", labelrotation=90)


def _write_cells(axis: Axes, shares: np.ndarray[Any, Any]) -> None:
    """Write percentages into the cells of at least one percent."""
    for (row, column), share in _cells(shares):
        if share >= 0.01:
            color = "white" if share > 0.45 else INK
            text = f"{100 * share:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=color)


def _cells(table: np.ndarray[Any, Any]) -> Any:
    import numpy as np

    return np.ndenumerate(table)


def band_of(count: int, many_above: int, few_below: int) -> str:
    """Return the band of a class with ``count`` training images.

    Example:
        >>> [band_of(n, 100, 20) for n in (101, 100, 20, 19)]
        ['many', 'medium', 'medium', 'few']
    """
    return "many" if count > many_above else "few" if count < few_below else "medium"


def class_accuracy(
    accuracy: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], settings: FigureSettings
) -> Figure:
    """Draw training images and accuracy of each class, from the largest class to the smallest.

    Args:
        accuracy: Accuracy of each class ``[C]``; NaN for a class without a held-out image.
        counts: Training images per class ``[C]``.
        settings: Bands and class names.
    """
    import numpy as np

    order = np.argsort(-counts, kind="stable")
    sizes, values, x = counts[order], accuracy[order], np.arange(len(order))
    limits = (settings.many_above, settings.few_below)
    bands = np.array([band_of(int(n), *limits) for n in sizes])
    figure, [top, bottom] = canvas(
        7.2, 3.8, 2, sharex=True, gridspec_kw={"height_ratios": [1, 2.2]}
    )
    for band in BANDS:
        here = bands == band
        if not here.any():
            continue
        judged = here & ~np.isnan(values)
        mean = float(values[judged].mean()) if judged.any() else float("nan")
        color = COLORS[band]
        top.bar(x[here], sizes[here], color=color, width=0.82)
        text = f"{mean:.3f}" if judged.any() else "not judged"
        bottom.bar(x[judged], values[judged], color=color, width=0.82, label=f"{band}  {text}")
        ends = (x[here].min() - 0.45, x[here].max() + 0.45)
        bottom.hlines(mean, *ends, color=INK, linewidth=1.2)
    top.set_yscale("log")
    top.yaxis.set_major_formatter("{x:g}")
    top.yaxis.set_minor_formatter("")
    bottom.set_ylim(0, 1)
    label(top, "", "images")
    label(bottom, "class, by training images", "accuracy")
    names = settings.names(len(order))
    if len(x) <= MOST_NAMES:
        _name_columns(bottom, _short([names[c] for c in order]))
    else:
        bottom.set_xticks([])
    legend_above(bottom)
    return figure


class ClassRow(NamedTuple):
    """One class in the report: its band ("new" for a new class) and its results on the test set.

    ``accuracy`` is of the model before the update, ``updated`` after it; ``None`` without a
    held-out image.
    """

    name: str
    band: str
    images: int | None
    accuracy: float | None
    updated: float | None


def class_rows(
    arrays: Mapping[str, np.ndarray[Any, Any]], settings: FigureSettings
) -> list[ClassRow]:
    """Return the classes of an evaluation, the largest known class first, new classes last."""
    if not {"class_accuracy", "class_counts", "updated_confusion"} <= set(arrays):
        return []
    counts, updated = arrays["class_counts"], arrays["updated_confusion"]
    names = settings.names(len(updated))
    rows = []
    for position, name in enumerate(names):
        total = int(updated[position].sum())
        after = float(updated[position, position]) / total if total else None
        if position < len(counts):
            images = int(counts[position])
            band = band_of(images, settings.many_above, settings.few_below)
            before = float(arrays["class_accuracy"][position])
            rows.append(ClassRow(name, band, images, before if before == before else None, after))
        else:
            rows.append(ClassRow(name, "new", None, None, after))
    return sorted(rows, key=lambda row: -(row.images or 0))
