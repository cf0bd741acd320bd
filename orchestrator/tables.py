"""Tables of published results: rows, the factors they were published for, seeds, and sources.

A table is a YAML file. Each row is a change of one base recipe; a cell of row and factor may change
it further and names the published figure. `recipes` turns a table into the recipes to run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from trainables.errors import ConfigError, did_you_mean
from trainables.experiment import Experiment, load_experiment
from trainables.settings import Settings, assign, build, parse_assignments, read_yaml

FOLDER = Path(__file__).parent.parent / "experiments" / "tables"


class Cell(Settings):
    """What a row has for one factor.

    ``published`` holds one figure or several (other people's runs of the same method), in percent.
    """

    published: tuple[float, ...] = ()
    source: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class Row(Settings):
    """One method: what it changes in the base recipe, and what was published for it.

    ``experiment`` names another recipe to start from, where a method has a schedule of its own.
    ``departs`` says how the row differs from the published setting, in something that matters: its
    figures then stand side by side without a verdict.
    """

    name: str
    experiment: str = ""
    departs: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    cells: dict[str, Cell] = Field(default_factory=dict)
    note: str = ""


class Table(Settings):
    """A table: base recipe, factors (columns), rows, seeds, and the order that is expected.

    ``protocol="shortened"`` says that the recipe is not the published one: figures then stand side
    by side without a verdict. ``order`` holds texts ``A < B`` of rows' names.
    """

    name: str
    title: str
    experiment: str
    protocol: Literal["published", "shortened"] = "published"
    metric: str = "evaluate/accuracy"
    seeds: tuple[int, ...] = (0, 1, 2)
    tolerance: float = Field(default=1.5, gt=0)
    factors: dict[str, dict[str, Any]]
    rows: tuple[Row, ...] = Field(min_length=1)
    order: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> Table:
        """Refuse names that stand for nothing, or for two things."""
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rows: two rows are called {', '.join(twice)}")
        for row in self.rows:
            for factor in row.cells:
                if factor not in self.factors:
                    raise ValueError(
                        f"rows: '{row.name}' has a cell for '{factor}', which is no factor"
                        f"{did_you_mean(factor, self.factors)}"
                    )
        for lower, higher in self.expected():
            for name in (lower, higher):
                if name not in names:
                    raise ValueError(f"order: no row is called '{name}'{did_you_mean(name, names)}")
        return self

    def expected(self) -> list[tuple[str, str]]:
        """Return the expected order as pairs of rows: the first is worse than the second."""
        pairs = []
        for text in self.order:
            lower, sign, higher = (part.strip() for part in text.partition(" < "))
            if not sign:
                raise ValueError(f"order: is written 'A < B'; received '{text}'")
            pairs.append((lower, higher))
        return pairs

    def row(self, name: str) -> Row:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)


class Recipe(NamedTuple):
    """One run of a table."""

    row: str
    factor: str
    seed: int
    experiment: Experiment


class Wanted(NamedTuple):
    """The part of a table that is run; empty: all of it."""

    rows: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


def names() -> list[str]:
    """Return the names of the tables that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_table(name: str) -> tuple[Table, Path]:
    """Read a table by its name or path; return it with its folder.

    Raises:
        ConfigError: There is no such table, or something in it is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"no table '{name}'; there are {', '.join(names())}, or give a file's path"
            f"{did_you_mean(name, names())}"
        )
    try:
        return build(Table, read_yaml(path)), path.parent
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None


def recipes(table: Table, folder: Path, sets: Iterable[str], wanted: Wanted) -> list[Recipe]:
    """Return the runs of a table: seed by seed, so that one whole column is there early.

    Args:
        table: The table.
        folder: Where its base recipe's path starts.
        sets: Texts ``path=value`` that change every run, and win.
        wanted: Which part of it.

    Raises:
        ConfigError: A name is unknown or a setting is wrong; the line names the row.
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
    """Return all changes in order; a later one of the same path takes the earlier one's place."""
    merged: dict[str, Any] = {}
    for part in changes:
        for path, value in part.items():
            merged.pop(path, None)  # so that it comes last: a method is named before its fields
            merged[path] = value
    return merged


def _chosen(what: str, asked: Collection[str], known: list[str]) -> list[str]:
    """Return the asked names in the table's order, or all."""
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"no {what} '{name}' in this table; there are {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
    return [name for name in known if not asked or name in asked]
