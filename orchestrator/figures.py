"""Pictures of one evaluation and of the training before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.drawing import BANDS, COLORS, INK, canvas, label, legend, legend_above, png, svg
from orchestrator.records import StageUse

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Arrays = Mapping[str, np.ndarray[Any, Any]]

__all__ = ["draw_all", "evaluation_figures", "load_arrays", "png", "svg", "training_curves"]

GROUPS = ("known", "novel", "unrelated")


def load_arrays(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a stored evaluation artifact, without loading torch.

    Raises:
        FileNotFoundError: The folder holds no artifact.
    """
    from safetensors.numpy import load_file

    tensors = load_file(folder / "tensors.safetensors")
    return {name.removeprefix("arrays/"): array for name, array in tensors.items()}


def draw_all(folder: Path, uses: Sequence[StageUse] = ()) -> dict[str, bytes]:
    """Return every figure of one evaluation, and of the training before it, as PNG by file name.

    Args:
        folder: A stored evaluation artifact.
        uses: The stages that led to it, with their histories.
    """
    drawn = evaluation_figures(load_arrays(folder))
    histories = {use.stage: use.history for use in uses if use.history}
    drawn |= {f"training_{stage}": training_curves(rows) for stage, rows in histories.items()}
    return {f"{name}.png": png(figure) for name, figure in drawn.items()}


def evaluation_figures(
    arrays: Arrays, *, many_above: int = 100, few_below: int = 20, bins: int = 15
) -> dict[str, Figure]:
    """Return the figures for which an evaluation has the arrays, by name.

    Args:
        arrays: Arrays of an `Evaluation` artifact.
        many_above: Classes with more training images are "many".
        few_below: Classes with fewer training images are "few".
        bins: Number of bins of the reliability diagram.
    """
    figures = {}
    num_known = len(arrays["class_counts"]) if "class_counts" in arrays else None
    for name in ("confusion", "updated_confusion"):
        if name in arrays:
            figures[name] = confusion_matrix(arrays[name], num_known=num_known)
    if {"class_accuracy", "class_counts"} <= set(arrays):
        figures["class_accuracy"] = class_accuracy(
            arrays["class_accuracy"],
            arrays["class_counts"],
            many_above=many_above,
            few_below=few_below,
        )
    if {"confidence_known", "confidence_novel"} <= set(arrays):
        figures["confidence"] = confidence_histograms(
            {k: arrays[f"confidence_{k}"] for k in GROUPS if f"confidence_{k}" in arrays},
            threshold=float(arrays["threshold"]) if "threshold" in arrays else None,
        )
    if {"probability", "correct"} <= set(arrays):
        figures["reliability"] = reliability(arrays["probability"], arrays["correct"], bins=bins)
    return figures


