"""The page of a reproduced table: our mean and interval beside the published figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.finalists import interval

if TYPE_CHECKING:
    from orchestrator.records import Interval
    from orchestrator.reproduce import TableRecord
    from orchestrator.tables import Cell, Table

NOTHING = "–"


def render(table: Table, record: TableRecord) -> str:
    """Return the page as Markdown; cells without a run are left open."""
    parts = [_head(table, record)]
    parts += [_column(table, record, factor) for factor in table.factors]
    parts += [_order(table, record), _cost(record), _failures(record)]
    return "\n".join(part for part in parts if part)


def _head(table: Table, record: TableRecord) -> str:
    """Return title, protocol and machine."""
    published = table.protocol == "published"
    protocol = (
        f"The published setting. A difference of more than {table.tolerance:g} points from every "
        "published figure is flagged."
        if published
        else "**A shortened recipe, not the published setting:** published figures stand beside "
        "ours for orientation, and a difference says nothing about either."
    )
    machine = ", ".join(f"{name} {value}" for name, value in record.machine.items())
    others = sorted({c.commit for c in record.cells} - {record.machine.get("commit", ""), ""})
    if others:
        machine += f"; some cells are from commit {', '.join(others)}"
    return (
        f"# {table.title}\n\n{protocol} Ours: mean over seeds in percent, ± half the width of the "
        f"95 % t-interval, number of seeds; metric `{table.metric}`.\n\n"
        f"Written by `orchestrator reproduce {table.name}`; {machine}.\n"
    )


def _column(table: Table, record: TableRecord, factor: str) -> str:
    """Return the table of one factor."""
    lines = [
        f"## {factor}\n",
        "| method | ours | published | difference | source |",
        "|---|---|---|---|---|",
    ]
    for row in table.rows:
        cell = row.cells.get(factor)
        ours = measured(record, table.metric, row.name, factor)
        shown = NOTHING if ours is None else _shown(ours)
        if cell is None or not cell.published:
            lines.append(f"| {row.name} | {shown} | {NOTHING} | {NOTHING} | {row.note} |")
            continue
        figures = " / ".join(f"{figure:g}" for figure in cell.published)
        apart = NOTHING if ours is None else _difference(table, ours.mean, cell)
        source = "; ".join(part for part in (cell.source, row.note) if part)
        lines.append(f"| {row.name} | {shown} | {figures} | {apart} | {source} |")
    return "\n".join([*lines, ""])


def measured(record: TableRecord, metric: str, row: str, factor: str) -> Interval | None:
    """Return a row's mean and interval in percent, over the seeds that ran; ``None``: no seed."""
    values = [
        100 * cell.metrics[metric]
        for cell in record.cells
        if (cell.row, cell.factor) == (row, factor) and metric in cell.metrics
    ]
    return interval(values) if values else None


def _shown(found: Interval) -> str:
    """Return mean, half width and number of seeds; one seed has no width."""
    count = len(found.values)
    if count == 1:
        return f"{found.mean:.2f} (1 seed)"
    return f"{found.mean:.2f} ± {found.high - found.mean:.2f} ({count} seeds)"


def _difference(table: Table, mean: float, cell: Cell) -> str:
    """Return the difference from the nearest published figure, and whether it is too large."""
    nearest = min(cell.published, key=lambda figure: abs(figure - mean))
    apart = mean - nearest
    if table.protocol == "shortened":
        return f"{apart:+.2f}"
    within = min(cell.published) - table.tolerance <= mean <= max(cell.published) + table.tolerance
    return f"{apart:+.2f}" if within else f"**{apart:+.2f} ⚑**"


def _order(table: Table, record: TableRecord) -> str:
    """Say which expected orders hold, on the means."""
    lines = []
    for factor in table.factors:
        for lower, higher in table.expected():
            pair = [measured(record, table.metric, name, factor) for name in (lower, higher)]
            if pair[0] is None or pair[1] is None:
                continue
            below, above = pair[0].mean, pair[1].mean
            word = "holds" if below < above else "**does not hold**"
            lines.append(f"- {factor}: {lower} < {higher} {word} ({below:.2f}, {above:.2f})")
    return "\n".join(["## Expected order\n", *lines, ""]) if lines else ""


def _cost(record: TableRecord) -> str:
    """Say what was trained, how often it was used, and how long that takes."""
    uses = [use for cell in record.cells for use in cell.stages]
    if not uses:
        return ""
    lines = ["## Cost\n", "| stage | asked for | distinct | seconds |", "|---|---|---|---|"]
    for stage in dict.fromkeys(use.stage for use in uses):
        mine = [use for use in uses if use.stage == stage]
        distinct = {use.key: use.seconds for use in mine}
        seconds = math.fsum(distinct.values())
        lines.append(f"| {stage} | {len(mine)} | {len(distinct)} | {seconds:.0f} |")
    return "\n".join([*lines, ""])


def _failures(record: TableRecord) -> str:
    """Name the runs that failed."""
    lines = [
        f"- {cell.row}, {cell.factor}, seed {cell.seed}: {cell.error}"
        for cell in record.cells
        if cell.error is not None
    ]
    return "\n".join(["## Failed\n", *lines, ""]) if lines else ""
