"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from orchestrator.catalog import Row
    from orchestrator.records import PromotionRecord, SweepRecord


def console() -> Console:
    """Return a console on standard output; wide enough for a table when it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=140)


def plan_table(rows: Iterable[Sequence[str]]) -> Table:
    """Return the wiring of a plan: stage, what it takes, what it gives, which methods."""
    table = Table(title="plan", title_justify="left")
    for name, style in (("stage", "bold"), ("takes", ""), ("gives", "green"), ("methods", "cyan")):
        table.add_column(name, style=style, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


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
        note = "  (an upper bound: refused by promotion)" if row.oracle else ""
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
    """Return what a search space varies, and why."""
    return Text.assemble((name, "bold"), f"\n{description}\n")


def versions_table(model: str, rows: Iterable[Sequence[str]]) -> Table:
    """Return a model's versions: number, aliases, and headline metrics."""
    table = Table(title=model, title_justify="left")
    for name in ("version", "alias", "metrics"):
        table.add_column(name, style="bold" if name == "version" else "")
    for row in rows:
        table.add_row(*row)
    return table


def promotion_lines(record: PromotionRecord) -> Group:
    """Return the gates' words and what became of the challenger."""
    mark = {True: Text("pass ", style="green"), False: Text("fail ", style="red")}
    lines = [
        Text.assemble("  ", mark[gate.passed], (gate.name, "bold"), f"  {gate.reason}")
        for gate in record.gates
    ]
    name = f"version {record.version}" if record.version else "not registered"
    fate = "is now champion" if record.promoted else "refused"
    return Group(Text.assemble((record.model, "bold"), f": {name}, {fate}"), *lines)


def sweeps_table(records: Iterable[SweepRecord]) -> Table:
    """Return finished and running sweeps, one line each."""
    table = Table(title="sweeps", title_justify="left")
    for name in ("name", "study", "started", "trials", "promoted"):
        table.add_column(name, style="bold" if name == "name" else "")
    for record in records:
        done = sum(trial.state == "COMPLETE" for trial in record.trials)
        version = record.promotion.version if record.promotion else None
        promoted = bool(record.promotion and record.promotion.promoted)
        table.add_row(
            record.name,
            record.study,
            record.started[:16].replace("T", " "),
            f"{done} of {len(record.trials)} complete",
            f"version {version}" if promoted else "no",
        )
    return table
