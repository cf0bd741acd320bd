"""Markdown page of a reproduced table, our mean and interval beside the published value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.records import interval
from orchestrator.tables.schema import Cell

if TYPE_CHECKING:
    from orchestrator.records import Interval
    from orchestrator.tables.schema import Row, Table
    from orchestrator.tables.table_record import TableRecord

NOTHING = "–"
FLAG = "⚑"
NO_CELL = Cell()


def render(table: Table, record: TableRecord) -> str:
    """Return the page as Markdown; a cell without a run shows a dash."""
    parts = [_head(table, record), _agreement(table, record)]
    parts += [_column(table, record, factor) for factor in table.factors]
    parts += [_order(table, record), _cost(record), _failures(record)]
    return "\n".join(part for part in parts if part)


def _head(table: Table, record: TableRecord) -> str:
    """Return the title, the protocol, and the environment."""
    published = table.protocol == "published"
    protocol = (
        f"The recipes use the published setting. {FLAG} marks a published value that is more than "
        f"{table.tolerance:g} points outside our interval; of several published values the range "
        "counts. A row that departs from the published setting says how, and is not judged."
        if published
        else "**The recipes are shortened and differ from the published setting.** The published "
        "values are for orientation; a difference is no evidence for or against a method."
    )
    machine = ", ".join(f"{name} {value}" for name, value in record.machine.items() if value)
    others = sorted({c.commit for c in record.cells} - {record.machine.get("commit", ""), ""})
    if others:
        machine += f"; some cells were run at commit {', '.join(others)}"
    return (
        f'# {table.title}\n\n{protocol} The column "ours" is the mean over seeds of '
        f"`{table.metric}` in percent, with its 95 % t-interval. The difference is ours minus the "
        "nearest published value.\n\n"
        f"Written by `orchestrator reproduce {table.name}`; {machine}.\n"
    )


def _column(table: Table, record: TableRecord, factor: str) -> str:
    """Return the table of one factor."""
    lines = [
        f"## {factor}\n",
        "| method | seeds | ours | 95 % interval | published | difference | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        cell = row.cells.get(factor, NO_CELL)
        ours = measured(record, table.metric, row.name, factor)
        published = " / ".join(f"{figure:.2f}" for figure in cell.published) or NOTHING
        apart = NOTHING
        if ours is not None and cell.published:
            apart = _difference(table, row, ours, cell)
        departs = f"departs: {row.departs}" if row.departs else ""
        source = "; ".join(part for part in (cell.source, row.note, departs) if part)
        lines.append(
            f"| {row.name} | {' | '.join(_shown(ours))} | {published} | {apart} | {source} |"
        )
    return "\n".join([*lines, ""])


def measured(record: TableRecord, metric: str, row: str, factor: str) -> Interval | None:
    """Return a row's mean and interval in percent over the finished seeds; ``None`` without any."""
    values = [100 * value for value in _by_seed(record, metric, row, factor).values()]
    return interval(values) if values else None


def _shown(found: Interval | None) -> tuple[str, str, str]:
    """Return the number of seeds, the mean, and the interval of two seeds or more, as text."""
    if found is None:
        return "0", NOTHING, NOTHING
    count = len(found.values)
    ends = NOTHING if count == 1 else f"{found.low:.2f} to {found.high:.2f}"
    return str(count), f"{found.mean:.2f}", ends


def _difference(table: Table, row: Row, ours: Interval, cell: Cell) -> str:
    """Return the difference from the nearest published value, with a flag if they disagree."""
    apart = ours.mean - min(cell.published, key=lambda figure: abs(figure - ours.mean))
    apart_too_far = judged(table, row) and not agrees(table, ours, cell)
    return f"**{apart:+z.2f} {FLAG}**" if apart_too_far else f"{apart:+z.2f}"


def judged(table: Table, row: Row) -> bool:
    """Return True if a row runs in the published setting, so that a difference is meaningful."""
    return table.protocol == "published" and not row.departs


def agrees(table: Table, ours: Interval, cell: Cell) -> bool:
    """Return True if the range of published values is within the tolerance of our interval."""
    # 1e-9: a difference that equals the tolerance agrees, however it is rounded
    reach = table.tolerance + 1e-9
    return min(cell.published) <= ours.high + reach and ours.low - reach <= max(cell.published)


def _agreement(table: Table, record: TableRecord) -> str:
    """Return the number of cells that agree with their published values, and name the others."""
    compared, apart = 0, []
    for factor in table.factors:
        for row in (row for row in table.rows if judged(table, row)):
            cell = row.cells.get(factor, NO_CELL)
            ours = measured(record, table.metric, row.name, factor)
            if ours is None or not cell.published:
                continue
            compared += 1
            if not agrees(table, ours, cell):
                apart.append(f"{row.name} at {factor}")
    if not compared:
        return ""
    named = f"; {FLAG} {', '.join(apart)}" if apart else ""
    met = f"**{compared - len(apart)} of {compared} cells agree with the published values{named}.**"
    return f"{met} Intervals over few seeds are wide, so agreement is weak evidence.\n"


def _order(table: Table, record: TableRecord) -> str:
    """Return which expected orders hold for the means, and in how many common seeds."""
    lines, holding = [], 0
    for factor in table.factors:
        for lower, higher in table.expected():
            pair = [measured(record, table.metric, name, factor) for name in (lower, higher)]
            if pair[0] is None or pair[1] is None:
                continue
            below, above = pair[0].mean, pair[1].mean
            holding += below < above
            word = "holds" if below < above else "**does not hold**"
            lines.append(
                f"- {factor}: {lower} < {higher} {word} ({below:.2f}, {above:.2f}"
                f"{_seeds_that_hold(table, record, factor, (lower, higher))})"
            )
    if not lines:
        return ""
    total = f"{holding} of {len(lines)} expected orders hold for the means.\n"
    return "\n".join(["## Expected order\n", total, *lines, ""])


def _seeds_that_hold(table: Table, record: TableRecord, factor: str, pair: tuple[str, str]) -> str:
    """Return in how many common seeds the second row is above the first, if there are several."""
    lower, higher = (_by_seed(record, table.metric, name, factor) for name in pair)
    both = lower.keys() & higher.keys()
    if len(both) < 2:
        return ""
    return f"; in {sum(lower[seed] < higher[seed] for seed in both)} of {len(both)} seeds"


def _by_seed(record: TableRecord, metric: str, row: str, factor: str) -> dict[int, float]:
    """Return a row's values by seed."""
    return {
        cell.seed: cell.metrics[metric]
        for cell in record.cells
        if (cell.row, cell.factor) == (row, factor) and metric in cell.metrics
    }


def _cost(record: TableRecord) -> str:
    """Return the computing time of each stage, and how often its results were used."""
    uses = [use for cell in record.cells for use in cell.stages]
    if not uses:
        return ""
    lines = ["## Cost\n", "| stage | used | distinct | seconds |", "|---|---|---|---|"]
    for stage in dict.fromkeys(use.stage for use in uses):
        mine = [use for use in uses if use.stage == stage]
        distinct = {use.key: use.seconds for use in mine}
        seconds = math.fsum(distinct.values())
        lines.append(f"| {stage} | {len(mine)} | {len(distinct)} | {seconds:.0f} |")
    return "\n".join([*lines, ""])


def _failures(record: TableRecord) -> str:
    """Return a list of the failed runs with their errors."""
    lines = [
        f"- {cell.row}, {cell.factor}, seed {cell.seed}: {cell.error}"
        for cell in record.cells
        if cell.error is not None
    ]
    return "\n".join(["## Failed runs\n", *lines, ""]) if lines else ""