def confusion_matrix(confusion: np.ndarray[Any, Any], *, num_known: int | None = None) -> Figure:
    """Draw rows of true classes as shares of their samples: blue where right, orange where wrong.

    Args:
        confusion: Counts ``[C, C]``, or ``[C, C + 1]`` with a last column "no class".
        num_known: Where lines separate known from new classes; ``None`` or ``C`` draws none.
    """
    import numpy as np
    from matplotlib.colors import to_rgb

    rows, columns = confusion.shape
    shares = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    image = np.zeros((rows, columns, 4))
    image[..., :3] = to_rgb(COLORS["novel"])
    right = np.arange(min(rows, columns))
    image[right, right, :3] = to_rgb(COLORS["known"])
    # The square root makes rare mistakes visible beside a full diagonal.
    image[..., 3] = 0.92 * np.sqrt(shares)
    size = float(np.clip(0.34 * rows + 1.2, 3.4, 6.0))
    figure, [axis] = canvas(size * columns / rows, size)
    axis.grid(visible=False)
    axis.imshow(image, interpolation="none", aspect="equal")
    label(axis, "called", "true class")
    if rows <= 12:
        _write_cells(axis, shares)
    if rows <= 20:
        axis.set_yticks(range(rows))
        names = [str(c) for c in range(rows)] + ["none"] * (columns - rows)
        axis.set_xticks(range(columns), names)
    if num_known is not None and num_known < rows:
        for line in (axis.axhline, axis.axvline):
            line(num_known - 0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    return figure


def _write_cells(axis: Axes, shares: np.ndarray[Any, Any]) -> None:
    """Write percentages into cells that hold at least one percent."""
    for (row, column), share in _cells(shares):
        if share >= 0.01:
            color = "white" if share > 0.45 else INK
            text = f"{100 * share:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=color)


def _cells(table: np.ndarray[Any, Any]) -> Any:
    import numpy as np

    return np.ndenumerate(table)


def band_of(count: int, many_above: int, few_below: int) -> str:
    """Return the band of a class with so many training images.

    Example:
        >>> [band_of(n, 100, 20) for n in (101, 100, 20, 19)]
        ['many', 'medium', 'medium', 'few']
    """
    return "many" if count > many_above else "few" if count < few_below else "medium"


def class_accuracy(
    accuracy: np.ndarray[Any, Any],
    counts: np.ndarray[Any, Any],
    *,
    many_above: int = 100,
    few_below: int = 20,
) -> Figure:
    """Draw each class's training images above its accuracy, from the largest class to the smallest.

    Args:
        accuracy: Share of right answers per class ``[C]``.
        counts: Training images per class ``[C]``.
        many_above: Classes with more are "many".
        few_below: Classes with fewer are "few".
    """
    import numpy as np

    order = np.argsort(-counts, kind="stable")
    sizes, values, x = counts[order], accuracy[order], np.arange(len(order))
    bands = np.array([band_of(int(n), many_above, few_below) for n in sizes])
    figure, [top, bottom] = canvas(
        7.2, 3.8, 2, sharex=True, gridspec_kw={"height_ratios": [1, 2.2]}
    )
    for band in BANDS:
        here = bands == band
        if not here.any():
            continue
        mean = float(values[here].mean())
        color = COLORS[band]
        top.bar(x[here], sizes[here], color=color, width=0.82)
        bottom.bar(x[here], values[here], color=color, width=0.82, label=f"{band}  {mean:.3f}")
        ends = (x[here].min() - 0.45, x[here].max() + 0.45)
        bottom.hlines(mean, *ends, color=INK, linewidth=1.2)
    top.set_yscale("log")
    top.yaxis.set_major_formatter("{x:g}")
    top.yaxis.set_minor_formatter("")
    bottom.set_ylim(0, 1)
    label(top, "", "images")
    label(bottom, "class, by training images", "accuracy")
    bottom.set_xticks(x if len(x) <= 25 else [], [str(c) for c in order] if len(x) <= 25 else [])
    legend_above(bottom)
    return figure


def confidence_histograms(
    groups: Mapping[str, np.ndarray[Any, Any]], *, threshold: float | None = None, bins: int = 40
) -> Figure:
    """Draw how sure the model is of known, novel and unrelated samples, with its threshold.

    Args:
        groups: Confidence ``[N]`` per group; each histogram has area one.
        threshold: Samples below it are called unknown.
        bins: Number of bins over the range that holds 99 % of all samples.
    """
    import numpy as np

    figure, [axis] = canvas(7.2, 3.6)
    finite = {name: v[np.isfinite(v)] for name, v in groups.items()}
    pooled = np.concatenate([v.ravel() for v in finite.values()] or [np.zeros(0)])
    if pooled.size:
        low, high = np.quantile(pooled, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
        for name, values in finite.items():
            if values.size:
                heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
                share = heights / values.size
                color = COLORS.get(name, COLORS["quiet"])
                axis.stairs(share, edges, fill=True, color=color, alpha=0.4)
                axis.stairs(share, edges, color=color, linewidth=1.4, label=name)
    if threshold is not None and np.isfinite(threshold):
        axis.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        axis.annotate(
            "◂ called unknown",
            (threshold, 1.01),
            (-4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8.5,
            color=INK,
        )
    label(axis, "confidence (higher = more surely known)", "share of samples")
    if axis.get_legend_handles_labels()[0]:
        legend(axis)
    return figure


def reliability(
    probability: np.ndarray[Any, Any], correct: np.ndarray[Any, Any], *, bins: int = 15
) -> Figure:
    """Draw accuracy over stated probability; the diagonal is perfect calibration.

    Args:
        probability: Probability of the called class ``[N]``.
        correct: Whether the call was right ``[N]``.
        bins: Number of equal bins; dots grow with the samples in them.
    """
    import numpy as np

    figure, [axis] = canvas(3.6, 3.4)
    axis.plot([0, 1], [0, 1], color=COLORS["quiet"], linewidth=1, linestyle=(0, (4, 3)))
    slot = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(slot, minlength=bins)
    filled = count > 0
    if filled.any():
        mean = np.bincount(slot, probability, bins)[filled] / count[filled]
        right = np.bincount(slot, correct.astype(float), bins)[filled] / count[filled]
        size = 20 + 160 * count[filled] / count.max()
        axis.plot(mean, right, color=COLORS["known"], linewidth=1.2)
        axis.scatter(mean, right, s=size, color=COLORS["known"], alpha=0.75, linewidths=0)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    label(axis, "stated probability", "share right")
    return figure


def training_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw a stage's reports over epochs: losses above, shares between 0 and 1 below.

    Args:
        rows: One mapping per report; ``epoch`` is the place on the x axis.
    """
    # more than two slashes: the settings of single tries, which make no curve
    names = sorted({k for row in rows for k in row if k != "epoch" and k.count("/") < 3})
    series = {
        name: [(row.get("epoch", i), row[name]) for i, row in enumerate(rows) if name in row]
        for name in names
    }
    losses = [n for n in names if "loss" in n.rpartition("/")[2]]
    shares = [
        n
        for n in names
        if n not in losses
        and all(0 <= v <= 1 for _, v in series[n])
        and "lr" not in n.rpartition("/")[2]
    ]
    panels = [(y, group) for y, group in (("loss", losses), ("share", shares)) if group]
    figure, axes = canvas(5.2, 1.9 * max(1, len(panels)) + 0.4, max(1, len(panels)), sharex=True)
    palette = [COLORS[name] for name in ("known", "novel", "unrelated", "few", "medium")]
    for axis, (y, group) in zip(axes, panels, strict=False):
        for position, name in enumerate(group):
            xs, ys = zip(*series[name], strict=True)
            short = name.partition("/")[2] or name
            axis.plot(xs, ys, color=palette[position % len(palette)], linewidth=1.6, label=short)
        label(axis, "", y)
        legend(axis)
    axes[-1].locator_params(axis="x", integer=True)
    label(axes[-1], "epoch", axes[-1].get_ylabel())
    return figure
