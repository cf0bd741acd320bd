"""Figures of a sweep: optimization history, Pareto front, importances, results by method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from orchestrator.records import Interval, Objective
from orchestrator.report.drawing import BANDS, COLORS, INK, canvas, label, legend_above
from orchestrator.report.summary import MethodResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def short(metric: str) -> str:
    """Return a metric's name without the stage that every objective shares.

    Example:
        >>> short("evaluate/accuracy/few")
        'accuracy/few'
    """
    return metric.removeprefix("evaluate/")


def optimization_history(
    points: Sequence[tuple[int, float, bool]], objective: Objective, best: int | None = None
) -> Figure:
    """Draw each trial's objective and the best so far.

    Args:
        points: Number, value, and whether the trial completed.
        objective: Metric and direction.
        best: Number of the trial to mark.
    """
    figure, [axis] = canvas(7.2, 3.9)
    pick = max if objective.mode == "max" else min
    complete = sorted((n, v) for n, v, done in points if done)
    stopped = [(n, v) for n, v, done in points if not done]
    if complete:
        numbers, values = zip(*complete, strict=True)
        sofar = [pick(values[: i + 1]) for i in range(len(values))]
        axis.step(numbers, sofar, where="post", color=COLORS["novel"], label="best so far")
        axis.scatter(numbers, values, s=26, color=COLORS["known"], linewidths=0, label="trial")
        for number, value in complete:
            if number == best:
                axis.scatter([number], [value], s=150, marker="*", color=COLORS["novel"], zorder=3)
    if stopped:
        xs, ys = zip(*stopped, strict=True)
        axis.scatter(xs, ys, s=22, marker="x", color=COLORS["quiet"], label="stopped early")
    if complete or stopped:
        legend_above(axis)
    axis.locator_params(axis="x", integer=True)
    label(axis, "trial", short(objective.metric))
    return figure


def pareto(
    points: Sequence[tuple[int, float, float]],
    front: Sequence[bool],
    objectives: Sequence[Objective],
    best: int | None = None,
) -> Figure:
    """Draw two objectives against each other, with their Pareto front.

    Args:
        points: Number and both values of each completed trial.
        front: Which of them are on the front.
        objectives: The two objectives.
        best: Number of the trial to mark.
    """
    figure, [axis] = canvas(5.2, 4.0)
    axis.grid(axis="x", color=INK, alpha=0.12, linewidth=0.7)
    on = sorted((x, y, n) for (n, x, y), here in zip(points, front, strict=True) if here)
    off = [(x, y) for (_, x, y), here in zip(points, front, strict=True) if not here]
    if off:
        axis.scatter(
            [x for x, _ in off],
            [y for _, y in off],
            s=24,
            color=COLORS["quiet"],
            alpha=0.7,
            linewidths=0,
        )
    if on:
        xs, ys = [x for x, _, _ in on], [y for _, y, _ in on]
        # the steps pass through dominated points, because no trial lies between two points
        where: Literal["pre", "post"] = "pre" if objectives[0].mode == "max" else "post"
        axis.step(xs, ys, where=where, color=COLORS["known"], linewidth=1.2, alpha=0.7)
        axis.scatter(xs, ys, s=46, color=COLORS["known"], linewidths=0, zorder=3)
        for x, y, number in on:
            if number == best:
                axis.scatter([x], [y], s=190, marker="*", color=COLORS["novel"], zorder=4)
            axis.annotate(
                str(number), (x, y), (5, 5), textcoords="offset points", fontsize=8, color=INK
            )
    arrows = ["→ better" if o.mode == "max" else "← better" for o in objectives[:2]]
    label(
        axis,
        f"{short(objectives[0].metric)}  {arrows[0]}",
        f"{short(objectives[1].metric)}  {arrows[1]}",
    )
    return figure


def importance_bars(shares: Mapping[str, float], *, most: int = 12) -> Figure:
    """Draw the largest permutation importances as bars, largest on top."""
    names = list(shares)[:most][::-1]
    figure, [axis] = canvas(4.3, 0.32 * len(names) + 0.6)
    axis.grid(visible=False)
    axis.barh(range(len(names)), [shares[n] for n in names], color=COLORS["known"], height=0.66)
    for position, name in enumerate(names):
        axis.annotate(
            f"{100 * shares[name]:.0f} %",
            (shares[name], position),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    axis.set_yticks(range(len(names)), names)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    return figure


def method_strip(group: MethodResults, objective: Objective, limits: tuple[float, float]) -> Figure:
    """Draw every trial's result in the row of its method, with each method's mean.

    Args:
        group: Results by method of one setting.
        objective: Metric of the results.
        limits: Ends of the x axis, the same for all settings of a sweep.
    """
    names = [f"{method}  ({len(values)})" for method, values in group.methods.items()]
    figure, [axis] = canvas(4.3, 0.3 * len(names) + 0.9)
    axis.grid(axis="x", color=INK, alpha=0.12, linewidth=0.7)
    for position, values in enumerate(group.methods.values()):
        mean = sum(values) / len(values)
        places = [position] * len(values)
        axis.scatter(values, places, s=28, color=COLORS["known"], alpha=0.5, lw=0)
        axis.vlines(mean, position - 0.36, position + 0.36, color=COLORS["novel"], lw=2.2)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.locator_params(axis="x", nbins=5)
    room = 0.03 * (limits[1] - limits[0] or 1.0)
    axis.set_xlim(limits[0] - room, limits[1] + room)
    label(axis, short(objective.metric))
    return figure


def intervals(rows: Mapping[str, Interval], metric: str) -> Figure:
    """Draw mean, 95 % interval and the values of all seeds, one row per name."""
    figure, [axis] = canvas(4.3, max(2.4, 0.5 * len(rows) + 0.8))
    axis.grid(visible=False)
    axis.grid(axis="x", color=INK, alpha=0.12, linewidth=0.7)
    for position, interval in enumerate(rows.values()):
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            axis.hlines(position, interval.low, interval.high, color=COLORS["known"], lw=2.4)
        axis.scatter(
            interval.values,
            [position] * len(interval.values),
            s=30,
            facecolors="none",
            edgecolors=INK,
            linewidths=0.9,
            zorder=3,
        )
        axis.scatter([interval.mean], [position], s=64, color=COLORS["known"], lw=0, zorder=4)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.locator_params(axis="x", nbins=6)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    label(axis, metric)
    return figure


def band_bars(rows: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Draw the accuracy by band (many, medium, few), one group of bars per name."""
    figure, [axis] = canvas(4.3, 2.6)
    width = 0.26
    for offset, band in enumerate(BANDS):
        found = [(i, row[band]) for i, row in enumerate(rows.values()) if band in row]
        if not found:
            continue
        xs = [i + (offset - 1) * (width + 0.02) for i, _ in found]
        heights = [interval.mean for _, interval in found]
        axis.bar(xs, heights, width, color=COLORS[band], label=band)
        for x, (_, interval) in zip(xs, found, strict=True):
            if interval.high > interval.low:
                axis.vlines(x, max(0, interval.low), min(1, interval.high), color=INK, lw=1)
            top = max(interval.mean, min(1, interval.high)) + 0.015
            axis.text(x, top, f"{interval.mean:.2f}", ha="center", fontsize=8, color=INK)
    axis.set_xticks(range(len(rows)), list(rows))
    axis.set_ylim(0, 1.06)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    label(axis, "", "accuracy")
    legend_above(axis)
    return figure
