"""Figures of one evaluation and of the training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records import StageUse
from orchestrator.report.class_figures import FigureSettings, class_accuracy, confusion_matrix
from orchestrator.report.drawing import (
    COLORS,
    INK,
    canvas,
    label,
    legend,
    png,
    svg,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    Arrays = Mapping[str, np.ndarray[Any, Any]]

__all__ = ["draw_all", "evaluation_figures", "load_arrays", "png", "svg", "training_curves"]

GROUPS = ("known", "novel", "unrelated")


class DamagedArraysError(Exception):
    """A stored evaluation that cannot be read."""


def load_arrays(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a stored evaluation artifact, without loading torch.

    Raises:
        FileNotFoundError: The folder has no artifact.
        DamagedArraysError: The artifact is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(folder / "tensors.safetensors")
    except (SafetensorError, ValueError) as error:
        raise DamagedArraysError(str(error)) from None
    return {name.removeprefix("arrays/"): array for name, array in tensors.items()}


def draw_all(folder: Path, uses: Sequence[StageUse], settings: FigureSettings) -> dict[str, bytes]:
    """Return the figures of one evaluation and its training curves as PNG, by file name.

    Args:
        folder: A stored evaluation artifact.
        uses: Stage results with the training histories.
        settings: Bands, bins and class names of the recipe.
    """
    drawn = evaluation_figures(load_arrays(folder), settings)
    histories = {use.stage: use.history for use in uses if use.history}
    drawn |= {f"training_{stage}": training_curves(rows) for stage, rows in histories.items()}
    return {f"{name}.png": png(figure) for name, figure in drawn.items()}


def evaluation_figures(arrays: Arrays, settings: FigureSettings) -> dict[str, Figure]:
    """Return the figures of an evaluation by name, as far as it has their arrays.

    Args:
        arrays: Arrays of an `Evaluation` artifact.
        settings: Bands, bins and class names of the recipe.
    """
    figures = {}
    num_known = len(arrays["class_counts"]) if "class_counts" in arrays else None
    for name in ("confusion", "updated_confusion"):
        if name in arrays:
            names = settings.names(len(arrays[name]))
            figures[name] = confusion_matrix(arrays[name], names, num_known=num_known)
    if {"class_accuracy", "class_counts"} <= set(arrays):
        figures["class_accuracy"] = class_accuracy(
            arrays["class_accuracy"], arrays["class_counts"], settings
        )
    if {"confidence_known", "confidence_novel"} <= set(arrays):
        figures["confidence"] = confidence_histograms(
            {k: arrays[f"confidence_{k}"] for k in GROUPS if f"confidence_{k}" in arrays},
            threshold=float(arrays["threshold"]) if "threshold" in arrays else None,
        )
    if {"probability", "correct"} <= set(arrays):
        figures["reliability"] = reliability(
            arrays["probability"], arrays["correct"], bins=settings.bins
        )
    return figures


def confidence_histograms(
    groups: Mapping[str, np.ndarray[Any, Any]], *, threshold: float | None = None, bins: int = 40
) -> Figure:
    """Draw histograms of the confidence of known, novel and unrelated samples.

    Args:
        groups: Confidence ``[N]`` per group; the bars of each group sum to one.
        threshold: Confidence below which a sample is called unknown; drawn as a line.
        bins: Number of bins over the range of the central 99 % of all samples.
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
    label(axis, "confidence (higher = more likely known)", "fraction of samples")
    if axis.get_legend_handles_labels()[0]:
        legend(axis)
    return figure


def reliability(
    probability: np.ndarray[Any, Any], correct: np.ndarray[Any, Any], *, bins: int = 15
) -> Figure:
    """Draw a reliability diagram, accuracy over predicted probability.

    Args:
        probability: Probability of the predicted class ``[N]``.
        correct: Whether the prediction is correct ``[N]``.
        bins: Number of bins ``(low, high]`` of equal width, as in the calibration error; the area
            of a dot grows with the samples in its bin.
    """
    import numpy as np

    figure, [axis] = canvas(3.6, 3.4)
    axis.plot([0, 1], [0, 1], color=COLORS["quiet"], linewidth=1, linestyle=(0, (4, 3)))
    slot = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability)
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
    label(axis, "predicted probability", "accuracy")
    return figure


def training_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw a stage's reports over epochs, losses above and metrics between 0 and 1 below.

    Args:
        rows: One mapping per report; ``epoch`` is the x value.
    """
    # names with more than two slashes are of tuned candidates, whose values make no curve
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
    panels = [(y, group) for y, group in (("loss", losses), ("fraction", shares)) if group]
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
