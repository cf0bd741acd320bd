"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.options import remedies
from orchestrator.registry.verdicts import summary

if TYPE_CHECKING:
    from orchestrator.cli.catalog import Row
    from orchestrator.records import PromotionRecord, SweepRecord
    from trainables.data.look import Look

MOST_CLASSES = 12  # of the largest and of the smallest classes that a table shows


def plan_table(rows: Iterable[Sequence[str]]) -> Table:
    """Return a plan as a table: each stage with its inputs, outputs and methods."""
    table = Table(title="plan", title_justify="left")
    for name, style in (
        ("stage", "bold"),
        ("inputs", ""),
        ("outputs", "green"),
        ("methods", "cyan"),
    ):
        table.add_column(name, style=style, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def data_table(found: Look) -> Padding:
    """Return the classes of a source, largest first: images, what each plays, trained on."""
    table = Table(box=None, pad_edge=False)
    for name in ("class", "plays", "train", "test", "trained on"):
        table.add_column(name, style="bold" if name == "class" else "", overflow="fold")
    rows = sorted(found.classes, key=lambda row: (-row.train, row.name))
    hidden = len(rows) - 2 * MOST_CLASSES
    for number, row in enumerate(rows):
        if hidden > 1 and number == MOST_CLASSES:
            table.add_row(f"... {hidden} more")
        if hidden <= 1 or not MOST_CLASSES <= number < MOST_CLASSES + hidden:
            trained = "" if row.trained is None else str(row.trained)
            table.add_row(Text(row.name), row.plays, str(row.train), str(row.test), trained)
    return Padding(table, (0, 0, 0, 2))


def methods_table(rows: Iterable[Row]) -> Table:
    """Return all methods, one line each."""
    table = Table(title="methods", title_justify="left")
    for name, style in (("kind", "dim"), ("name", "bold"), ("summary", ""), ("settings", "cyan")):
        table.add_column(name, style=style, overflow="fold", no_wrap=name == "name")
    for row in rows:
        settings = ", ".join(f"{p.name}={p.default}" for p in row.parameters)
        table.add_row(row.kind, row.name, row.summary, settings)
    return table


def methods_details(rows: Iterable[Row]) -> Group:
    """Return methods with every hyper-parameter and their source."""
    parts: list[Text | Padding] = []
    for row in rows:
        note = "  (an upper bound, which promotion refuses)" if row.oracle else ""
        parts.append(Text.assemble((row.name, "bold"), (note, "yellow")))
        parts.append(Padding(Text(row.summary), (0, 0, 0, 2)))
        if row.parameters:
            parts.append(Padding(_parameters(row), (0, 0, 0, 2)))
        if row.source:
            parts.append(Padding(Text(f"source: {row.source}", style="dim"), (0, 0, 0, 2)))
        parts.append(Text())
    return Group(*parts)


def _parameters(row: Row) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("setting", "allowed", "default", "searched"):
        table.add_column(name, style="cyan" if name == "setting" else "")
    for parameter in row.parameters:
        table.add_row(*parameter)
    return table


def space_text(name: str, description: str) -> Text:
    """Return the name and the description of a search space."""
    return Text.assemble((name, "bold"), f"\n{description}\n")


def versions_table(model: str, rows: Iterable[Sequence[str]]) -> Table:
    """Return a model's versions: number, aliases, and headline metrics."""
    table = Table(title=Text(model), title_justify="left")
    for name in ("version", "alias", "metrics"):
        table.add_column(name, style="bold" if name == "version" else "")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


VERDICT_STYLES = {"passed": "green", "refused": "red", "cannot tell": "yellow", "not asked": "dim"}


def promotion_lines(record: PromotionRecord, storage: str) -> Group:
    """Return the result of the promotion, each gate's decision, and the remedies of a refusal."""
    lines = [
        Text.assemble(
            "  ",
            (f"{gate.verdict:<11}  ", VERDICT_STYLES[gate.verdict]),
            (gate.name, "bold"),
            f"  {gate.text()}",
        )
        for gate in record.gates
    ]
    name = f"version {record.version}" if record.version else "(not registered)"
    result = "is now champion" if record.promoted else "was refused"
    first = Text.assemble((record.model, "bold"), f" {name} {result}: {summary(record)}")
    return Group(first, *lines, *(Text(f"  remedy  {line}") for line in remedies(record, storage)))


def sweeps_table(records: Iterable[SweepRecord]) -> Table:
    """Return finished and running sweeps, one line each."""
    table = Table(title="sweeps", title_justify="left")
    for name in ("name", "space", "started", "trials", "promoted"):
        table.add_column(name, style="bold" if name == "name" else "")
    for record in records:
        done = sum(trial.state == "COMPLETE" for trial in record.trials)
        version = record.promotion.version if record.promotion else None
        promoted = bool(record.promotion and record.promotion.promoted)
        table.add_row(
            Text(record.name),
            Text(record.space),
            Text(record.started[:16].replace("T", " ")),
            f"{done} of {len(record.trials)} complete",
            Text(f"version {version}" if promoted else "no"),
        )
    return table
