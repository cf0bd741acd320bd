"""The catalog of methods."""

import pytest

from orchestrator.cli.catalog import Parameter, render, rows
from trainables.errors import ConfigError
from trainables.methods import KINDS


def test_catalog_has_every_method_once() -> None:
    names = [(row.kind, row.name) for row in rows()]
    assert len(names) == len(set(names)) == sum(len(kind.shelf) for kind in KINDS.values())


def test_row_tells_defaults_bounds_and_ranges() -> None:
    (row,) = [row for row in rows("losses") if row.name == "ldam"]
    found = {p.name: p for p in row.parameters}
    assert found["max_margin"] == Parameter("max_margin", "float > 0, <= 2", "0.5", "0.1 .. 0.8")
    assert found["scale"].searched == ""
    assert "1906.07413" in row.source


def test_upper_bound_is_marked() -> None:
    assert [row.name for row in rows("pseudo_labelers") if row.oracle] == ["oracle"]
    assert render().count("An upper bound") == sum(row.oracle for row in rows())


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'losses'"):
        rows("loses")


def test_page_is_a_table_per_method_with_whole_cells() -> None:
    lines = [line for line in render().splitlines() if line.startswith("|")]
    bars = {line.replace("\\|", "").count("|") for line in lines}
    assert bars == {5}
