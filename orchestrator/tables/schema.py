"""Schema of tables of published results: rows, factors (columns), seeds, and sources.

A table is a YAML file. Each row changes one base recipe; a cell (row and factor) may change the
recipe further and names the published value. `recipes` returns the recipes of a table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from orchestrator.records import MetricName
from trainables.errors import ConfigError, did_you_mean
from trainables.experiment import Experiment, load_experiment
from trainables.settings import Settings, assign, build, parse_assignments, read_yaml

FOLDER = Path(__file__).parents[2] / "experiments" / "tables"


class Cell(Settings):
    """Cell of a row and a factor.

    ``published`` holds published values in percent: one, or several from different papers.
    """

    published: tuple[float, ...] = ()
    source: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class Row(Settings):
    """Row of one method: its changes of the base recipe and its cells.

    ``experiment`` names another base recipe, for a method with another schedule. ``departs`` says
    how the row differs from the published setting in a way that can change the result; such a row
    is not judged.
    """

    name: str
    experiment: str = ""
    departs: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    cells: dict[str, Cell] = Field(default_factory=dict)
    note: str = ""


class Table(Settings):
    """Table of base recipe, factors (columns), rows, seeds, and expected order of rows.

    ``protocol="shortened"`` says that the recipe differs from the published setting; no row is
    judged then. ``order`` holds texts ``A < B`` with the names of two rows.
    """

    name: str
    title: str
    experiment: str
    protocol: Literal["published", "shortened"] = "published"
    metric: MetricName = "evaluate/accuracy"
    seeds: tuple[int, ...] = (0, 1, 2)
    tolerance: float = Field(default=1.5, gt=0)
    factors: dict[str, dict[str, Any]]
    rows: tuple[Row, ...] = Field(min_length=1)
    order: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> Table:
        """Refuse duplicate row names, and names of unknown rows and factors."""
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rows: duplicate names {', '.join(twice)}")
        for row in self.rows:
            for factor in row.cells:
                if factor not in self.factors:
                    raise ValueError(
                        f"rows: '{row.name}' has a cell for the unknown factor '{factor}'"
                        f"{did_you_mean(factor, self.factors)}"
                    )
        for lower, higher in self.expected():
            for name in (lower, higher):
                if name not in names:
                    raise ValueError(f"order: unknown row '{name}'{did_you_mean(name, names)}")
        return self

    def expected(self) -> list[tuple[str, str]]:
        """Return the expected order as pairs of row names, the worse row first."""
        pairs = []
        for text in self.order:
            lower, sign, higher = (part.strip() for part in text.partition(" < "))
            if not sign:
                raise ValueError(f"order: expected 'A < B'; received '{text}'")
            pairs.append((lower, higher))
        return pairs

    def row(self, name: str) -> Row:
        """Return the row of a name."""
        return next(row for row in self.rows if row.name == name)


class Recipe(NamedTuple):
    """One run of a table."""

    row: str
    factor: str
    seed: int
    experiment: Experiment


class Wanted(NamedTuple):
    """Selection of rows, factors and seeds; an empty field selects all."""

    rows: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def names() -> list[str]:
    """Return the names of the tables in ``experiments/tables``."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_table(name: str) -> tuple[Table, Path]:
    """Return the table of a name or path, and its folder.

    Raises:
        ConfigError: The table does not exist or is invalid.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"unknown table '{name}'; allowed: {', '.join(names())}, or the path of a YAML file"
            f"{did_you_mean(name, names())}"
        )
    try:
        return build(Table, read_yaml(path)), path.parent
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None


def recipes(table: Table, folder: Path, sets: Iterable[str], wanted: Wanted) -> list[Recipe]:
    """Return the runs of a table, ordered by seed, so that the first column is complete early.

    Args:
        table: The table.
        folder: Folder that the paths of base recipes are relative to.
        sets: Texts ``path=value`` that change every run and override all other changes.
        wanted: Selection of rows, factors and seeds.

    Raises:
        ConfigError: A name is unknown, or a setting is invalid; the message names the row.
    """
    chosen = _chosen("row", wanted.rows, [row.name for row in table.rows])
    factors = _chosen("factor", wanted.factors, list(table.factors))
    files = {row.experiment or table.experiment for row in table.rows}
    bases = {file: load_experiment(folder / file) for file in sorted(files)}
    last = parse_assignments(sets)
    found = []
    for seed in wanted.seeds or table.seeds:
        for factor in factors:
            for row in (table.row(name) for name in chosen):
                cell = row.cells.get(factor, Cell())
                changes = (table.factors[factor], row.settings, cell.settings, last)
                base = bases[row.experiment or table.experiment]
                try:
                    experiment = assign(base, _merged(changes) | {"seed": seed})
                except ConfigError as error:
                    raise ConfigError(f"row '{row.name}': {error}") from None
                found.append(Recipe(row.name, factor, seed, experiment))
    return found


def _merged(changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all changes in order; a later change of a path replaces an earlier change."""
    merged: dict[str, Any] = {}
    for part in changes:
        for path, value in part.items():
            merged.pop(
                path, None
            )  # moves the path to the end, because a method must precede its fields
            merged[path] = value
    return merged


def _chosen(what: str, asked: Collection[str], known: list[str]) -> list[str]:
    """Return the requested names in the table's order, or all names if none is requested."""
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"unknown {what} '{name}'; this table has {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
    return [name for name in known if not asked or name in asked]
